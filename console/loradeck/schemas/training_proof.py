"""The record of a trial of training on one node: what was measured there, and by which versions."""

from pydantic import Field, FiniteFloat

from loradeck.schemas.ids import Digest, Line, Whole, Wire

CPU = "cpu"
"""The device of a trial on a node that has no GPU."""


class TrainingProof(Wire):
    """What a trial of training measured on a node: a recipe run twice, resumed, and in fp32, by the train executor."""

    base: Digest
    device: Line = Field(description="the GPU's name, or cpu")
    versions: dict[Line, Line] = Field(max_length=16, description="of libraries and the GPU's driver, by name")
    steps: Whole
    planned_bytes: Whole = Field(description="what a step needs at least, by the plan")
    peak_bytes: Whole = Field(description="what a process took at most")
    loss: FiniteFloat = Field(description="of the last step in bf16, nats per answer token")
    apart: FiniteFloat | None = Field(
        None, description="how far the first loss or gradient is from fp32's, as a share of it; None: fp32 does not fit"
    )
    straight: bool = Field(description="two runs gave the same bytes")
    resumed: bool = Field(description="a run that was stopped and resumed gave the same bytes")
    tokens_per_second: FiniteFloat
    seconds: FiniteFloat
    at_ms: Whole = Field(0, description="when the hub was told; milliseconds since 1970 UTC")
