"""Which functions of the rules a run calls, noticed at the first call of each and at no cost after it."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import FunctionType
from typing import Any

import loradeck.rules


def watch() -> set[str]:
    """Begins to note which functions of the rules are called.

    A function's code is replaced by one that notes the call and puts the function's own code back. So it is noticed
    under every name by which a module has imported it.

    Returns:
        The functions that have been called since, as `moves.candidate.start`. It grows.
    """
    called: set[str] = set()
    for found in pkgutil.walk_packages(loradeck.rules.__path__, f"{loradeck.rules.__name__}."):
        module = importlib.import_module(found.name)
        for name, value in list(vars(module).items()):
            function = inspect.unwrap(value) if callable(value) else None
            if isinstance(function, FunctionType) and function.__module__ == found.name and not function.__closure__:
                _notice(function, f"{found.name.removeprefix(f'{loradeck.rules.__name__}.')}.{name}", called)
    return called


def _notice(function: FunctionType, name: str, called: set[str]) -> None:
    code = function.__code__

    def first(args: tuple[Any, ...], how: dict[str, Any]) -> Any:
        function.__code__ = code
        called.add(name)
        return function(*args, **how)

    function.__globals__[f"first call of {name}"] = first
    function.__code__ = _calls_it.__code__.replace(co_names=(f"first call of {name}",))


def _calls_it(*args: Any, **how: Any) -> Any:
    """The code that stands in: it finds what it calls by a name, since it may have no closure."""
    return first(args, how)  # type: ignore[name-defined]  # noqa: F821
