"""Train executor: trains an adapter, or every weight of a small base, by a recipe.

    python -m loradeck_agent.executors train --spec spec.json
    torchrun --standalone --nproc-per-node N -m loradeck_agent.executors train --spec spec.json

Before the first step it refuses recipes that would train the wrong thing: another base, a chat template or tokens
that do not fit, rows that contain items of the evaluation, too little memory. docs/training.md lists the metrics of
each step.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loradeck.artifacts.rows.contamination import contaminated
from loradeck.schemas.ids import digest_of
from loradeck.schemas.jobs import TrainSpec
from loradeck.schemas.training import PAIRS, DistilWay, Method
from loradeck_agent.executors.base import Base, outlined, read_weights
from loradeck_agent.executors.evaluation.served import Served
from loradeck_agent.executors.protocol import BadSpec, Run
from loradeck_agent.executors.rows import Suite, check_schemas, read_suite
from loradeck_agent.executors.training.checkpoints import CheckpointFolder, ResumeToken
from loradeck_agent.executors.training.distillation import (
    Distilled,
    DistilledByTop,
    answered,
    ask_teacher,
    check_teacher,
    read_teacher,
)
from loradeck_agent.executors.training.loop import Loop
from loradeck_agent.executors.training.memory_probe import check_plan
from loradeck_agent.executors.training.objectives import Grpo, Kto, Objective, Preferences, Supervised, balanced
from loradeck_agent.executors.training.process_group import World, joined, own_device, read_sharded
from loradeck_agent.executors.training.templates import Example, check_base, check_served, examples_of
from loradeck_agent.executors.training.trained import AnswerReader, Trained, prepared
from loradeck_agent.executors.training.training_rows import Lesson, read_lessons
from loradeck_agent.executors.training.validation import HeldBack, Looks, Selection, hold_back, read_safety

AT_ONCE = 8
"""How many rows the engine that serves is asked about at a time."""


def train(current: Run) -> Mapping[str, Any]:
    """Runs one train job; the results are in the spec's `out` folder when it returns.

    Returns the data of the FINISHED event: the digest of the adapter or base, the number of rows, and what `Loop.run`
    returns.

    Raises:
        BadSpec: the recipe, its inputs or the base is wrong; nothing is trained.
        Diverged, OutOfMemory, Preempted: see `Loop.run`.
    """
    spec = current.spec.spec
    assert isinstance(spec, TrainSpec)
    if spec.base != current.spec.base_digest:
        raise BadSpec("wrong_base", f"the recipe is for the base {spec.base}, this one is {current.spec.base_digest}")
    lessons = _lessons(current, spec)
    _check_contamination(current, lessons)
    with joined(current.spec.processes or spec.processes) as world:
        if spec.pieces % world.size:
            raise BadSpec("bad_spec", f"{world.size} processes cannot share the {spec.pieces} pieces of a step evenly")
        base = outlined(current.spec)
        check_base(base, spec)
        made = [(lesson, examples_of(base, lesson, spec.max_tokens)) for lesson in lessons]
        if current.spec.engine is not None and world.first:
            check_served(current, base, Served(current.spec.engine, AT_ONCE), made)
        examples = [one for _, each in made for one in each]
        planned = check_plan(base.model, spec, examples, world=world.size)
        current.phase("loading the base")
        if spec.sharded and world.size > 1:
            base.model = read_sharded(Path(current.spec.base), spec.precision, world, own_device())
        else:
            base.model = read_weights(Path(current.spec.base), spec.precision, own_device())
        trained = prepared(base, spec, current.input(spec.parent) if spec.parent else None)
        if spec.distillation is not None and spec.distillation.way is DistilWay.SEQUENCE:
            teacher = read_teacher(current.input(spec.distillation.teacher), spec.distillation, base, own_device())
            current.phase("the teacher answers")
            examples = answered(current, base, teacher, examples, spec)
            del teacher
        current.check()
        found = _loop(current, spec, base, trained, examples, world).run()
        world.wait()
        digest = trained.publish(Path(current.spec.out), Path(current.spec.base), spec) if world.first else ""
    kind = "adapter" if trained.config is not None else "base"
    return {kind: digest, "rows": len(lessons), "planned_memory_bytes": planned.total, **found}


def _loop(current: Run, spec: TrainSpec, base: Base, trained: Trained, examples: list[Example], world: World) -> Loop:
    objective = _objective(current, spec, base, trained, examples)
    AnswerReader(trained, base.pad).check_logits(examples[0])
    task = [example for example in examples if not example.general]
    general = [example for example in examples if example.general]
    looks = None
    if spec.validation is not None:
        task, held_task = hold_back(task, spec.validation.rows, spec.seed, _tokens)
        count = min(spec.validation.rows, len(general) // 5)
        general, held_general = hold_back(general, count, spec.seed, _tokens) if count else (general, [])
        if not held_task:
            raise BadSpec(
                "bad_data",
                "validation finds nothing to hold back: rows that are the same stay together, and one is trained on",
            )
        safety = read_safety(base, current.input(spec.safety.dataset), spec.safety) if spec.safety else None
        held, suite = HeldBack(held_task, held_general), spec.validation.suite
        selection = Selection(_suite(current, suite), spec.validation) if suite else None
        looks = Looks(current, base, trained, objective, held, spec.validation, safety, selection)
    folder = None
    if current.spec.checkpoints is not None:
        token = ResumeToken.of(spec, digest_of(spec), world.size)
        folder = CheckpointFolder(Path(current.spec.checkpoints), token, spec.keep)
    return Loop(current, spec, trained, objective, task, general, looks, folder, world)


def _objective(current: Run, spec: TrainSpec, base: Base, trained: Trained, examples: list[Example]) -> Objective:
    """Makes the objective of the recipe's method."""
    if spec.method in PAIRS:
        return Preferences(trained, base, spec)
    reader = AnswerReader(trained, base.pad, spec.packing)
    if spec.packing:
        reader.check_packing(examples)
    if spec.method is Method.KTO:
        good, bad = (sum(one.weight for one in examples if one.good is said) for said in (True, False))
        return Kto(reader, spec.beta, balanced(good, bad))
    if spec.sampling is not None:
        return Grpo(reader, base, spec.sampling, spec.structure, spec.kl)
    if spec.distillation is not None and spec.distillation.way is DistilWay.TOP:
        check_teacher(current.input(spec.distillation.teacher), spec.distillation, base)
        if current.spec.teacher is None:
            raise BadSpec("bad_spec", "the spec names no engine that serves the teacher")
        kept = Path(current.spec.checkpoints or Path(current.spec.out).parent)
        said = ask_teacher(current, Served(current.spec.teacher, AT_ONCE), examples, spec.distillation, kept)
        return DistilledByTop(reader, said, spec.distillation)
    if spec.distillation is not None and spec.distillation.way is DistilWay.LOGITS:
        folder = current.input(spec.distillation.teacher)
        teacher = read_teacher(folder, spec.distillation, base, own_device())
        asked = AnswerReader(Trained(teacher, {}, None, {}), base.pad)
        return Distilled(reader, asked, spec.distillation, len(base.tokenizer))
    return Supervised(reader, spec.kl, spec.mixing is not None)


def _suite(current: Run, digest: str) -> Suite:
    suite = read_suite(current.input(digest), digest)
    if suite.harness is not None:
        raise BadSpec("bad_data", "checkpoints are chosen by a suite with items of its own, not by a harness's task")
    check_schemas(suite)
    return suite


def _tokens(example: Example) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(example.ids), tuple(example.rejected)


def _lessons(current: Run, spec: TrainSpec) -> list[Lesson]:
    general = spec.mixing.dataset if spec.mixing else None
    return [
        lesson
        for digest in spec.datasets
        for lesson in read_lessons(current.input(digest), spec, general=digest == general)
    ]


def _check_contamination(current: Run, lessons: list[Lesson]) -> None:
    """Checks that no row has an item of held-out suites. Raises: BadSpec: `contaminated`, with 20 such ids at most."""
    found: dict[str, str] = {}
    for digest in current.spec.held_out:
        questions = read_suite(current.input(digest), digest).questions
        found |= contaminated([lesson.question for lesson in lessons], questions)
    if found:
        items = "; ".join(f"{item} ({how})" for item, how in sorted(found.items())[:20])
        raise BadSpec(
            "contaminated",
            f"the training rows contain {len(found)} items of the evaluation: {items}. Remove those rows, or the score "
            "means nothing",
        )
