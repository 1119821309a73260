"""Signatures of artifacts by OpenSSF model-signing with our own elliptic curve keys, without any network.

A signature covers every file of a folder, by name and content. Merged weights stay on their nodes, so the listing of
their files, with the SHA-256 of each, is signed in their place. Keys are passed by path; a private key that others can
read is refused. Verifying imports a great deal, so hub and agent leave it to a child process.
"""

import asyncio
import hashlib
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from loradeck.artifacts import child_process
from loradeck.artifacts.errors import BadArtifact
from loradeck.schemas.attestation import Signature
from loradeck.schemas.ids import Digest, Strict
from loradeck.schemas.manifest import BaseManifest

LISTING = "files.json"
"""Name of the one file that is signed for merged weights: its SHA-256 is their digest."""


def key_id(public_key: str) -> str:
    """Id of a public key: SHA-256 (hex) of its PEM text, stripped of surrounding space."""
    return hashlib.sha256(public_key.strip().encode()).hexdigest()


def new_key(private: Path, public: Path) -> str:
    """Creates a P-256 key pair as PEM files, the private one with mode 0600, and returns the key's id.

    Raises: BadArtifact: `key_exists`: nothing is overwritten; `signing_unavailable`.
    """
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ModuleNotFoundError as error:
        raise _unavailable(error) from None
    for path in (private, public):
        if path.exists():
            raise BadArtifact("key_exists", "a key is never overwritten", str(path), "choose another name")
    made = ec.generate_private_key(ec.SECP256R1())
    secret = made.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    shown = made.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    with os.fdopen(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secret)
    public.write_bytes(shown)
    return key_id(shown.decode())


def sign(folder: Path, subject: Digest, private: Path, public: Path) -> Signature:
    """Signs every file of a folder and verifies the signature. `subject` is the digest of the artifact.

    Raises: BadArtifact: `key_exposed`: others can read the private key; `bad_key`; `bad_signature`: the two keys do not
    belong together; `signing_unavailable`.
    """
    try:
        from model_signing import signing
    except ModuleNotFoundError as error:
        raise _unavailable(error) from None
    try:
        mode = private.stat().st_mode
        shown = public.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadArtifact(
            "bad_key", "a key cannot be read", str(error), "loradeck adapter key FILE makes one"
        ) from None
    if mode & 0o077:
        raise BadArtifact(
            "key_exposed", "others may read the private key", str(private), f"chmod 600 {private}, or make a new one"
        )
    with tempfile.TemporaryDirectory(prefix="loradeck-signing-") as name:
        bundle = Path(name, "signature.json")
        try:
            signing.Config().use_elliptic_key_signer(private_key=private).sign(folder, bundle)
        except (ValueError, TypeError) as error:
            raise BadArtifact(
                "bad_key", "the private key cannot sign", str(error), "use an elliptic curve key"
            ) from None
        made = Signature(subject=subject, public_key=shown, bundle=bundle.read_text())
    verify(folder, made)  # also proves that the two keys belong together
    return made


def sign_weights(weights: BaseManifest, private: Path, public: Path) -> Signature:
    """Signs merged weights by the listing of their files. Raises as `sign` does."""
    with tempfile.TemporaryDirectory(prefix="loradeck-listing-") as name:
        Path(name, LISTING).write_bytes(weights.listing)
        return sign(Path(name), weights.digest, private, public)


def verify(folder: Path, signature: Signature) -> None:
    """Checks that a signature covers exactly the folder's files and was made with its key. Blocks for about a second.

    Raises: BadArtifact: `bad_signature`; `signing_unavailable`.
    """
    try:
        from model_signing import verifying
    except ModuleNotFoundError as error:
        raise _unavailable(error) from None
    with tempfile.TemporaryDirectory(prefix="loradeck-verifying-") as name:
        key, bundle = Path(name, "key.pem"), Path(name, "signature.json")
        key.write_text(signature.public_key + "\n")
        bundle.write_text(signature.bundle)
        try:
            verifying.Config().use_elliptic_key_verifier(public_key=key).verify(folder, bundle)
        except Exception as error:  # whichever of its many kinds it is, the signature does not hold
            raise BadArtifact(
                "bad_signature",
                "the signature does not hold for these files",
                f"key {key_id(signature.public_key)[:12]}: {str(error)[:300] or type(error).__name__}",
                "fetch the files again, or have them signed again",
            ) from None


class Check(Strict):
    """A task for the child process that verifies: a signature, and the paths of the files by their signed names.

    The files must lie on the file system of `beside`, since they are hard-linked into place.
    """

    files: dict[str, Path]
    beside: Path
    signature: Signature


async def verify_apart(files: Mapping[str, Path], signature: Signature, *, beside: Path) -> None:
    """Verifies a signature in a child process, over files that lie under other names; see `verify`.

    Args:
        files: signed name -> path.
        beside: a folder on the file system of the files, for hard links.

    Raises: BadArtifact: `bad_signature`; `signing_unavailable`.
    """
    await child_process.ask(__name__, Check(files=dict(files), beside=beside, signature=signature))


async def verify_weights_apart(weights: BaseManifest, signature: Signature) -> None:
    """Verifies in a child process that a signature covers exactly these files. Raises as `verify_apart`."""
    with tempfile.TemporaryDirectory(prefix="loradeck-listing-") as name:
        listing = Path(name, LISTING)
        await asyncio.to_thread(listing.write_bytes, weights.listing)
        await verify_apart({LISTING: listing}, signature, beside=Path(name))


def _work(task: bytes) -> None:
    check = Check.model_validate_json(task)
    with tempfile.TemporaryDirectory(prefix="verifying.", dir=check.beside) as name:
        for file, path in check.files.items():
            here = Path(name, file)
            here.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, here)
        verify(Path(name), check.signature)


def _unavailable(error: ModuleNotFoundError) -> BadArtifact:
    return BadArtifact(
        "signing_unavailable",
        "signatures cannot be made or verified here",
        f"the package {error.name} is missing",
        "pip install 'loradeck[sign]'",
    )


if __name__ == "__main__":
    sys.exit(child_process.answer(_work))
