"""Weights that were merged on this node. They stay on it, as bases do; only their manifest goes to the hub.

merged/DIGEST/                 the files: configure an engine with this folder as its `base`
merged/DIGEST.manifest.json    their BaseManifest, as `loradeck base add` reads it
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loradeck.artifacts import BadArtifact, base_manifest
from loradeck.schemas.attestation import MergeReport
from loradeck.schemas.manifest import BaseManifest
from loradeck_agent.host.state_folder import fsync_folder, write_durably
from loradeck_agent.jobs.executor import read_json
from loradeck_agent.store.fetch import as_agent_error

WEIGHTS = "weights"
"""Folder in which the merge executor leaves the weights, beside WEIGHTS.manifest.json and report.json."""


def keep_merged(out: Path, merged: Path) -> dict[str, Any]:
    """Verifies the weights that a merge left in `out` and moves them to `merged/DIGEST`. Blocks: call it in a thread.

    Weights that lie there already under this digest stay. Returns the job's result for the hub.

    Raises:
        AgentError: `manifest_mismatch`, the files are not those of the manifest and report; or the disk refused.
    """
    manifest = BaseManifest.model_validate(read_json(out / f"{WEIGHTS}.manifest.json"))
    report = MergeReport.model_validate(read_json(out / "report.json"))
    place = merged / manifest.digest
    made = out / WEIGHTS if (out / WEIGHTS).is_dir() else place  # an agent before this one came that far
    with as_agent_error(made):
        found = base_manifest(made, "-", "-").digest
        if not found == manifest.digest == report.merged:
            raise BadArtifact(
                "manifest_mismatch",
                "the merged weights are not those of their manifest",
                f"digest {found}, manifest {manifest.digest}, report {report.merged}",
            )
        if not place.exists():
            write_durably(place.with_name(f"{place.name}.manifest.json"), manifest.model_dump_json(indent=1).encode())
            made.rename(place)
            fsync_folder(merged)
    return {
        "files": [entry.model_dump(mode="json") for entry in manifest.files],
        "report": report.model_dump(mode="json"),
        "folder": str(place),
    }
