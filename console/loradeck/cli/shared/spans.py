"""Spans of time as people type them: 90m, 12h or 7d."""

import re

from loradeck.cli.shared.exits import misused

_SPAN = re.compile("([1-9][0-9]{0,4})([mhd])")
_SECONDS = {"m": 60, "h": 3600, "d": 86_400}


def seconds_of(span: str, option: str) -> int:
    """The seconds of a span such as '90m'. `option` is where it was given. Raises: CliError: it is none."""
    found = _SPAN.fullmatch(span)
    if found is None:
        raise misused("this is no span of time", where=f"{option} {span}", fix="90d, 12h or 30m")
    return int(found[1]) * _SECONDS[found[2]]
