"""The keys of one person: the default table, changed by the `[keys]` table of config.toml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from loradeck.client.errors import ConfigError
from loradeck.tui.keys.action import Action, Screen
from loradeck.tui.keys.default_bindings import BINDINGS, Binding

_NAMED = frozenset(
    ["enter", "escape", "tab", "space", "backspace", "delete", "insert", "home", "end", "pageup", "pagedown"]
    + ["up", "down", "left", "right", "shift+tab"]
    + [f"f{number}" for number in range(1, 13)]
    + [f"ctrl+{letter}" for letter in "abcdefgjklnopqrstuvwxyz"]  # terminals send ctrl+h, i and m as other keys
)
_KEYS_ARE = (
    "a key is one character, or one of enter, escape, tab, shift+tab, space, backspace, delete, insert, home, end, "
    "pageup, pagedown, up, down, left, right, f1 to f12, and ctrl+ with a small letter but h, i and m"
)


@dataclass(eq=False)
class Keys:
    """The bindings that hold in one console."""

    bindings: Sequence[Binding] = BINDINGS

    @cached_property
    def _shown(self) -> dict[str, str]:
        return {binding.action: binding.shown for binding in reversed(self.bindings)}

    @classmethod
    def remapped(cls, own: Mapping[str, Sequence[str]], *, where: str) -> Keys:
        """The default table with other keys for some actions.

        Args:
            own: the keys of an action, by its name.
            where: the file and table that they stand in, for errors.

        Raises: ConfigError: an action or a key that there is not, two actions on one key of a screen, or escape or
        ctrl+c for an action that moves something.
        """
        if unknown := sorted(set(own) - set(Action)):
            raise ConfigError(
                f"no action is called {unknown[0]!r}", detail=where, fix=f"known are: {', '.join(Action)}"
            )
        for name, keys in own.items():
            if not keys:
                raise ConfigError(f"{name} has no key", detail=where, fix=f"give one; {_KEYS_ARE}")
            for key in keys:
                if not _is_key(key):
                    raise ConfigError(f"{key!r} is no key", detail=f"{where} {name}", fix=_KEYS_ARE)
        made = cls(
            [
                replace(binding, keys=tuple(own[binding.action]), reads="") if binding.action in own else binding
                for binding in BINDINGS
            ]
        )
        made._refuse_shared_keys(where)
        made._refuse_keys_that_leave(where)
        return made

    def _refuse_keys_that_leave(self, where: str) -> None:
        """Refuses escape and ctrl+c for what moves something.

        Both are pressed to get away from a question, and a terminal's answer that is cut after its first byte reads as
        escape: nothing may be moved by either.
        """
        for binding in self.bindings:
            if binding.moves:
                for key in {"escape", "ctrl+c"}.intersection(binding.keys):
                    raise ConfigError(
                        f"{key} cannot stand for {binding.action}: it is the key that leaves",
                        detail=where,
                        fix="give it another key",
                    )

    def _refuse_shared_keys(self, where: str) -> None:
        for screen in Screen:
            taken: dict[str, Action] = {}
            for binding in self.bindings:
                for key in binding.keys if screen in binding.where else ():
                    first = taken.setdefault(key, binding.action)
                    if first is not binding.action:
                        raise ConfigError(
                            f"{key} stands for both {first} and {binding.action} on the {screen.value} screen",
                            detail=where,
                            fix="give one of them another key",
                        )

    def lookup(self, pressed: str, screen: Screen) -> Binding | None:
        """The binding of a key on a screen; None when it means nothing there."""
        for binding in self.bindings:
            if pressed in binding.keys and screen in binding.where:
                return binding
        return None

    def elsewhere(self, pressed: str, screen: Screen) -> Binding | None:
        """A binding of a key that means something on another screen only."""
        for binding in self.bindings:
            if pressed in binding.keys and screen not in binding.where:
                return binding
        return None

    def means_nothing(self, pressed: str, screen: Screen) -> str:
        """The notice on a key that does nothing on a screen: where it does something, if anywhere."""
        other = self.elsewhere(pressed, screen)
        help_key = self.shown(Action.HELP)
        if other is None:
            name = pressed if len(pressed) > 1 or pressed.isprintable() else repr(pressed)
            return f"{name} is no key here; {help_key} shows which are"
        where = ", ".join(one.value for one in Screen if one in other.where)
        name = f"{other.shown} ({other.label or other.action})"
        return f"{name} is a key of the {where} screen; {help_key} shows those of this one"

    def hints(self, screen: Screen) -> list[Binding]:
        """The bindings that the footer of a screen may name, in the table's order."""
        return [binding for binding in self.bindings if screen in binding.where and binding.hint]

    def shown(self, action: Action) -> str:
        """The key of an action, as people read it."""
        return self._shown[action]

    def of(self, action: Action) -> frozenset[str]:
        """Every key of an action, on any screen."""
        return frozenset(key for binding in self.bindings if binding.action is action for key in binding.keys)

    def text(self, template: str) -> str:
        """A sentence in which names of actions in braces are replaced by their keys."""
        return template.format_map(self._shown)

    def screens(self) -> str:
        """The keys of the screens in a few characters: '1-9'. Campaigns lie behind ml."""
        shown = [self.shown(Action(screen.value)) for screen in Screen if screen is not Screen.CAMPAIGNS]
        run = "".join(shown)
        return f"{shown[0]}-{shown[-1]}" if len(run) == len(shown) and run in "123456789" else " ".join(shown)


def _is_key(key: str) -> bool:
    return key in _NAMED or (len(key) == 1 and key.isprintable() and key != " ")


DEFAULT = Keys()
"""The keys of a person who has changed none."""
