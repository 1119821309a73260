"""Prices: what a device, a student's making and its upkeep cost, as a person states them in a file."""

from pydantic import Field, FiniteFloat

from loradeck.schemas.ids import Strict


class Prices(Strict):
    """The prices by which a student is compared with its teacher. All are in `currency`."""

    currency: str = Field(min_length=1, max_length=20)
    device_hour: FiniteFloat = Field(ge=0, description="of one GPU, or of the host where there is none")
    tokens_per_month: FiniteFloat = Field(ge=0, description="answered to callers, whichever of the two answers")
    made_once: FiniteFloat = Field(ge=0, description="its data, its training and the people who made it")
    months: FiniteFloat = Field(gt=0, description="over which `made_once` is spread: how long it will serve")
    upkeep_per_month: FiniteFloat = Field(ge=0, description="of evaluating, watching and training it again")
