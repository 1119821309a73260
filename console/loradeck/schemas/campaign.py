"""Campaigns: routes that are moved to another base in waves and rewound together, or nodes to another engine build."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from loradeck.schemas.candidate import StepPlan
from loradeck.schemas.ids import Digest, Name, Strict, Wire, added
from loradeck.schemas.moves import Keyed, Rewinding

MOST_UNITS = 1000
"""Routes of one campaign."""

WHY = 300
"""Characters of why a unit or a campaign is where it is."""

Why = Annotated[str, Field(max_length=WHY)]


class Stage(StrEnum):
    """How far a route of a campaign has come."""

    WAITING = "waiting"
    TRAINING = "training"
    GATING = "gating"  # it is evaluated, and its gate is asked
    CANARY = "canary"  # callers get the release, some or all, and it has not soaked
    DRAINING = "draining"  # a node: it is drained, and its engines have the old build
    PROVING = "proving"  # a node: it is back, and what is placed there is loaded, recorded and proven
    MOVED = "moved"
    HELD = "held"  # something keeps it back that is no fault of its release; its wave goes on without it
    FAILED = "failed"
    ASIDE = "aside"  # somebody else has moved it since the campaign began, and what they have put there stays


UNDER_WAY = frozenset({Stage.TRAINING, Stage.GATING, Stage.CANARY, Stage.DRAINING, Stage.PROVING})
"""Stages of a wave that is not over."""


class CampaignState(StrEnum):
    """What becomes of a campaign."""

    RUNNING = "running"
    PAUSED = "paused"  # nothing is begun; what is under way ends
    STOPPED = "stopped"  # for good: what is under way is taken back
    DONE = "done"
    REWOUND = "rewound"


class CampaignPlan(Wire):
    """By which a campaign moves its routes."""

    base: Digest | None = Field(None, description="on which adapters are trained again; None: routes name releases")
    engine: str = Field("", max_length=200, description="what the builds of nodes' engines hold then; '': routes move")
    wave: int = Field(5, ge=1, le=MOST_UNITS, description="routes that are under way together")
    gpu_hours: float | None = Field(None, gt=0, description="of training, at the most; None: no bound")
    most_failed: int | None = Field(
        None, ge=1, description="it stops where more routes fail; None: by `tolerated` alone"
    )
    tolerated: float = Field(0.1, gt=0, le=0.5, description="share of failing routes that may be; it stops above that")
    patience_s: float = Field(86_400, ge=60, description="seconds after which a wave goes on without a slow route")
    steps: StepPlan | None = Field(None, description="of the candidates; None: releases are promoted")
    ungated: bool = Field(False, description="routes without a gate move too")


class CampaignUnit(Wire):
    """A route of a campaign; or a node, whose tenant is `schemas.jobs.FLEET`, which no tenant is called."""

    tenant: Name
    route: Name
    stage: Stage = Stage.WAITING
    resumes: Stage | None = Field(None, description="of a held one: the stage that it goes on with")
    since_ms: int = Field(0, description="when that stage began")
    why: Why = ""
    wave: int = Field(0, description="from 1; 0: it waits")
    was: Digest | Literal[""] | None = Field(
        None, description="live when the campaign began; '': nothing; None: unknown"
    )
    release: Digest | None = Field(None, description="that it moves to; None: it is not trained yet")
    recipe: str = Field("", max_length=64, description="job whose recipe is repeated on the new base")
    gpu_hours: float = Field(0, description="that its training took; before its end, those of `recipe`")
    start: str = Field("", max_length=64, description="id of the move that gave callers its release")

    @property
    def name(self) -> str:
        """acme/production."""
        return f"{self.tenant}/{self.route}"

    @property
    def at(self) -> Stage:
        """Its stage; of a held one, that which it goes on with."""
        return self.resumes or self.stage


class Campaign(Wire):
    """A campaign as the log has it, with its routes in the order of its waves."""

    campaign: Name
    plan: CampaignPlan
    by: str = Field(description="who started it, and whose jobs its trainings are")
    started_ms: int
    state: CampaignState = CampaignState.RUNNING
    why: Why = ""
    units: dict[str, CampaignUnit]
    rev: int = added(0, "of the event that changed it last")

    @property
    def under_way(self) -> list[CampaignUnit]:
        """The routes that are in a wave and not decided, held ones too."""
        return [unit for unit in self.units.values() if unit.at in UNDER_WAY]

    def count(self, *stages: Stage) -> int:
        """Counts the routes that are in one of these stages."""
        return sum(unit.stage in stages for unit in self.units.values())


class CampaignTarget(Strict):
    """A route that a campaign is to move, and the release that it moves to. None: one on the base, else trained."""

    tenant: Name
    route: Name = "production"
    release: Digest | None = None


class CampaignRequest(Keyed):
    """Starts a campaign. With `dry_run` the hub says what it would be, and starts nothing."""

    campaign: Name
    plan: CampaignPlan
    targets: tuple[CampaignTarget, ...] = Field(
        (), max_length=MOST_UNITS, description="none: every route with an adapter on another base"
    )
    nodes: tuple[Name, ...] = Field(
        (), max_length=MOST_UNITS, description="with `plan.engine`; none: every node that has another build"
    )
    dry_run: bool = False


class CampaignStarted(Wire):
    """A campaign, and the routes that were left out with the reason for each."""

    campaign: Campaign
    left_out: dict[str, str]


class CampaignChange(Keyed):
    """Pauses, resumes or stops a campaign. `gpu_hours`: another budget from now on."""

    gpu_hours: float | None = Field(None, gt=0)


class CampaignRewind(Rewinding):
    """Puts all routes that a campaign has moved back to what they had before."""
