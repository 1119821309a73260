"""The engine build: the libraries, device and number format that an answer's tokens depend on besides the weights."""

from importlib.metadata import version

from loradeck.schemas.attestation import EngineBuild


def embedded_build(dtype: str = "float32") -> EngineBuild:
    """The build under which the embedded engine answers, and under which `evaluate` records canaries.

    The two compute an adapter's effect by different code (the engine's own batched forward; peft), so a canary
    that both agree on was not produced by one mistake. Positions whose margin is small do not count for either.
    """
    libraries = " ".join(f"{name}-{version(name)}" for name in ("transformers", "peft", "torch"))
    return EngineBuild(engine=f"embedded {libraries}", device="cpu", dtype=dtype)
