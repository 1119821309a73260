"""A task of lm-eval over rows: `question` is put to the model, and `answer` has to come back to the letter."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.integration.executors.running import write_rows


def write_task(folder: Path, name: str, rows: Sequence[Mapping[str, Any]], generation: Mapping[str, Any]) -> None:
    """Writes the task and its rows into a folder for `--include_path`. `generation`: how answers are generated."""
    folder.mkdir()
    lines = [
        f"task: {name}",
        "dataset_path: json",
        f"dataset_kwargs: {{data_files: {{test: {write_rows(folder / 'rows.jsonl', [dict(row) for row in rows])}}}}}",
        "test_split: test",
        "output_type: generate_until",
        'doc_to_text: "{{question}}"',
        'doc_to_target: "{{answer}}"',
        f"generation_kwargs: {json.dumps(generation)}",
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]",
        "metadata: {version: 1.0}",
    ]
    (folder / f"{name}.yaml").write_text("\n".join(lines) + "\n")
