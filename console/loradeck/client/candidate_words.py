"""Candidates in words: who gets one, and who goes where when R takes it out. For the console and the command line."""

from loradeck.client.terminal_text import clean
from loradeck.schemas.candidate import Candidate, CohortUnit
from loradeck.schemas.state import PreviewAction, ReleaseView, TenantRow

_UNITS = {CohortUnit.CALLER: "callers", CohortUnit.USER: "users", CohortUnit.CONVERSATION: "conversations"}


def percent_of(permille: int) -> str:
    """A share as people write it: '2.5 %'."""
    return f"{permille / 10:g} %"


def gets(candidate: Candidate) -> str:
    """Says who gets a candidate: '5 % of the users and 2 named'; 'nobody yet'."""
    share = f"{percent_of(candidate.permille)} of the {_UNITS[candidate.unit]}" if candidate.permille else ""
    named = f"{len(candidate.named)} named" if candidate.named else ""
    return " and ".join(part for part in (share, named) if part) or "nobody yet"


def leaves(row: TenantRow) -> ReleaseView | None:
    """The release that R would take from callers: the candidate if the live one is where R goes, else the live one."""
    target = row.preview.target
    stays = row.candidate is not None and target is not None and row.live is not None and target.id == row.live.id
    return row.candidate.release if stays and row.candidate is not None else row.live


def who_goes_where(row: TenantRow) -> str:
    """Says who gets what after R while a candidate is out; '' without one, or where R does not roll back."""
    target, out = row.preview.target, row.candidate
    if out is None or target is None or row.live is None or row.preview.action is not PreviewAction.ROLLBACK:
        return ""
    to, live, name = (clean(view.label) for view in (target, row.live, out.release))
    if target.id == row.live.id:
        return f"all callers get {to}; {name} is out and quarantined"
    return f"all callers get {to}; {live} is quarantined, its candidate {name} is out"
