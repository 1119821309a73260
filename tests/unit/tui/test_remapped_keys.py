"""A person's own keys: they act, every hint shows them, and what cannot be is refused and says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fakes.console_stage import Stage, notice, pane, stage

from loradeck.client.config import Context, load_contexts, load_keys
from loradeck.client.errors import ConfigError
from loradeck.tui.app import run
from loradeck.tui.keys.action import Action, Screen
from loradeck.tui.keys.default_bindings import BINDINGS
from loradeck.tui.keys.personal_keys import Keys
from loradeck.tui.widgets.page import Page

OWN = Keys.remapped(
    {
        "rollback": ("ctrl+r",),
        "undo": ("f2", "U"),
        "fallback": ("B",),
        "confirm": ("Y",),
        "close": ("ctrl+g",),
        "nodes": ("n",),
        "open": ("o",),
        "override": ("O",),
        "help": ("f1",),
    },
    where="config.toml: [keys]",
)


def text_of(on: Stage) -> str:
    """Header, pane and footer of the list in front."""
    front = on.deck.front
    assert front is not None
    return "\n".join((front.header.text, front.pane.text, front.footer.text))


async def test_a_remapped_key_acts_and_the_default_one_does_not() -> None:
    async with stage(keys=OWN) as on:
        await on.press("R")
        assert on.hub.sent == []
        assert notice(on) == "R is no key here; f1 shows which are"
        await on.press("ctrl+r")
        assert [move.kind.value for move in on.hub.sent] == ["rollback"], "armed, so it acts at once"


async def test_every_hint_of_the_screen_shows_the_remapped_keys() -> None:
    async with stage(keys=OWN, size=(160, 48)) as on:
        shown = text_of(on)
        for hint in ("ctrl+r ARMED", "f1 keys", "ctrl+r roll back", "f2/U undo", "B base", "f1 help"):
            assert hint in shown, hint
        assert "1 n 3 4 5 6 7 8 9 screens" in shown
        await on.press("B")
        assert "B acme/production v9/B2 > base alone/B2" in pane(on)
        assert "Y or ctrl+g?" in pane(on)
        assert "Y does it, ctrl+g leaves; nothing has been sent" in pane(on)
        await on.press("y")
        assert notice(on) == "y is no key here; f1 shows which are"
        assert on.deck.moves.question is not None, "only the key for yes is yes, and no key drops nothing"
        await on.press("B")
        assert notice(on) == "B does nothing here: Y does it, ctrl+g leaves"
        await on.press("ctrl+g", "j", "k")
        assert "ctrl+r not armed: " in pane(on)


async def test_the_help_page_shows_them_and_its_own_key_leaves_it() -> None:
    async with stage(keys=OWN, size=(160, 48)) as on:
        await on.press("f1")
        await on.pause()
        page = on.deck.screen
        assert isinstance(page, Page)
        text = "\n".join("".join(span.text for span in spans) for spans in page._lines)
        for entry in (" ctrl+r     Roll back", " f2/U       Undo", "Asks for Y.", "what ctrl+r does", "what B does"):
            assert entry in text.replace("\n", " ") or entry in text, entry
        await on.press("f1")
        await on.pause()
        assert on.deck.front is not None


async def test_a_remapped_key_of_a_screen_goes_there_and_opens_its_row() -> None:
    async with stage(keys=OWN) as on:
        await on.press("n")
        assert on.deck.state.screen is Screen.NODES
        await on.press("o")
        await on.pause()
        assert isinstance(on.deck.screen, Page)


@pytest.mark.parametrize(
    ("own", "what", "do"),
    [
        ({"rolback": ["r"]}, "no action is called 'rolback'", "known are: rollback, undo"),
        ({"rollback": ["ctrl+R"]}, "'ctrl+R' is no key", "ctrl+ with a small letter"),
        ({"rollback": ["ctrl+i"]}, "'ctrl+i' is no key", "but h, i and m"),
        ({"rollback": ["RR"]}, "'RR' is no key", "a key is one character"),
        ({"rollback": [" "]}, "' ' is no key", "space"),
        ({"rollback": []}, "rollback has no key", "give one"),
        ({"rollback": ["u"]}, "u stands for both rollback and undo on the tenants screen", "another key"),
        ({"drain": ["X"], "cordon": ["X"]}, "X stands for both drain and cordon on the nodes screen", "another key"),
        ({"cancel": ["q"]}, "q stands for both cancel and quit on the jobs screen", "another key"),
    ],
)
def test_what_cannot_be_is_refused_with_what_where_and_what_to_do(
    own: dict[str, list[str]], what: str, do: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        Keys.remapped(own, where="config.toml: [keys]")
    assert refused.value.title == what
    assert refused.value.detail.startswith("config.toml: [keys]")
    assert do in refused.value.fix


@pytest.mark.parametrize("action", ["rollback", "undo", "fallback", "promote", "confirm"])
@pytest.mark.parametrize("key", ["escape", "ctrl+c"])
def test_nothing_that_moves_is_put_on_a_key_that_leaves(action: str, key: str) -> None:
    own = {action: (key,), "close": ("z",), "quit": ("Q",)}
    with pytest.raises(ConfigError) as caught:
        Keys.remapped(own, where="config.toml: [keys]")
    assert f"{key} cannot stand for {action}" in str(caught.value)


def test_one_key_may_mean_two_things_on_two_screens_and_two_actions_may_swap_keys() -> None:
    keys = Keys.remapped({"rollback": ["u"], "undo": ["R"], "drain": ["x"]}, where="")
    for pressed, screen, action in (
        ("u", Screen.TENANTS, Action.ROLLBACK),
        ("R", Screen.TENANTS, Action.UNDO),
        ("x", Screen.NODES, Action.DRAIN),
        ("x", Screen.TENANTS, Action.EXPORT_IDS),
    ):
        binding = keys.lookup(pressed, screen)
        assert binding is not None
        assert binding.action is action


def test_every_action_has_a_key_and_no_name_of_one_is_a_key() -> None:
    assert {binding.action for binding in BINDINGS} == set(Action)
    assert not [action for action in Action if len(action) == 1]


def test_keys_are_read_from_the_file_that_names_the_hubs(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    assert load_keys(path) == {}
    path.write_text('current = "lab"\n[contexts.lab]\nsocket = "/run/hub.sock"\n[keys]\nrollback = "ctrl+r"\n')
    assert load_keys(path) == {"rollback": ("ctrl+r",)}
    assert load_contexts(path)[1] == "lab"
    path.write_text('[keys]\ndown = ["j", "down"]\n')
    assert load_keys(path) == {"down": ("j", "down")}


@pytest.mark.parametrize(
    ("text", "what"), [("keys = 3", "'keys' is not a table"), ("[keys]\nundo = 3", "'undo' is a key")]
)
def test_a_table_of_something_else_is_refused(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=what) as refused:
        load_keys(path)
    assert str(path) in refused.value.detail
    assert "rollback" in refused.value.fix


def test_a_console_does_not_start_on_a_table_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "loradeck").mkdir()
    (tmp_path / "loradeck" / "config.toml").write_text('[keys]\nrollback = "u"\n')
    with pytest.raises(ConfigError, match="u stands for both rollback and undo") as refused:
        run(Context(name="there", socket=tmp_path / "hub.sock"))
    assert refused.value.detail.endswith("config.toml: [keys]")
