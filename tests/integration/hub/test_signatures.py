"""A route with signers: a promote needs what one of them has signed, and the hub checks what it keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.fleets.linked.hub import BASE, OTHER_BASE, Deck, key
from tests.integration.hub.conftest import Join

from loradeck.artifacts.signing import new_key, sign, sign_weights
from loradeck.schemas.manifest import BaseManifest
from loradeck.schemas.moves import PromoteRequest

PROMOTE = "tenants/acme/routes/production/promote"


async def adapter(deck: Deck, folder: Path) -> dict[str, Any]:
    """A registered version, and its files in a folder."""
    manifest = await deck.adapter_manifest()
    for file in manifest.files:
        path = folder / file.path
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"".join(deck.hub.blobs.open(file.sha256)))
    path = "adapters/acme/support/versions"
    version: dict[str, Any] = await deck.ok("POST", path, manifest.model_dump(mode="json"))
    return version


async def test_an_unsigned_adapter_is_not_promoted_where_the_route_has_signers(
    deck: Deck, join: Join, tmp_path: Path
) -> None:
    for name in ("k", "other"):
        new_key(tmp_path / name, tmp_path / f"{name}.pub")
    await deck.tenant(signers=[(tmp_path / "k.pub").read_text()])
    await deck.base()
    agent = await join()
    folder = tmp_path / "files"
    version = await adapter(deck, folder)
    body = PromoteRequest(
        release=version["release"], expected_generation=0, idempotency_key=key(), override=True, reason="please"
    ).model_dump(mode="json")
    await deck.refused(409, "unsigned", "POST", PROMOTE, body)

    def stated(name: str, **wrong: Any) -> dict[str, Any]:
        made = sign(folder, version["digest"], tmp_path / name, tmp_path / f"{name}.pub").model_copy(update=wrong)
        fields = {"kind": "signature", "subject": version["digest"], "tenant": "acme", "by": ""}
        return {**fields, "body": made.model_dump(mode="json")}

    trusted = (tmp_path / "k.pub").read_text().strip()
    await deck.refused(422, "bad_signature", "POST", "attestations", stated("other", public_key=trusted))
    await deck.refused(422, "invalid_request", "POST", "attestations", stated("k", subject="0" * 64))
    await deck.refused(422, "invalid_request", "POST", "attestations", stated("k") | {"body": {}})
    await deck.ok("POST", "attestations", stated("other"))
    await deck.refused(409, "unsigned", "POST", PROMOTE, body)
    await deck.ok("POST", "attestations", stated("k"))
    await deck.promote(version["release"])
    assert deck.hub.log.state.pointers["acme", "production"].release == version["release"]
    assert agent.entries["acme", "production"].signers == ((tmp_path / "k.pub").read_text(),)


async def test_merged_weights_are_promoted_under_a_signature_of_their_own_and_not_under_their_adapters(
    deck: Deck, join: Join, tmp_path: Path
) -> None:
    private, public = tmp_path / "k", tmp_path / "k.pub"
    new_key(private, public)
    await deck.tenant(signers=[public.read_text()])
    for base in (BASE, OTHER_BASE):
        await deck.base(base)
    await join(base=OTHER_BASE.digest)
    version = await adapter(deck, tmp_path / "files")

    def stated(subject: str, weights: BaseManifest) -> dict[str, Any]:
        body = sign_weights(weights, private, public).model_copy(update={"subject": subject})
        fields = {"kind": "signature", "subject": subject, "tenant": "acme", "by": ""}
        return {**fields, "body": body.model_dump(mode="json")}

    weights = OTHER_BASE.digest
    await deck.refused(404, "unknown_adapter", "POST", "attestations", stated("e" * 64, OTHER_BASE))
    body = {"tenant": "acme", "adapter": version["release"], "merged": weights}
    release = (await deck.ok("POST", "releases", body))["id"]
    made = sign(tmp_path / "files", version["digest"], private, public).model_dump(mode="json")
    fields = {"kind": "signature", "subject": version["digest"], "tenant": "acme", "by": ""}
    await deck.ok("POST", "attestations", {**fields, "body": made})
    promote = PromoteRequest(
        release=release, expected_generation=0, idempotency_key=key(), override=True, reason="please"
    ).model_dump(mode="json")
    problem = await deck.refused(409, "unsigned", "POST", PROMOTE, promote)
    assert problem.fix == "loradeck release sign TENANT RELEASE --key FILE"
    await deck.refused(422, "bad_signature", "POST", "attestations", stated(weights, BASE))
    await deck.refused(409, "unsigned", "POST", PROMOTE, promote)
    await deck.ok("POST", "attestations", stated(weights, OTHER_BASE))
    await deck.promote(release)
    assert deck.hub.log.state.pointers["acme", "production"].release == release
