"""A small S3 server that can lie: what the probe must refuse. It checks no signatures."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

LIES = ("overwrites_existing", "overwrites_newer", "alters_parts", "keeps_deleted", "keeps_versions")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    lie: str
    objects: dict[str, bytes]
    parts: dict[int, bytes]
    encrypted: dict[str, tuple[str, str]]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _asked(self) -> tuple[str, dict[str, list[str]], bytes]:
        parts = urlsplit(self.path)
        size = int(self.headers.get("Content-Length") or 0)
        return parts.path, parse_qs(parts.query, keep_blank_values=True), self.rfile.read(size)

    def _note_encryption(self, key: str) -> None:
        how = self.headers.get("x-amz-server-side-encryption")
        if how is not None:
            with_key = self.headers.get("x-amz-server-side-encryption-aws-kms-key-id", "")
            self.server.encrypted[key] = (how, with_key)

    def do_PUT(self) -> None:
        key, query, body = self._asked()
        self._note_encryption(key)
        lie, objects = self.server.lie, self.server.objects
        if "partNumber" in query:
            self.server.parts[int(query["partNumber"][0])] = body
            return self._answer(200, ETag=_etag(body))
        if self.headers.get("If-None-Match") and key in objects and lie != "overwrites_existing":
            return self._answer(412)
        wanted = self.headers.get("If-Match")
        if wanted and wanted != _etag(objects.get(key, b"")) and lie != "overwrites_newer":
            return self._answer(412)
        objects[key] = body
        self._answer(200, ETag=_etag(body), **({"x-amz-version-id": "v1"} if lie == "keeps_versions" else {}))

    def do_POST(self) -> None:
        key, query, body = self._asked()
        if "uploads" in query:
            self._note_encryption(key)
            upload = b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
            return self._answer(200, upload)
        if "delete" in query:
            names = re.findall(rb"<Key>([^<]*)</Key>", body)
            for name in names:
                self._delete(f"{key.rstrip('/')}/{name.decode()}")
            gone = b"".join(b"<Deleted><Key>%b</Key></Deleted>" % name for name in names)
            return self._answer(200, b"<DeleteResult>%b</DeleteResult>" % gone)
        whole = b"".join(part for _, part in sorted(self.server.parts.items()))
        self.server.objects[key] = whole[:-1] + b"?" if self.server.lie == "alters_parts" else whole
        tag = f"<CompleteMultipartUploadResult><ETag>{_etag(whole)}</ETag></CompleteMultipartUploadResult>"
        self._answer(200, tag.encode())

    def do_GET(self) -> None:
        key, _, _ = self._asked()
        found = self.server.objects.get(key)
        if found is None:
            return self._answer(404)
        about = {"ETag": _etag(found), "Last-Modified": "Fri, 27 Nov 2026 12:00:00 GMT"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        if asked is None:
            return self._answer(200, found, **about)
        first, last = int(asked[1]), min(int(asked[2]), len(found) - 1)
        self._answer(206, found[first : last + 1], Content_Range=f"bytes {first}-{last}/{len(found)}", **about)

    do_HEAD = do_GET

    def do_DELETE(self) -> None:
        self._delete(self._asked()[0])
        self._answer(204)

    def _delete(self, key: str) -> None:
        if self.server.lie != "keeps_deleted":
            self.server.objects.pop(key, None)


def _etag(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


@contextmanager
def lying_store(lie: str, encrypted: dict[str, tuple[str, str]] | None = None) -> Iterator[str]:
    """The URL of a server that tells one of `LIES`, or none of them ('').

    `encrypted` gets each object whose encryption at the store was asked for, with how and by which key.
    """
    server = _Server(("127.0.0.1", 0), _Handler)
    server.lie, server.objects, server.parts = lie, {}, {}
    server.encrypted = {} if encrypted is None else encrypted
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
