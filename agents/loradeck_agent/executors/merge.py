"""Merge executor: merges a release's adapter into its base and measures how far the merged weights diverge.

Leaves `weights/` (a base of its own: merged weights, and the base's configuration, tokenizer and template as they
were), `weights.manifest.json` (its BaseManifest) and `report.json` (a MergeReport). A release gives identical bytes on
every node of one kind.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from loradeck.artifacts import BadArtifact
from loradeck.rules.serving.merge import fault
from loradeck.schemas.attestation import MergeReport
from loradeck.schemas.jobs import MergeSpec
from loradeck.schemas.manifest import BaseManifest
from loradeck.schemas.release import Form, Release
from loradeck_agent.executors.merging.merge_probe import probe
from loradeck_agent.executors.merging.merge_weights import merge_weights
from loradeck_agent.executors.protocol import BadSpec, Run
from loradeck_agent.executors.publish import staged, write_document
from loradeck_agent.host.state_folder import fsync_folder

WEIGHTS = "weights"
WEIGHTS_MANIFEST = f"{WEIGHTS}.manifest.json"
REPORT = "report.json"


def merge(current: Run) -> Mapping[str, Any]:
    """Runs one merge job; the results are in the spec's `out` folder when it returns.

    Returns the data of the FINISHED event: the merged weights' digest, and the mean divergences `kl` and `kl_base`
    (nats).

    Raises:
        BadSpec: spec, base or adapter is wrong, the adapter changes nothing, or the merged weights diverge too far.
        Preempted: SIGTERM was received; nothing is published.
    """
    spec = current.spec.spec
    assert isinstance(spec, MergeSpec)
    torch.set_num_threads(current.spec.threads)
    digest, adapter = _adapter_of(current, spec)
    base = Path(current.spec.base)

    def between(done: int, of: int) -> None:
        if done % 16 == 0 or done == of:
            current.progress(done, of)
        current.check()

    with staged(Path(current.spec.out)) as staging:
        folder = staging / WEIGHTS
        folder.mkdir(mode=0o700)
        current.phase("merging")
        began = time.monotonic()
        try:
            merged = merge_weights(base, adapter, folder, between)
        except BadArtifact as bad:
            raise BadSpec(bad.code, str(bad)) from bad
        fsync_folder(folder)
        took = time.monotonic() - began
        found = BaseManifest(model_id="-", revision="-", files=merged.base).digest
        if found != current.spec.base_digest:
            raise BadSpec(
                "wrong_base", f"the base's files have the digest {found}, the spec names {current.spec.base_digest}"
            )
        manifest = BaseManifest(model_id=spec.tenant, revision=f"merged {spec.release[:12]}", files=tuple(merged.files))
        current.phase("probing")
        near = probe(base, adapter, folder, current.spec.canaries, current.check)
        if manifest.digest == found or (merged.dequantized and near.kl_base == 0):
            raise BadSpec("nothing_merged", "the adapter changes no weight of the base; serve the base alone instead")
        if why := fault(near):
            raise BadSpec("probe_failed", why)
        release = Release(tenant=spec.tenant, form=Form.MERGED, base=found, adapter=digest, merged=manifest.digest)
        report = MergeReport(
            release=release.id,
            adapter=spec.release,
            merged=manifest.digest,
            tensors=merged.tensors,
            dequantized=merged.dequantized,
            probe=near,
            seconds=round(took, 3),
        )
        write_document(staging / WEIGHTS_MANIFEST, manifest)
        write_document(staging / REPORT, report)
    return {"merged": manifest.digest, "kl": near.kl, "kl_base": near.kl_base}


def _adapter_of(current: Run, spec: MergeSpec) -> tuple[str, Path]:
    """Digest and folder of the release's adapter. Raises: BadSpec: `bad_spec`: the inputs are another release's."""
    if len(current.spec.inputs) != 1:
        raise BadSpec("bad_spec", f"the spec gives {len(current.spec.inputs)} inputs, a merge has one: the adapter")
    ((digest, folder),) = current.spec.inputs.items()
    found = Release(tenant=spec.tenant, form=Form.ADAPTER, base=current.spec.base_digest, adapter=digest).id
    if found != spec.release:
        raise BadSpec("bad_spec", f"base and adapter make the release {found}, the spec is about {spec.release}")
    return digest, Path(folder)
