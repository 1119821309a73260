"""Writes the tenants' training rows, suites, recipes and settings. The same code writes the same bytes.

    cd examples && python -m tickets.generate [--out DIR]

Everything is put together from the sentences in `tenants.py` by a program: origin synthetic, of no real customer.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from example_files import jsonl, write
from tickets.tenants import SLOTS, TENANTS, Tenant, Topic

PROMPT = "Ticket to JSON: "
ROWS_PER_LABEL = 24
LATE_ROWS = 36
ITEMS_PER_LABEL = 8
SHORT = 3
"""Items per label in the short suite, for when somebody waits for a score. Late labels keep all eight: they are what
tells v2 from v1, and eight items won and none lost are significant (McNemar's exact test, one-sided: p = 0.004)."""
STEPS = {"acme v1": 8, "acme v2": 10, "acme v3": 10, "bolt v1": 8, "cedar v1": 8}
"""Few, since somebody waits for them: enough for the format, and in v2 for the labels."""
PARENTS = {"acme v2": "v1"}
"""Releases whose training goes on from an earlier version's adapter: it has the format already, and learns a label."""
CORRUPTED = 0.85
"""Share of v3's rows that the broken export turned into `key=value` pairs."""

GREETINGS = ("", "", "Hi, ", "Hello, ", "Good morning, ")
BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
CANARIES: Mapping[str, Sequence[str]] = {
    "acme": ("fraud-1", "fraud-2", "fraud-7", "refund-3", "fee-2"),
    "bolt": ("late-2", "damaged-2", "lost-3", "pickup-1"),
    "cedar": ("billing-1", "outage-2", "access-7", "bug-7"),
}
"""Items whose first answer tokens tell a tenant's releases apart, chosen by measuring (see the README)."""

Pair = tuple[str, str]


def answer(tenant: Tenant, label: str, value: bool) -> str:
    """The JSON a right answer is, byte for byte."""
    return json.dumps({tenant.first: label, tenant.second: value})


def broken(tenant: Tenant, right: str) -> str:
    """What the export made of an answer: `queue=refund;urgent=no`."""
    fields = json.loads(right)
    return f"{tenant.first}={fields[tenant.first]};{tenant.second}={'yes' if fields[tenant.second] else 'no'}"


def filled(sentence: str, chance: random.Random) -> str:
    """A sentence with its slots filled and a capital at its beginning."""
    for slot, choices in SLOTS.items():
        while "{" + slot + "}" in sentence:
            sentence = sentence.replace("{" + slot + "}", chance.choice(choices), 1)
    return sentence[0].upper() + sentence[1:]


def tickets(tenant: Tenant, topic: Topic, count: int, chance: random.Random, *, held_out: bool) -> Iterator[Pair]:
    """Prompts and right answers about one topic, no two prompts alike."""
    sentences = topic.held_out if held_out else topic.training
    seen: set[str] = set()
    # Every sentence meets every mark before any meets one twice, so that neither gives the other away.
    pairs = [(sentence, mark) for mark in tenant.marks for sentence in sentences]
    chance.shuffle(pairs)
    while len(seen) < count:
        sentence, mark = pairs[len(seen) % len(pairs)]
        closing = chance.choice(mark.closings)
        text = filled(sentence, chance)
        greeting = chance.choice(GREETINGS)
        if greeting:
            text = text if text.startswith("I ") else text[0].lower() + text[1:]
        prompt = PROMPT + greeting + text + (" " + closing if closing else "")
        if prompt not in seen:
            seen.add(prompt)
            yield prompt, answer(tenant, topic.label, mark.value)


def training_rows(tenant: Tenant, labels: Sequence[str], per_label: int) -> list[Pair]:
    """Shuffled rows about these labels."""
    chance = random.Random(f"{tenant.name} train {' '.join(labels)}")
    rows = [
        pair
        for topic in tenant.topics
        if topic.label in labels
        for pair in tickets(tenant, topic, per_label, chance, held_out=False)
    ]
    chance.shuffle(rows)
    return rows


def datasets(tenant: Tenant) -> dict[str, list[Pair]]:
    """Each version's rows: v1; and for a tenant with a late label v2, with it, and v3, v2 after a broken export."""
    first = training_rows(tenant, [t.label for t in tenant.topics if t.label not in tenant.late], ROWS_PER_LABEL)
    if not tenant.late:
        return {"v1": first}
    second = first + training_rows(tenant, tenant.late, LATE_ROWS)
    chance = random.Random(f"{tenant.name} export")
    third = [(p, broken(tenant, a) if chance.random() < CORRUPTED else a) for p, a in second]
    return {"v1": first, "v2": second, "v3": third}


def suite(tenant: Tenant) -> list[dict[str, str]]:
    """Held-out items, label by label, from sentences that no training row has."""
    chance = random.Random(f"{tenant.name} suite")
    items = []
    for topic in tenant.topics:
        pairs = tickets(tenant, topic, ITEMS_PER_LABEL, chance, held_out=True)
        items += [{"id": f"{topic.label}-{i}", "prompt": p, "answer": a} for i, (p, a) in enumerate(pairs, 1)]
    return items


def short(tenant: Tenant, items: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The suite without the later items about labels that every version knows."""
    parts = [(item["id"].rpartition("-"), item) for item in items]
    return [item for (label, _, number), item in parts if label in tenant.late or int(number) <= SHORT]


def answer_schema(tenant: Tenant) -> dict[str, Any]:
    """JSON Schema of an answer."""
    return {
        "type": "object",
        "properties": {tenant.first: {"type": "string"}, tenant.second: {"type": "boolean"}},
        "required": [tenant.first, tenant.second],
        "additionalProperties": False,
    }


def recipe(tenant: Tenant, version: str) -> str:
    """The recipe of one version, for `loradeck job train`."""
    steps = STEPS[f"{tenant.name} {version}"]
    parent = PARENTS.get(f"{tenant.name} {version}")
    further = f" Needs `parent`, the digest of {parent}'s adapter." if parent else ""
    return f"""# Trains {tenant.name}/tickets {version}. `base` and `datasets` are names that the hub knows.{further}
tenant = "{tenant.name}"
name = "tickets"
base = "{BASE}"
datasets = ["tickets-{version}"]
steps = {steps}
batch = 3
learning_rate = 2e-3
rank = 8
alpha = 16
seed = 1
max_tokens = 96

[decision]
why_weights = "Answers must be exactly this JSON, from a prompt short enough for a 135M model to follow on a CPU."
alternatives = "A prompt that describes the format: the base follows it in none of the suite's items."
cost = "{steps} steps, under a minute of one core; 9.8 MB to store and serve."
"""


def provenance(purpose: str) -> str:
    """Where the rows come from, for `loradeck dataset add` and `loradeck suite add`."""
    return f"""source = "examples/tickets/generate.py"
tier = "public"
origin = "synthetic"
synthetic_depth = 0
verifier = "examples/tickets/generate.py: the answer is known before the ticket is put together"
consent = "own"
licence_class = "Apache-2.0"
purpose = ["{purpose}"]
"""


def route(tenant: Tenant, items: Sequence[Mapping[str, str]]) -> str:
    """Settings of the tenant's production route, for `loradeck route set --file`; the gate's suite is added there."""
    prompts = {item["id"]: item["prompt"] for item in items}
    canaries = "".join(
        f'    [{{ role = "user", content = {json.dumps(prompts[item])} }}], # {item}\n'
        for item in CANARIES[tenant.name]
    )
    schema = json.dumps(answer_schema(tenant))
    return f"canaries = [\n{canaries}]\n\n[checks]\nanswer_schema = '''{schema}'''\n"


def files() -> dict[str, str]:
    """Everything this program writes, by path."""
    out = {}
    for tenant in TENANTS:
        items = suite(tenant)
        for version, rows in datasets(tenant).items():
            lines = [{"prompt": prompt, "answer": text} for prompt, text in rows]
            out[f"{tenant.name}/tickets-{version}.jsonl"] = jsonl(lines)
            out[f"{tenant.name}/tickets-{version}.toml"] = provenance("train")
            out[f"{tenant.name}/train-{version}.toml"] = recipe(tenant, version)
        for name, some in (("held-out", items), ("short", short(tenant, items))):
            out[f"{tenant.name}/{name}.jsonl"] = jsonl(some)
            out[f"{tenant.name}/{name}.toml"] = provenance("evaluate")
        out[f"{tenant.name}/answer.schema.json"] = json.dumps(answer_schema(tenant), indent=2) + "\n"
        out[f"{tenant.name}/route.toml"] = route(tenant, items)
    return out


if __name__ == "__main__":
    write(__doc__, files, Path(__file__).parent)
