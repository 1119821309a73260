"""Lines of the audit trail as events of OCSF, the Open Cybersecurity Schema Framework: API Activity and Authentication.

The exact text of a line goes along as `raw_data`: whoever has all of them can compute the heads that nodes have signed.
"""

from importlib.metadata import version
from typing import Any

from loradeck.schemas.audit import AuditLine
from loradeck.schemas.ids import canonical_json, digest_of

SCHEMA = "1.8.0"
"""The version of OCSF's schema."""

_ACTIVITIES = {"POST": 1, "GET": 2, "HEAD": 2, "PUT": 3, "PATCH": 3, "DELETE": 4}
"""Method of a call -> activity of API Activity: create, read, update, delete."""

_OTHER = 99
_GRAVE = frozenset({"break-glass", "lost"})
_LOGIN = "login"


def severity(line: AuditLine) -> int:
    """OCSF's severity: 1 informational, 2 low for what was refused, 3 medium for failed logins, broken glass and lost
    lines.
    """
    if line.call == _LOGIN or line.call in _GRAVE:
        return 3
    return 2 if line.status is not None and line.status >= 400 else 1


def event(line: AuditLine, hub: str) -> dict[str, Any]:
    """The OCSF event of a line. `hub`: the hub's name.

    What the trail does not know is left out, or said to be unknown where the schema requires it: a caller's address.
    """
    known = line.status is not None
    made: dict[str, Any] = {
        "metadata": {
            "version": SCHEMA,
            "product": {"name": "Loradeck", "vendor_name": "Loradeck", "version": version("loradeck")},
            "log_name": "audit",
            "reporter": {"name": hub},
            "uid": digest_of(line),
            "original_event_uid": str(line.seq),
            "sequence": line.seq,
        },
        "time": line.at_ms,
        "severity_id": severity(line),
        "status_id": (2 if (line.status or 0) >= 400 else 1) if known else 0,
        "src_endpoint": {"name": "unknown"},
        "message": " ".join([line.call, *(f"{k}={v}" for k, v in line.subject.items()), line.detail]).strip(),
        "raw_data": canonical_json(line).decode(),
        "unmapped": {"role": line.role.value} if line.role is not None else {},
    }
    if known:
        made["status_code"] = str(line.status)
    user = {"name": line.actor or "unknown"} | ({"uid": line.token} if line.token is not None else {})
    if line.call == _LOGIN:
        return made | _classified(3002, 1) | {"user": user, "service": {"name": hub}, "status_detail": line.detail}
    response = {"http_response": {"code": line.status}} if known else {}
    resources = [{"type": name, "name": value} for name, value in line.subject.items()]
    return (
        made
        | _classified(6003, _ACTIVITIES.get(line.call.partition(" ")[0], _OTHER))
        | {"actor": {"user": user}, "api": {"operation": line.call, "service": {"name": hub}}, "resources": resources}
        | response
    )


def _classified(class_uid: int, activity: int) -> dict[str, int]:
    category, type_ = class_uid // 1000, class_uid * 100 + activity
    return {"category_uid": category, "class_uid": class_uid, "activity_id": activity, "type_uid": type_}
