"""The example recipes of synthetic rows are recipes, and ask what they say."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from loradeck.rules.data.synthetic import prompts
from loradeck.schemas.generation import GenerateSpec

FOLDER = Path(__file__).parents[3] / "examples" / "generate"


def example(name: str) -> GenerateSpec:
    """A recipe with digests in the place of names, as `loradeck job generate` resolves them."""
    fields: dict[str, Any] = tomllib.loads((FOLDER / name).read_text())
    judge = fields["verifier"].get("judge")
    for number, part in enumerate([*fields["sources"], *([judge] if judge else [])]):
        part.pop("release", part.pop("teacher", None))
        part |= {"release": f"{number:064x}", "base": "b" * 64}
    fields["beside"] = ["d" * 64]
    return GenerateSpec.model_validate(fields)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_every_example_makes_different_prompts_and_says_who_accepted_the_terms(path: Path) -> None:
    spec = example(path.name)
    asked = [json.dumps(one.messages) for one in prompts(spec)]
    assert len(asked) == len(set(asked)) > 10
    assert all(source.terms for source in spec.sources)
