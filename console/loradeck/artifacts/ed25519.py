"""Ed25519 signatures (RFC 8032) of hubs: making them, and telling whether a known key has signed something.

By libsodium. The `cryptography` package takes 7 MB more of an agent's memory, signs four times and verifies twice as
slowly.
"""

from collections.abc import Iterable

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

SIGNATURE_BYTES = 64


def public_half(key: SigningKey) -> str:
    """The public key of a private one, in hexadecimal."""
    return bytes(key.verify_key).hex()


def sign(key: SigningKey, data: bytes) -> str:
    """The signature, in hexadecimal."""
    return key.sign(data).signature.hex()


def is_signed(data: bytes, signature: str, keys: Iterable[str]) -> bool:
    """Tells whether one of the keys signed the data.

    Args:
        data: what the signature covers.
        signature: 64 bytes in hexadecimal; anything else was signed by nobody.
        keys: public keys, 32 bytes each, in hexadecimal.
    """
    try:
        raw = bytes.fromhex(signature)
    except ValueError:
        return False
    return len(raw) == SIGNATURE_BYTES and any(_verifies(key, raw, data) for key in keys)


def _verifies(key: str, signature: bytes, data: bytes) -> bool:
    try:
        VerifyKey(bytes.fromhex(key)).verify(data, signature)
    except (BadSignatureError, ValueError):
        return False
    return True
