"""Orders to nodes, jobs and campaigns, and signatures under reviews. Each asks first and describes its effect.

They move no pointer, but for a campaign's rewind, and may be sent again: an order asks for a state, not for a step.
Nothing here sends anything.
"""

from loradeck.client.terminal_text import clean
from loradeck.schemas.attestation import GateResult
from loradeck.schemas.campaign import CampaignRewind, CampaignState, Stage
from loradeck.schemas.generation import GenerateSpec
from loradeck.schemas.jobs import (
    OVER,
    EvaluateSpec,
    Job,
    JobState,
    JudgeSpec,
    LeakSpec,
    MergeSpec,
    PrepareSpec,
    ProveSpec,
    TrainSpec,
)
from loradeck.schemas.moves import RewindPlan
from loradeck.schemas.state import NodeReplica, NodeRow
from loradeck.tui.key_checks.verdict import Ask, Verdict, barrier, off
from loradeck.tui.keys.action import TO_CAMPAIGNS, Action
from loradeck.tui.model.registry import Gate
from loradeck.tui.model.review_draft import Reviewing
from loradeck.tui.model.sent_moves import Order, Signing
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import on_gpus, plural


def order_of(action: Action, state: ConsoleState) -> Verdict:
    """Decide on an order for the selected node, job or campaign. It never acts at once."""
    if action in TO_CAMPAIGNS:
        return _campaign(action, state)
    if action in (Action.CANCEL, Action.RESUME):
        job = state.jobs.get(state.job_list.selected or "")
        if job is None:
            return off(state, action, "no job is selected")
        return _cancel(state, job) if action is Action.CANCEL else _resume(state, job)
    node = state.nodes.get(state.node_list.selected or "")
    if node is None:
        return off(state, action, "no node is selected")
    return _node(action, state, node)


def outdated(order: Order, state: ConsoleState) -> str | None:
    """Why a question about a node, a job or a campaign is out of date; None while it still holds."""
    if order.action in (Action.CANCEL, Action.RESUME):
        job = state.jobs.get(order.subject)
        now = job_mark(job) if job is not None else None
    elif order.action in (*TO_CAMPAIGNS, Action.REWIND):
        campaign = state.registry.campaigns.get(order.subject)
        now = campaign.state.value if campaign is not None else None
    else:
        node = state.nodes.get(order.subject)
        now = node_mark(node) if node is not None else None
    if now is None:
        return f"{clean(order.subject)} is gone"
    return None if now == order.seen else f"{clean(order.subject)} is {now} now"


def node_mark(node: NodeRow) -> str:
    """The state of a node that an order changes, in words."""
    return "drained" if node.drained else "cordoned" if node.cordoned else "taking jobs"


def job_mark(job: Job) -> str:
    """The state of a job and the attempt that is in it, in words."""
    return f"{job.state.value}, attempt {job.attempt}"


# ---- nodes -------------------------------------------------------------------------------------------------


def _node(action: Action, state: ConsoleState, node: NodeRow) -> Verdict:
    key, name, seen = state.keys.shown(action), clean(node.node), node_mark(node)
    again = f"{state.keys.shown(Action.UNCORDON)} gives it work again"
    if action is Action.DRAIN and node.drained:
        return off(state, action, f"{name} is drained already; {again}")
    if action is Action.CORDON and node.cordoned:
        return off(state, action, f"{name} is {seen} already; {again}")
    if action is Action.UNCORDON and not node.cordoned and not node.drained:
        return off(state, action, f"{name} is neither cordoned nor drained")
    jobs = [job for job in state.jobs.values() if job.node == node.node and job.state not in OVER]
    served = _served(state, node)
    effect = {
        Action.DRAIN: "no new jobs, and its sampler lets go of the GPU driver, so no GPU figures from it; routes of "
        "pools go elsewhere; it serves on until you stop it, and once it is silent no move waits for it",
        Action.CORDON: "no new jobs and no new routes of pools; it serves on, and what runs there goes on",
        Action.UNCORDON: "it is given jobs again, and routes of pools"
        + (", and reports its GPUs again" if node.drained else ""),
    }[action]
    listed = [f"goes on  job {clean(job.id)} {clean(job.kind)} of {clean(job.tenant)}" for job in jobs]
    if action is Action.DRAIN:
        listed = [*served, *listed]
    away = "" if node.linked and not node.lost else "; it is away and hears of it when it is back"
    verb = {Action.DRAIN: "drain", Action.CORDON: "cordon", Action.UNCORDON: "uncordon"}[action]
    order = Order(action, node.node, f"{key} {verb} {name}", seen)
    serving = ""
    if action is Action.DRAIN:
        engines = ", ".join(f"{clean(one.replica)}{_where(node, one)}" for one in node.replicas)
        serving = f"; it serves {plural(len(served), 'pointer')}" + (f" by {engines}" if engines else "")
    return Ask(f"{key} {verb} {name} ({seen}): {effect}{away}{serving}", order=order, listed=tuple(listed))


def _where(node: NodeRow, replica: NodeReplica) -> str:
    """The GPUs of an engine as the driver reports them, or that they are not known."""
    if replica.gpus or not node.gpus:
        return on_gpus(replica)
    return " (on which GPU is not known)"


def _served(state: ConsoleState, node: NodeRow) -> list[str]:
    """Pointers with a replica on a node, those that are served nowhere else first."""
    found: list[tuple[bool, str]] = []
    for (tenant, route), brief in state.tenants.briefs.items():
        here = brief.nodes.count(node.node)
        if here:
            alone = here == len(brief.nodes)
            many = "SERVED NOWHERE ELSE" if alone else f"{here} of {plural(len(brief.nodes), 'replica')}"
            found.append((not alone, f"serves   {clean(tenant)}/{clean(route)} {brief.live}: {many}"))
    return [text for _, text in sorted(found)]


# ---- jobs --------------------------------------------------------------------------------------------------


def _cancel(state: ConsoleState, job: Job) -> Verdict:
    if job.state in OVER:
        return off(state, Action.CANCEL, f"{clean(job.id)} is {job.state.value} already")
    match job.spec:
        case PrepareSpec() as spec:
            effect = f"the promote of {spec.tenant}/{spec.route} does not happen; nothing has moved yet"
        case TrainSpec():
            effect = "it stops at its next step; no adapter comes of it"
        case MergeSpec():
            effect = "it stops at its next file; no merged release comes of it"
        case GenerateSpec():
            effect = "it stops at its next answer; no rows come of it"
        case ProveSpec():
            effect = "it stops at its next step; what is known of training there stays as it is"
        case EvaluateSpec() | LeakSpec() | JudgeSpec():
            effect = "it stops at its next item; no report and no gate result come of it"
    where = f" on {clean(job.node)}" if job.node else ""
    far = f", {job.step}/{job.of or '?'}" if job.step is not None else ""
    key = state.keys.shown(Action.CANCEL)
    order = Order(Action.CANCEL, job.id, f"{key} cancel {clean(job.id)}", job_mark(job))
    line = (
        f"{key} cancel {clean(job.kind)} {clean(job.id)} of {clean(job.tenant)}{where} ({job.state.value}{far}), asked "
    )
    return Ask(f"{line}for by {clean(job.by)}: {effect}", order=order)


def _resume(state: ConsoleState, job: Job) -> Verdict:
    if job.state not in (JobState.FAILED, JobState.CANCELLED):
        return off(
            state, Action.RESUME, f"{clean(job.id)} is {job.state.value}; only a failed or cancelled job is resumed"
        )
    promote = state.keys.shown(Action.PROMOTE)
    if isinstance(job.spec, PrepareSpec):
        return off(state, Action.RESUME, f"a prepare belongs to its promote; {promote} on the tenant begins again")
    ended = f" ({job.state.value}{f': {clean(job.code)}' if job.code else ''})"
    key = state.keys.shown(Action.RESUME)
    order = Order(Action.RESUME, job.id, f"{key} resume {clean(job.id)}", job_mark(job))
    return Ask(
        f"{key} resume {clean(job.kind)} {clean(job.id)} of {clean(job.tenant)}{ended}: it is queued again as attempt "
        f"{job.attempt + 1}, {_from(job)}",
        order=order,
    )


def _from(job: Job) -> str:
    """Says where a resumed job begins, as far as the hub knows."""
    if not isinstance(job.spec, TrainSpec):
        return "from its beginning"
    if job.checkpoint is not None:
        return f"from its checkpoint after step {job.checkpoint.step}, or a later one on its node"
    return "from a checkpoint on its node if there is one, else from its beginning"


def took(order: Order, answer: NodeRow | Job) -> str:
    """The result of an order, in words, from the hub's answer."""
    if isinstance(answer, NodeRow):
        return f"{order.says}: it is {node_mark(answer)}"
    if order.action is Action.CANCEL and answer.state not in OVER:
        return f"{order.says}: its node has been told to stop it"
    return f"{order.says}: it is {answer.state.value}"


# ---- campaigns ---------------------------------------------------------------------------------------------

_EFFECTS = {
    Action.PAUSE: "nothing more begins; what is under way ends, and a candidate that is out keeps growing",
    Action.GO_ON: "what waits begins, wave by wave",
}


def _campaign(action: Action, state: ConsoleState) -> Verdict:
    """Decides on a pause of the selected campaign, or that it goes on."""
    one = state.registry.campaigns.get(state.campaign_list.selected or "")
    if one is None:
        return off(state, action, "no campaign is selected")
    wanted = CampaignState.RUNNING if action is Action.PAUSE else CampaignState.PAUSED
    if one.state is not wanted:
        return off(state, action, f"{clean(one.campaign)} is {one.state.value}")
    says = f"{state.keys.shown(action)} {'pause' if action is Action.PAUSE else 'resume'} {clean(one.campaign)}"
    under_way = f"; {plural(len(one.under_way), 'route or node', 'routes or nodes')} under way"
    order = Order(action, one.campaign, says, one.state.value)
    return Ask(f"{says} ({one.state.value}): {_EFFECTS[action]}{under_way}", order=order)


def rewind_campaign(state: ConsoleState, name: str, plan: RewindPlan, request: CampaignRewind) -> Verdict:
    """Decide on a campaign's rewind that the hub has planned: it always asks, and lists what moves and what stays."""
    one, barred = state.registry.campaigns.get(name), barrier(Action.REWIND, state)
    if barred is not None:
        return barred
    moving = [step for step in plan.steps if step.skipped is None]
    if one is None or not moving:
        return off(state, Action.REWIND, f"no route is as {clean(name)} has moved it")
    listed = [f"moves  {s.tenant}/{s.route}: {clean(s.from_label or '')} > {clean(s.to_label or '')}" for s in moving]
    listed += [f"stays  {s.tenant}/{s.route}: {clean(s.skipped)}" for s in plan.steps if s.skipped is not None]
    says = f"{state.keys.shown(Action.REWIND)} {clean(name)}: {plural(len(moving), 'route')} back"
    at = {f"{step.tenant}/{step.route}": step.generation for step in moving}
    done = request.model_copy(update={"dry_run": False, "generations": at})
    order = Order(Action.REWIND, name, says, one.state.value, done)
    stays = one.count(Stage.MOVED) - len(moving)
    left = f"; {stays} that were moved since stay" if stays > 0 else ""
    return Ask(
        f"{says} to what they had before it, in one transaction, which ends it{left}", order=order, listed=tuple(listed)
    )


# ---- signatures --------------------------------------------------------------------------------------------


def signing_of(reviewing: Reviewing | None, gate: Gate | None, state: ConsoleState) -> Verdict:
    """Decide on V for the selected gate result: always a question, once every answer has a verdict.

    `reviewing`: the verdicts on that candidate's answers; None if nobody has looked at them here.
    """
    barred = barrier(Action.SIGN, state)
    if barred is not None:
        return barred
    look = state.keys.shown(Action.OPEN)
    if gate is None:
        return off(state, Action.SIGN, "no gate result is selected")
    if reviewing is None or reviewing.sheet is None:
        return off(state, Action.SIGN, f"look at the sampled answers first: {look}")
    if reviewing.left:
        return off(
            state,
            Action.SIGN,
            f"{plural(reviewing.left, 'answer')} of {len(reviewing.items)} without a verdict: {look}",
        )
    sheet = reviewing.sheet
    tenant, route, digest = reviewing.candidate
    review = reviewing.review
    says = f"{state.keys.shown(Action.SIGN)} sign {tenant}/{route} {state.name_of(digest)}"
    name = clean(state.me.actor) if state.me is not None else "?"
    found = f"{review.bad} of {plural(len(review.items), 'answer')} bad"
    question = f"{says} as {name}: {found}, at most {sheet.max_bad} may be; your name stays on record"
    listed = tuple(
        f"bad  {clean(item.id)}: {_why(reviewing, item.id)}{clean(item.answer)}"
        for item in sheet.items
        if not reviewing.verdicts[item.id]
    )
    return Ask(question, listed=listed, signing=Signing(tenant, route, review, f"{says}: {found}"))


def _why(reviewing: Reviewing, item: str) -> str:
    note = reviewing.notes.get(item)
    return f'"{clean(note)}" ' if note else ""


def after_signing(result: GateResult | None) -> str:
    """The gate's result with a new signature, in words, as the hub has judged it."""
    if result is None:
        return "the gate waits for a report on another suite"
    notes = [clean(check.note) for check in result.checks if check.name == "review"]
    return f"gate {'passed' if result.passed else 'FAILED'}, review: {', '.join(notes) or 'not asked for'}"
