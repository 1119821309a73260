"""Rules do no input or output and know no clock and no chance: what they may import is this short."""

from __future__ import annotations

import ast
from pathlib import Path

import loradeck.rules
from loradeck.rules.errors import STATUS, Refused

FOLDER = Path(loradeck.rules.__file__).parent
ALLOWED = {
    "__future__",
    "collections",
    "collections.abc",
    "dataclasses",
    "datetime",
    "enum",
    "fnmatch",
    "functools",
    "hashlib",
    "math",
    "re",
    "statistics",
    "typing",
}


def imports(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def test_rules_import_schemas_and_a_handful_of_pure_modules() -> None:
    modules = sorted(FOLDER.rglob("*.py"))
    assert len(modules) > 10
    for module in modules:
        names = imports(ast.parse(module.read_text()))
        others = {n for n in names if not n.startswith(("loradeck.rules", "loradeck.schemas"))}
        assert others <= ALLOWED, f"{module.name} imports {others - ALLOWED}"
        assert "now(" not in module.read_text(), f"{module.name} looks at a clock"


def test_every_code_that_a_rule_raises_has_a_status() -> None:
    raised = set()
    for module in FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Refused":
                code = node.args[0]
                assert isinstance(code, ast.Constant), f"{module.name}:{node.lineno} raises a code that is worked out"
                raised.add(code.value)
    assert raised <= set(STATUS)
    assert {"moved", "target_changed", "needs_confirmation", "held", "quarantined"} <= raised


def test_a_refusal_knows_its_status_and_says_its_code() -> None:
    refusal = Refused("moved", "it has moved", context={"generation": 4})
    assert refusal.status == 409
    assert str(refusal) == "moved: it has moved"
    assert refusal.context == {"generation": 4}
