"""Adapter versions: what each was built from, and what any two differ in."""

from __future__ import annotations

from tests.fakes.console_stage import Stage, stage

from loradeck.client.errors import HubUnreachable
from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.tui.keys.action import Screen
from loradeck.tui.lines.lineage import lineage_lines
from loradeck.tui.widgets.page import Page


async def adapters(on: Stage) -> None:
    await on.press("5")
    for _ in range(3):
        await on.half_second()


def page(on: Stage) -> str:
    screen = on.deck.screen
    assert isinstance(screen, Page)
    return screen.body.text


async def test_the_page_goes_back_to_fresh_weights_and_says_what_the_version_went_into() -> None:
    async with stage(size=(120, 48)) as on:
        await adapters(on)
        await on.press("enter")
        await on.pause()
        text = page(on)
        order = [text.index(part) for part in ("   v9 ", " ^ v8 ", " ^ v7 ", "from fresh weights")]
        assert order == sorted(order)
        assert "WENT INTO no other version" in text
        await on.press("escape")
        await on.pause()
        await on.press("j", "enter")
        await on.pause()
        assert "WENT INTO v9" in page(on)


async def test_a_parent_that_is_not_on_record_is_reported() -> None:
    async with stage(size=(120, 48)) as on:
        await adapters(on)
        registry = on.deck.state.registry
        v9, v8 = (registry.adapters[digest] for digest in on.deck.state.adapter_list.order[:2])
        del registry.adapters[v8.digest]
        text = "\n".join("".join(span.text for span in line) for line in lineage_lines(on.deck.state, v9, 120))
        assert f"its parent {v8.digest[:6]} is not on record here" in text
        assert "fresh weights" not in text


async def test_loading_shown_as_empty_evaluations_that_have_not_come_are_not_called_none() -> None:
    async with stage(size=(120, 48)) as on:
        answer = on.hub.attestations

        async def without_scores(*, kind: AttestationKind, **of: str) -> list[Attestation]:
            if kind is AttestationKind.EVALUATION:
                raise HubUnreachable("the hub cannot be reached", detail="hub")
            return await answer(kind=kind, **of)

        on.hub.attestations = without_scores  # type: ignore[method-assign, assignment]
        await adapters(on)
        await on.press("enter")
        await on.pause()
        assert "never evaluated" not in page(on)
        assert page(on).count("not known: the hub cannot be reached") == 3
        on.deck.state.registry.score_fetches.clear()
        version = on.deck.state.registry.adapters[on.deck.state.adapter_list.order[0]]
        lines = lineage_lines(on.deck.state, version, 120)
        assert "looking up ..." in "\n".join("".join(span.text for span in line) for line in lines)


async def test_d_compares_the_marked_version_with_the_selected_one() -> None:
    async with stage(size=(120, 48)) as on:
        await adapters(on)
        await on.press("d")
        assert on.deck.front is not None
        assert "mark a version with space" in on.deck.front.prompt.notice
        await on.press("space")
        assert on.deck.front.grid.text.splitlines()[0].startswith(">*")
        await on.press("d")
        assert "the selected version is the marked one" in on.deck.front.prompt.notice
        await on.press("j", "j", "d")
        await on.pause()
        text = page(on)
        assert "marked v9" in text
        assert "selected v7" in text
        assert "! recipe" in text
        alike = text[text.index("alike in both") :]
        assert "rank" in alike
        await on.press("d")
        await on.pause()
        assert on.deck.state.screen is Screen.ADAPTERS


async def test_a_mark_goes_with_a_second_space_and_with_its_version() -> None:
    async with stage() as on:
        await adapters(on)
        await on.press("space", "space", "j", "d")
        assert on.deck.front is not None
        assert "mark a version with space" in on.deck.front.prompt.notice
        await on.press("space")
        digest = on.deck.state.adapter_list.selected
        assert digest is not None
        on.deck.state.registry.adapters.pop(digest)
        await on.press("k", "d")
        assert "mark a version with space" in on.deck.front.prompt.notice


async def test_markup_and_wide_names_stay_text_in_a_lineage() -> None:
    async with stage(size=(120, 48)) as on:
        await adapters(on)
        state = on.deck.state
        version = state.registry.adapters[state.adapter_list.order[0]]
        odd = version.model_copy(update={"created_by": "[b]節点\u202e"})
        text = "\n".join("".join(span.text for span in line) for line in lineage_lines(state, odd, 120))
        assert "by [b]節点\N{REPLACEMENT CHARACTER}" in text
