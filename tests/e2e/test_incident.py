"""The incident end to end, on real processes; and the three ways to lie, each of which must be noticed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.fleet import Material, fleet_at, lay, told
from tests.incident_play import play

import incident.sabotage
from incident.verdict import Verdict


async def test_every_move_is_flipped_proven_and_judged_by_tokens_and_no_request_fails(material: Material) -> None:
    with fleet_at(material, tls=True) as fleet:
        cast, key = lay(fleet, material)
        report, answers = await play(fleet, cast, key)
        assert report.held, report.text() + told(fleet)
        assert len(answers) > 300
        assert [answer for answer in answers if not answer.ok] == []
        assert fleet.cli("audit", "verify")["ok"]


@pytest.mark.parametrize("control", incident.sabotage.CONTROLS)
async def test_a_node_that_lies_turns_the_report_red(material: Material, control: str) -> None:
    broken = {
        "late-router": "after an acknowledgement nothing is answered by the left release (decided by tokens)",
        "wrong-file": "every move was proven on every replica by its tokens",
        "bare-base": "every move was proven on every replica by its tokens",
    }
    with fleet_at(material) as fleet:
        cast, key = lay(fleet, material)
        liar = fleet.nodes[1]

        def spoil() -> None:
            fleet.stop_node(liar)
            liar.program = (sys.executable, str(Path(incident.sabotage.__file__)), control)
            fleet.start_agent(liar)
            fleet.wait_until_up()

        report, _ = await play(fleet, cast, key, spoil=spoil)
        assert report.verdict is Verdict.BROKEN
        assert broken[control] in [c.text for c in report.claims if c.verdict is Verdict.BROKEN], report.text()
