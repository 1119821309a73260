"""Outcomes of the requests of one arm of a candidate's pointer, by bins of keys, since its share was changed last."""

from dataclasses import dataclass, field
from typing import NamedTuple

from loradeck.schemas.counts import ArmOutcomes


class Seat(NamedTuple):
    """The place and the bin of a request's key, and the step of the split that gave it its arm."""

    step: int
    place: int
    bin: int


@dataclass(slots=True)
class Outcomes:
    """The bins of one counter in one step. Another step begins anew; what is then still under way counts nowhere."""

    step: int = -1
    _places: set[int] = field(default_factory=set)
    _bins: dict[int, list[int]] = field(default_factory=dict)
    """Bin -> units that were admitted, failed, are to be checked, and are bad."""

    def admitted(self, seat: Seat, *, voter: bool, sampled: bool) -> None:
        """A request was admitted. `voter`: it is a unit; `sampled`: its answer is to be checked."""
        if seat.step != self.step:
            self.step, self._places, self._bins = seat.step, set(), {}
        self._places.add(seat.place)
        if voter:
            counts = self._bins.setdefault(seat.bin, [0, 0, 0, 0])
            counts[0] += 1
            counts[2] += sampled

    def failed(self, seat: Seat) -> None:
        """A unit has failed."""
        if seat.step == self.step:
            self._bins[seat.bin][1] += 1

    def bad(self, seat: Seat) -> None:
        """The answer of a unit is bad."""
        if seat.step == self.step:
            self._bins[seat.bin][3] += 1

    def typed(self) -> ArmOutcomes:
        """The sums as they are reported."""
        bins = tuple((at, (units, failed, checked, bad)) for at, (units, failed, checked, bad) in self._bins.items())
        return ArmOutcomes(step=self.step, keys=len(self._places), bins=bins)
