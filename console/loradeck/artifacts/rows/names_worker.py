"""The process that finds names of people in texts: Presidio with models of spaCy, which nothing else imports.

It is run as a file by the interpreter of an environment that has them, and imports nothing of Loradeck. The first line
on its stdin is the models, `{"models": [{"language", "model", "sha256"}]}`, to which it answers with what it has
loaded, `{"loaded": {language: "model, sha256"}}`, or `{"fault": [code, title, fix]}`. Each further line is a batch,
`{"language", "texts"}`, answered by `{"found": [[[start, end], ...], ...]}`, a list for each text. It ends with its
stdin. No network is asked.
"""

import hashlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any


def digest_of(folder: Path) -> str:
    """SHA-256 of a folder's files, as `find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum` in it says it.

    What Python compiles is none of them: find ... -not -path '*/__pycache__/*'.
    """
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    lines = (
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  ./{name}\n"
        for name in sorted(files, key=os.fsencode)
        if "__pycache__" not in name.split("/")
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class Unusable(Exception):
    """A model cannot be used: code, what is wrong, and what to do."""


def folder_of(model: str) -> Path:
    """The folder of a model, which is an installed package or a path. Raises: Unusable."""
    if "/" in model:
        return Path(model)
    found = importlib.util.find_spec(model) if model.isidentifier() else None
    if found is None or found.origin is None:
        raise Unusable("names_unavailable", f"the model {model!r} is not installed", "pip install 'loradeck[names]'")
    return Path(found.origin).parent


def load(models: list[dict[str, Any]]) -> tuple[Any, dict[str, str]]:
    """Loads models. Returns what analyses batches, and what was loaded, by language. Raises: Unusable."""
    folders = {one["language"]: folder_of(one["model"]) for one in models}
    loaded = {}
    for one in models:
        folder = folders[one["language"]]
        if not folder.is_dir() or any(path.is_symlink() and path.is_dir() for path in folder.rglob("*")):
            title = f"{folder} is no folder of a model, or has links to folders, which no digest covers"
            raise Unusable("names_unavailable", title, "name another")
        digest = digest_of(folder)
        if one["sha256"] not in (None, digest):
            raise Unusable("model_differs", f"{one['model']}: its files have {digest}", "name the model that you know")
        loaded[one["language"]] = f"{folder.name}, sha256 {digest[:12]}"
    try:
        from presidio_analyzer import AnalyzerEngine, BatchAnalyzerEngine, RecognizerRegistry
        from presidio_analyzer.nlp_engine import NlpEngineProvider
        from presidio_analyzer.predefined_recognizers import SpacyRecognizer
    except ImportError as error:
        raise Unusable(
            "names_unavailable", f"Presidio is not there: {error}", "pip install 'loradeck[names]'"
        ) from None
    languages = list(loaded)
    # A package by its name, a folder by its path: Presidio downloads neither, because both are there.
    named = [{"lang_code": one["language"], "model_name": one["model"]} for one in models]
    engine = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": named}).create_engine()
    recognizers = [SpacyRecognizer(supported_language=one, supported_entities=["PERSON"]) for one in languages]
    registry = RecognizerRegistry(recognizers=recognizers, supported_languages=languages)
    analyzer = AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=languages)
    return BatchAnalyzerEngine(analyzer), loaded


def main() -> None:
    """Answers batches until stdin ends."""
    os.nice(5)  # whoever asked serves others meanwhile
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        analyzer, loaded = load(json.loads(sys.stdin.buffer.readline())["models"])
    except Unusable as bad:
        say({"fault": bad.args})
        return
    say({"loaded": loaded})
    for line in sys.stdin.buffer:
        batch = json.loads(line)
        results = analyzer.analyze_iterator(batch["texts"], batch["language"], batch_size=64, entities=["PERSON"])
        say({"found": [[[one.start, one.end] for one in found] for found in results]})


if __name__ == "__main__":
    main()
