"""Datasets of judgements: rubrics, raters, items and judgements, one JSON object a line, told apart by their fields."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from loradeck.artifacts.errors import BadArtifact
from loradeck.artifacts.rows.barred_rows import row_digest
from loradeck.artifacts.rows.dataset_rows import rows_in
from loradeck.schemas.fault import first_wrong
from loradeck.schemas.ids import Digest
from loradeck.schemas.preference import TIE, Campaign, Item, Judgement, Rater, Rubric

KNOWN_BY: dict[str, type[Rubric | Rater | Item]] = {"text": Rubric, "qualifications": Rater, "prompt": Item}
"""The field by which a line is known, looked for in this order; any other line is a judgement."""


def campaign_in(paths: Mapping[str, Path]) -> Campaign:
    """Reads and checks what a dataset of judgements holds. `paths`: name of a file in the manifest -> its path.

    Raises: BadArtifact: `bad_rows`; `bad_judgements`, with the line.
    """
    rubrics, raters, items = dict[str, Rubric](), dict[str, Rater](), dict[str, Item]()
    judgements, digests = dict[tuple[str, str, str], tuple[str, Judgement]](), dict[str, Digest]()
    for where, row in rows_in(paths):
        match line := _line(where, row):
            case Rubric():
                _new(rubrics, line.rubric, line, where)
            case Rater():
                _new(raters, line.rater, line, where)
            case Item():
                _new(items, line.item, line, where)
                digests[line.item] = row_digest(row)
            case Judgement():
                _new(judgements, (line.item, line.rater, line.rubric), (where, line), where)
    known = Counter(rater.person for rater in raters.values() if rater.person)
    if twice := sorted(person for person, times in known.items() if times > 1):
        where = ", ".join(sorted(rater.rater for rater in raters.values() if rater.person == twice[0]))
        raise _bad("two raters are one person", f"{twice[0]}: {where}", "give a person's judgements one rater")
    kinds = {item.kind for item in items.values()}
    if len(kinds) != 1:
        raise _bad("items are all pairs, all answers or all labels", f"here: {', '.join(sorted(kinds)) or 'no items'}")
    for item in items.values():
        if item.gold is not None and (item.gold == TIE or not item.takes(item.gold)):
            raise _bad("gold is no choice that this item has", f"item {item.item}")
    for where, one in judgements.values():
        if one.item not in items or one.rater not in raters or one.rubric not in rubrics:
            raise _bad("a judgement names an item, a rater or a rubric that no line describes", where)
        if not items[one.item].takes(one.choice, rubrics[one.rubric].scale):
            raise _bad("this is no choice of the item", where, "a, b or tie; good or bad; a label of the scale")
    return Campaign(rubrics, raters, items, [one for _, one in judgements.values()], digests)


def text_of(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as the text of a file, one JSON object a line: equal rows are an equal file."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _line(where: str, row: Mapping[str, Any]) -> Rubric | Rater | Item | Judgement:
    known: Iterable[type[Rubric | Rater | Item]] = (kind for field, kind in KNOWN_BY.items() if field in row)
    kind = next(iter(known), Judgement)
    try:
        return kind.model_validate(row)
    except ValidationError as error:
        raise _bad(f"this is no {kind.__name__.lower()}", f"{where}: {first_wrong(error)}") from None


def _new(known: dict[Any, Any], key: Any, line: Any, where: str) -> None:
    if key in known:
        raise _bad("a rubric, rater, item or judgement stands here twice", where, "remove one of the two lines")
    known[key] = line


def _bad(title: str, where: str, fix: str = "correct the line") -> BadArtifact:
    return BadArtifact("bad_judgements", title, where, fix)
