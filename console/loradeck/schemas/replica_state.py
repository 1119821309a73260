"""States of engines and releases on a replica, and the times by which a silent node is given up."""

from enum import StrEnum

LINK_TTL_S = 10.0
"""Seconds of silence after which either side gives a link up, and a node its jobs."""


LOST_S = 6.0
"""Seconds of silence after which a node counts as lost: nothing that it acknowledged is counted then. It is given
`LINK_TTL_S` from the hub's start.
"""


HEARTBEAT_S = 2.0
"""Seconds between heartbeats of either side."""


NOT_ACTIVE = "not_active"
"""The problem code of a hub that stands by, or that another one has succeeded: it steers nobody and moves nothing."""


class AckLevel(StrEnum):
    """How near the acknowledged release is to answering on a replica. It is resident at `device` and at `host`."""

    DEVICE = "device"  # in a batch slot of the engine
    HOST = "host"  # in the engine's memory
    DISK = "disk"  # verified files on the node
    ABSENT = "absent"  # none of these


class EngineState(StrEnum):
    """The state of an engine process, as its agent sees it."""

    STARTING = "starting"
    UP = "up"
    DOWN = "down"
    STOPPED = "stopped"  # nothing wants its base; it is started when an entry does


class AckState(StrEnum):
    """How far a replica is with an entry."""

    FLIPPED = "flipped"
    PROVEN = "proven"
    LISTED = "listed"
    WAITING = "waiting"  # the release is not ready; the gap policy applies
    FAILED = "failed"
