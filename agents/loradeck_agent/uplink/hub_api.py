"""The hub's HTTP calls that an agent makes: manifests and blobs down, results and attestations up."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from pydantic import ConfigDict, TypeAdapter, ValidationError

from loradeck.schemas.answer_ledger import SegmentKept
from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.schemas.manifest import AdapterManifest, AdapterVersion, DatasetManifest, FileEntry, SuiteManifest
from loradeck.schemas.membership import RENEW_PATH, Joined
from loradeck.schemas.protocol import ROWS, SIGNED_URLS
from loradeck.schemas.responses import DatasetEntry, ReleaseDetail, SuiteEntry
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.host.http_client import CHUNK, Endpoint, HttpClient, Reply, problem_of
from loradeck_agent.host.identity import Login

CALL_S = 15.0
BLOB_S = 1800.0


_attestations = TypeAdapter(tuple[Attestation, ...])

_SELDOM = ConfigDict(defer_build=True)
"""Has pydantic build a validator at its first use: datasets, adapter versions and suites are read by jobs alone."""

_datasets = TypeAdapter(tuple[DatasetEntry, ...], config=_SELDOM)
_versions = TypeAdapter(tuple[AdapterVersion, ...], config=_SELDOM)
_suites = TypeAdapter(tuple[SuiteEntry, ...], config=_SELDOM)


class HubApi:
    """Calls as this node. `login` is asked at each of them, and connections are opened anew when it has changed.

    Raises `Unreachable`, or AgentError with the hub's problem code.
    """

    def __init__(self, config: AgentConfig, login: Callable[[], Login]) -> None:
        self.url = config.hub
        self._login = login
        self._client: tuple[str, Login, HttpClient] | None = None

    @property
    def _http(self) -> HttpClient:
        login = self._login()
        if self._client is None or self._client[0] != self.url or self._client[1] is not login:
            self.close()
            endpoint = Endpoint.of_url(self.url, login.tls, login.server)
            client = HttpClient(endpoint, {**login.headers, "accept": "application/json"})
            self._client = (self.url, login, client)
        return self._client[2]

    async def _ok(self, method: str, path: str, body: bytes | None = None, *, timeout: float = CALL_S) -> bytes:
        """The body of a successful answer."""
        return checked(await self._http.call(method, path, body, timeout=timeout)).body

    def use(self, url: str) -> None:
        """Makes its calls to the hub at this address from now on."""
        self.url = url

    def close(self) -> None:
        """Closes the connections; the next call opens one."""
        if self._client is not None:
            self._client[2].close()

    async def renew(self) -> Joined:
        """A new certificate for this node's key."""
        return Joined.model_validate_json(await self._ok("POST", RENEW_PATH))

    async def release(self, release: str) -> ReleaseDetail:
        """A release and its adapter's manifest.

        Raises: AgentError: `path_traversal` or `bad_manifest` when the document is not acceptable.
        """
        found = await self._ok("GET", f"/v1/releases/{release}")
        try:
            return ReleaseDetail.model_validate_json(found)
        except ValidationError as error:
            first = error.errors()[0]
            leaves = "path" in first["loc"] and "leaves" in first["msg"]
            raise AgentError(
                "path_traversal" if leaves else "bad_manifest",
                "the release's manifest is not acceptable",
                f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
            ) from error

    async def blob(self, sha256: str, sink: Callable[[bytes], None]) -> None:
        """Streams a blob into `sink`, perhaps from the hub's object store. The caller checks size and digest."""
        path = f"/v1/blobs/{sha256}"
        reply = await self._http.call("GET", path, sink=sink, timeout=BLOB_S, headers={SIGNED_URLS: "1"})
        if reply.status == 307:
            if await self._from_store(reply.headers.get("location", ""), sink):
                return
            reply = await self._http.call("GET", path, sink=sink, timeout=BLOB_S)  # the hub gives it itself
        checked(reply)

    async def _from_store(self, url: str, sink: Callable[[bytes], None]) -> bool:
        """Streams what lies at a signed URL, without this node's credentials. False if nothing of it came.

        What is secret in the URL gets into no error. A hub with TLS may not send its nodes to an address without.
        """
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and self.url.startswith("http:")):
            return False
        came = False

        def taken(chunk: bytes) -> None:
            nonlocal came
            came = True
            sink(chunk)

        store = HttpClient(Endpoint.of_url(url))
        try:
            reply = await store.call("GET", f"{parts.path}?{parts.query}", sink=taken, timeout=BLOB_S)
        except Unreachable:
            if came:
                raise Unreachable(str(store.endpoint), "the object store broke off in the middle of a file") from None
            return False
        finally:
            store.close()
        return reply.status == 200

    async def dataset(self, digest: str) -> DatasetManifest:
        """A dataset's manifest. Raises: AgentError: `unknown_dataset`."""
        for entry in _datasets.validate_json(await self._ok("GET", "/v1/datasets")):
            if entry.digest == digest:
                return entry.manifest
        raise AgentError("unknown_dataset", "the hub has no dataset of this digest", digest, "register it first")

    async def suite(self, digest: str) -> SuiteManifest:
        """A suite's manifest. Raises: AgentError: `unknown_suite`."""
        for entry in _suites.validate_json(await self._ok("GET", "/v1/suites")):
            if entry.digest == digest:
                return entry.manifest
        raise AgentError("unknown_suite", "the hub has no suite of this digest", digest, "register it first")

    async def versions(self, tenant: str, name: str) -> tuple[AdapterVersion, ...]:
        """Lists all versions of an adapter."""
        return _versions.validate_json(await self._ok("GET", f"/v1/adapters/{tenant}/{name}/versions"))

    async def canary_records(self, release: str) -> tuple[Attestation, ...]:
        """Attested canary records of a release, oldest first."""
        return await self.attestations(AttestationKind.CANARY, release)

    async def attestations(self, kind: AttestationKind, subject: str | None = None) -> tuple[Attestation, ...]:
        """Attestations of one kind, about one subject or about all, oldest first."""
        query = urlencode({"kind": kind.value} | ({"subject": subject} if subject is not None else {}))
        found = _attestations.validate_json(await self._ok("GET", f"/v1/attestations?{query}"))
        return tuple(sorted(found, key=lambda a: a.seq))

    async def attest(self, attestation: Attestation) -> None:
        """Adds an attestation to the hub's log."""
        await self._ok("POST", "/v1/attestations", attestation.model_dump_json().encode())

    async def upload(self, folder: Path, files: tuple[FileEntry, ...], *, rows: bool = False) -> None:
        """Uploads an artifact's files; those that the hub has are not sent again. `rows`: they hold rows."""
        headers = {ROWS: "1"} if rows else None
        for entry in files:
            path = f"/v1/blobs/{entry.sha256}"
            if (await self._http.call("HEAD", path, timeout=CALL_S)).status == 200:
                continue
            body = _chunks(folder / entry.path)
            checked(await self._http.call("PUT", path, body, size=entry.size, timeout=BLOB_S, headers=headers))

    async def put_segment(self, tenant: str, sha256: str, segment: bytes) -> bool:
        """Gives the hub a segment of the answer ledger. Returns whether it keeps it."""
        answer = await self._ok("PUT", f"/v1/ledger/{tenant}/{sha256}", segment, timeout=BLOB_S)
        return SegmentKept.model_validate_json(answer).kept

    async def give_feedback(self, tenant: str, rows: bytes) -> bytes:
        """Gives the hub feedback that this node's routers took, a `FeedbackRows` as JSON. Returns a `FeedbackTaken`."""
        return await self._ok("POST", f"/v1/tenants/{tenant}/feedback", rows, timeout=BLOB_S)

    async def give_inputs(self, tenant: str, counts: bytes) -> None:
        """Gives the hub counts of what a tenant's callers ask, an `InputCounts` as JSON."""
        await self._ok("POST", f"/v1/tenants/{tenant}/inputs", counts, timeout=BLOB_S)

    async def register(self, manifest: AdapterManifest) -> AdapterVersion:
        """Registers an adapter whose files the hub has. Returns its version."""
        path = f"/v1/adapters/{manifest.tenant}/{manifest.name}/versions"
        made = await self._ok("POST", path, manifest.model_dump_json().encode(), timeout=BLOB_S)
        return AdapterVersion.model_validate_json(made)


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK * 16):
            yield chunk


def checked(reply: Reply) -> Reply:
    """The reply, if it is a success. Raises: AgentError: with the hub's problem code."""
    if 200 <= reply.status < 300:
        return reply
    raise problem_of(reply, "the hub")
