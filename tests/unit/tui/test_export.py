"""`:export` writes what the events screen lists as a timeline."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from tests.fakes.console_stage import Stage, stage


async def export(on: Stage, name: str) -> str:
    await on.press(":", *f"export {name}", "enter")
    await on.pause()
    assert on.deck.front is not None
    return on.deck.front.prompt.notice


async def test_the_filtered_events_are_written_to_a_new_file_of_this_users_only(tmp_path: Path) -> None:
    file = tmp_path / "night.md"
    async with stage(size=(160, 40)) as on:
        await on.press("6")
        await on.half_second()
        await on.press("/", *"acme/production", "enter")
        told = await export(on, str(file))
        events = [on.deck.state.events[rev] for rev in on.deck.state.event_list.order]
        assert f"exported {len(events)} events to {file}; chain: all {len(events)} events hash as they say" in told
        text = file.read_text()
        assert text.startswith("# Timeline of eu-1\n")
        assert "filter acme/production" in text
        assert "v8/B2 > v9/B2" in text.replace("\\", "")
        assert "bolt" not in text
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        again = await export(on, str(file))
        assert "not saved" in again
        assert file.read_text() == text


async def test_json_is_exported_by_its_ending_from_any_screen(tmp_path: Path) -> None:
    async with stage() as on:
        await export(on, str(tmp_path / "night.json"))
        document = json.loads((tmp_path / "night.json").read_text())
        assert len(document["events"]) == len(on.deck.state.events)
        assert document["chain"]["intact"] is True


async def test_a_broken_chain_is_told_with_the_export(tmp_path: Path) -> None:
    async with stage(size=(160, 40)) as on:
        rev = max(on.deck.state.events)
        on.deck.state.events[rev] = on.deck.state.events[rev].model_copy(update={"reason": "changed"})
        assert f"BROKEN rev {rev}" in await export(on, str(tmp_path / "night.md"))


@pytest.mark.parametrize("name", ["", "night", "night.txt"])
async def test_another_ending_writes_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with stage() as on:
        assert await export(on, name) == "export FILE.md or FILE.json"
    assert not os.listdir(tmp_path)
