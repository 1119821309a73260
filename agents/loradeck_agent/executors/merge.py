"""Merge executor: merges a release's adapter into its base and measures how far the merged weights diverge.

Leaves `weights/` (a base of its own: merged weights, and the base's configuration, tokenizer and template as they
were), `weights.manifest.json` (its BaseManifest) and `report.json` (a MergeReport). A release gives identical bytes on
every node of one kind.

How far they diverge is probed: base + adapter answers fixed prompts greedily; over the tokens of those answers its
next-token distributions are compared with those of the merged weights, and of the base alone. One model is in memory at
a time.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from loradeck.artifacts import BadArtifact
from loradeck.rules.serving.merge import fault
from loradeck.schemas.attestation import MergeProbe, MergeReport
from loradeck.schemas.jobs import MergeSpec
from loradeck.schemas.manifest import BaseManifest, Form, Release
from loradeck_agent.executors.base import read_base
from loradeck_agent.executors.evaluate import adapter_of, with_adapter
from loradeck_agent.executors.evaluation.in_process import greedy
from loradeck_agent.executors.merging.merge_weights import merge_weights
from loradeck_agent.executors.protocol import BadSpec, Run, staged, write_file
from loradeck_agent.host.state_folder import fsync_folder

WEIGHTS = "weights"
WEIGHTS_MANIFEST = f"{WEIGHTS}.manifest.json"
REPORT = "report.json"


def merge(current: Run) -> Mapping[str, Any]:
    """Runs one merge job; the results are in the spec's `out` folder when it returns.

    Returns the data of the FINISHED event: the merged weights' digest, and the mean divergences `kl` and `kl_base`
    (nats).

    Raises:
        BadSpec: spec, base or adapter is wrong, the adapter changes nothing, or the merged weights diverge too far.
        Preempted: SIGTERM was received; nothing is published.
    """
    spec = current.spec.spec
    assert isinstance(spec, MergeSpec)
    torch.set_num_threads(current.spec.threads)
    adapter = adapter_of(current, spec.tenant, spec.release, ())
    if adapter is None:
        raise BadSpec("bad_spec", "the spec gives no adapter to merge")
    (digest,) = current.spec.inputs
    base = Path(current.spec.base)

    def between(done: int, of: int) -> None:
        if done % 16 == 0 or done == of:
            current.progress(done, of)
        current.check()

    with staged(Path(current.spec.out)) as staging:
        folder = staging / WEIGHTS
        folder.mkdir(mode=0o700)
        current.phase("merging")
        began = time.monotonic()
        try:
            merged = merge_weights(base, adapter, folder, between)
        except BadArtifact as bad:
            raise BadSpec(bad.code, str(bad)) from bad
        fsync_folder(folder)
        took = time.monotonic() - began
        found = BaseManifest(model_id="-", revision="-", files=merged.base).digest
        if found != current.spec.base_digest:
            raise BadSpec(
                "wrong_base", f"the base's files have the digest {found}, the spec names {current.spec.base_digest}"
            )
        manifest = BaseManifest(model_id=spec.tenant, revision=f"merged {spec.release[:12]}", files=tuple(merged.files))
        current.phase("probing")
        near = probe(base, adapter, folder, current.spec.canaries, current.check)
        if manifest.digest == found or (merged.dequantized and near.kl_base == 0):
            raise BadSpec("nothing_merged", "the adapter changes no weight of the base; serve the base alone instead")
        if why := fault(near):
            raise BadSpec("probe_failed", why)
        release = Release(tenant=spec.tenant, form=Form.MERGED, base=found, adapter=digest, merged=manifest.digest)
        report = MergeReport(
            release=release.id,
            adapter=spec.release,
            merged=manifest.digest,
            tensors=merged.tensors,
            dequantized=merged.dequantized,
            probe=near,
            seconds=round(took, 3),
        )
        write_file(staging / WEIGHTS_MANIFEST, manifest)
        write_file(staging / REPORT, report)
    return {"merged": manifest.digest, "kl": near.kl, "kl_base": near.kl_base}


PROMPTS = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "My order arrived broken and I want my money back.",
    'Answer as JSON with the key "ok".',
)
"""Prompts of every probe, so that a route without canaries is probed too."""

TOKENS = 16
"""Longest answer that is compared, in tokens."""

_LogProbs = list[torch.Tensor]
"""Log-probabilities `[tokens, vocabulary]` of each answer."""


def probe(
    base: Path,
    adapter: Path,
    merged: Path,
    canaries: Sequence[Sequence[dict[str, str]]],
    between: Callable[[], None] = lambda: None,
) -> MergeProbe:
    """Measures how far the weights in `merged` diverge from the base under `adapter`.

    Args:
        canaries: a route's own conversations, probed beside `PROMPTS`.
        between: called between answers; may raise to end the probe.

    Raises: BadSpec: `bad_adapter`: see `with_adapter`.
    """
    here = read_base(base)
    if getattr(here.model, "hf_quantizer", None) is not None:
        here.model = here.model.dequantize().cpu().float()  # its own products on a CPU do not take every shape
    asked = [[{"role": "user", "content": text}] for text in PROMPTS]
    asked += [[dict(message) for message in messages] for messages in canaries]
    prompts = [here.prompt_ids(messages) for messages in asked]
    model = with_adapter(here.model, adapter).eval()
    answers = []
    for prompt in prompts:
        answers.append(greedy(model, [prompt], TOKENS, eos=here.eos, pad=here.pad)[0].tokens)
        between()
    under_adapter = _log_probs(model, prompts, answers, between)
    with model.disable_adapter():
        alone = [
            _divergence(p, q) for p, q in zip(under_adapter, _log_probs(model, prompts, answers, between), strict=True)
        ]
    del model, here
    model = read_base(merged).model.eval()
    apart, agree = [], 0
    for p, q in zip(under_adapter, _log_probs(model, prompts, answers, between), strict=True):
        apart.append(_divergence(p, q))
        agree += int((p.argmax(-1) == q.argmax(-1)).sum())
    kl, kl_base = torch.cat(apart), torch.cat(alone)
    return MergeProbe(
        prompts=len(prompts),
        positions=len(kl),
        kl=float(kl.mean()),
        kl_worst=float(kl.max()),
        kl_base=float(kl_base.mean()),
        agree=agree,
    )


@torch.inference_mode()
def _log_probs(
    model: Any, prompts: list[list[int]], answers: list[list[int]], between: Callable[[], None]
) -> _LogProbs:
    """The model's log-probabilities at each token of each answer, given the tokens before it."""
    found = []
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([prompt + answer[:-1]], device=model.device)
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=len(answer)).logits[0]
        between()
        found.append(torch.log_softmax(logits.float(), -1))
    return found


def _divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL divergence of each position, in nats; clamped, since rounding may put equal distributions just below 0."""
    return (p.double().exp() * (p.double() - q.double())).sum(-1).clamp(min=0)
