"""Idempotency keys: one key never moves a pointer twice."""

import secrets


def new_key() -> str:
    """Makes an idempotency key, before the first attempt; every further attempt sends the same one."""
    return secrets.token_hex(16)
