"""Artifacts on disk, at the hub and on nodes: manifests, content-addressed blobs, checks of hashes, adapters and rows.

Nothing here imports torch, and nothing reads a pickle.
"""

from loradeck.artifacts.adapters import verify_adapter
from loradeck.artifacts.blobs.store import Blobs
from loradeck.artifacts.errors import BadArtifact
from loradeck.artifacts.hash_checks import verify_folder
from loradeck.artifacts.manifests import base_digest, base_here, base_manifest, scan
from loradeck.artifacts.staging import installing

__all__ = [
    "BadArtifact",
    "Blobs",
    "base_digest",
    "base_here",
    "base_manifest",
    "installing",
    "scan",
    "verify_adapter",
    "verify_folder",
]
