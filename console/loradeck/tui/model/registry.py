"""Records of the hub beside pointers: gate results, adapter versions, datasets and suites.

The feed does not carry them. They are fetched when their screen comes to the front and again while it is there, and
the screen shows their age.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from loradeck.client.errors import ClientError
from loradeck.client.terminal_text import clean
from loradeck.schemas.attestation import Attestation, EvaluationReport, GateResult
from loradeck.schemas.campaign import Campaign
from loradeck.schemas.capacity import CapacityRow
from loradeck.schemas.freshness import LoopRow
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.manifest import AdapterVersion, DatasetManifest, SuiteManifest
from loradeck.schemas.responses import DatasetEntry, SuiteEntry

M = TypeVar("M", bound=BaseModel)

REFRESH_S = 5.0
"""How often a screen in front is fetched again."""


def readable(attestations: Iterable[Attestation], kind: type[M]) -> Iterator[tuple[Attestation, M]]:
    """Yields attestations with their bodies as `kind`; those of another version of the hub are left out."""
    for found in attestations:
        with suppress(ValidationError):
            yield found, kind.model_validate(found.body)


@dataclass(frozen=True)
class Gate:
    """A gate result on record, and the record as the hub sent it."""

    seq: int
    tenant: str
    route: str
    result: GateResult
    by: str
    at_ms: int
    record: Attestation


@dataclass(frozen=True)
class DataEntry:
    """A dataset or a suite. `record`: as the hub sent it."""

    digest: str
    kind: str
    manifest: DatasetManifest | SuiteManifest
    record: DatasetEntry | SuiteEntry

    @property
    def rows(self) -> int:
        """Rows of a dataset, or items of a suite."""
        manifest = self.manifest
        return manifest.rows if isinstance(manifest, DatasetManifest) else manifest.items


@dataclass
class Fetch:
    """When something was last fetched and last tried (seconds of the console's clock), and what stood in the way."""

    at: float | None = None
    tried: float | None = None
    trouble: str = ""
    running: bool = False

    @contextmanager
    def trying(self, clock: Callable[[], float]) -> Iterator[None]:
        """Keep the account of a fetch made within. An error of the hub's ends it, and is kept as the trouble."""
        self.running, self.tried = True, clock()
        try:
            yield
            self.at, self.trouble = clock(), ""
        except ClientError as error:
            self.trouble = clean(error.sentence)
        finally:
            self.running = False

    def due(self, now: float) -> bool:
        """Tells whether it is time to fetch again. `now`: seconds of the console's clock."""
        return not self.running and (self.tried is None or now - self.tried >= REFRESH_S)


@dataclass
class Registry:
    """Records by their key, as they were last fetched."""

    gates: dict[int, Gate] = field(default_factory=dict)
    adapters: dict[str, AdapterVersion] = field(default_factory=dict)
    data: dict[str, DataEntry] = field(default_factory=dict)
    scores: dict[str, tuple[EvaluationReport, ...]] = field(default_factory=dict)
    """Evaluations by release, without their items; only of releases that were looked at."""

    score_fetches: dict[str, Fetch] = field(default_factory=dict)
    capacity: dict[str, CapacityRow] = field(default_factory=dict)
    """Pools and nodes by `CapacityRow.key`."""

    loop: dict[PointerKey, LoopRow] = field(default_factory=dict)
    campaigns: dict[str, Campaign] = field(default_factory=dict)
    campaigns_epoch: int = -1
    """The hub's epoch when they were fetched; of another one they are fetched anew, and else what has changed."""

    unreadable: int = 0
    """Gate results of another version of the hub, left out."""

    def replace_gates(self, attestations: Iterable[Attestation]) -> None:
        """Replaces all gate results by those just fetched; results of another version are counted in `unreadable`."""
        every = tuple(attestations)
        self.gates = {
            one.seq: Gate(one.seq, one.tenant, one.route or "-", result, one.by, one.at_ms, one)
            for one, result in readable(every, GateResult)
        }
        self.unreadable = len(every) - len(self.gates)

    def replace_adapters(self, versions: Iterable[AdapterVersion]) -> None:
        """Replaces all adapter versions by those just fetched."""
        self.adapters = {version.digest: version for version in versions}

    def replace_data(self, datasets: Iterable[DatasetEntry], suites: Iterable[SuiteEntry]) -> None:
        """Replaces all datasets and suites by those just fetched."""
        entries = [DataEntry(entry.digest, "dataset", entry.manifest, entry) for entry in datasets]
        entries += [DataEntry(entry.digest, "suite", entry.manifest, entry) for entry in suites]
        self.data = {entry.digest: entry for entry in entries}

    def replace_scores(self, release: str, attestations: Iterable[Attestation]) -> None:
        """The evaluations of one release, oldest first. Items are dropped: they may be many."""
        reports = (report for _, report in readable(attestations, EvaluationReport))
        self.scores[release] = tuple(report.model_copy(update={"items": ()}) for report in reports)

    def name_of(self, digest: str) -> str:
        """A dataset or suite by its name; the beginning of its digest where it has not been fetched."""
        entry = self.data.get(digest)
        return f"{entry.manifest.tenant}/{entry.manifest.name}" if entry is not None else digest[:6]
