"""Commands refuse with the hub's codes; what only a command can find wrong has a code of its own, listed here."""

from __future__ import annotations

import ast
from pathlib import Path

import loradeck.cli
from loradeck.artifacts.errors import BadArtifact
from loradeck.rules.errors import STATUS

OWN = {
    "ambiguous_release": "a label names several releases; the hub is asked by id",
    "backlog_refused": "labelled tasks, of which each is judged by itself before anything is sent",
    "card_changed": "a person reads on this machine, and reads again",
    "cannot_start": "a hub that is started here",
    "combination": "parts are compared on this machine",
    "contaminated": "rows are compared with suites before anything is sent",
    "feedback_refused": "rows of a file, of which the hub says each by itself why",
    "no_backlog": "an empty file of tasks is not written",
    "no_dataset": "a job without datasets is not sent",
    "no_gate": "a route without a gate has none to show",
    "no_hub": "nothing answers at this machine's socket",
    "no_move": "a pointer that never moved has no last event",
    "no_terminal": "the console needs one",
    "no_zone": "a time in a file of this machine",
    "not_confirmed": "a person answered no, or nobody could be asked",
    "not_merged": "only merged weights are signed as a release",
    "not_reported": "a node whose memory is not known",
    "nothing_to_collect": "an empty plan is not sent",
    "nothing_to_rewind": "an empty plan is not sent",
    "read_only": "a context of this machine forbids changes",
    "refused": "the default of a refusal that no program needs to tell apart",
    "settings": "this machine's settings",
    "unknown_request": "the hub answers with no rows, and says where it looked",
    "unsupported_base": "a plan for a base whose layers are not known here",
    "usage": "wrong use of a command",
}


def raised() -> dict[str, str]:
    """Every code that a command gives, with where it stands."""
    folder = Path(loradeck.cli.__file__).parent
    found = {}
    for module in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "code" and isinstance(node.value, ast.Constant):
                found[str(node.value.value)] = f"{module.name}:{node.lineno}"
    return found


def test_a_command_that_refuses_what_the_hub_would_uses_the_hubs_code() -> None:
    artifacts = {word.strip(" ,.;:") for word in (BadArtifact.__doc__ or "").split()}
    shared = STATUS.keys() | artifacts
    assert {code: where for code, where in raised().items() if code not in shared and code not in OWN} == {}


def test_a_code_of_the_commands_own_is_none_of_the_hubs() -> None:
    assert not OWN.keys() & STATUS.keys()


def test_the_list_of_own_codes_names_none_that_is_gone() -> None:
    used = raised().keys() | {"refused", "settings", "usage"}
    assert OWN.keys() <= used
