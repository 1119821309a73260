"""Orders to campaigns: pause, go on, and put everything back. Each asks first and says what follows from it."""

from loradeck.client.terminal_text import clean
from loradeck.schemas.campaign import CampaignRewind, CampaignState, Stage
from loradeck.schemas.moves import RewindPlan
from loradeck.tui.key_checks.verdict import Ask, Verdict, barrier, off
from loradeck.tui.keys.action import Action
from loradeck.tui.model.sent_moves import Order
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import plural

_EFFECTS = {
    Action.PAUSE: "nothing more begins; what is under way ends, and a candidate that is out keeps growing",
    Action.GO_ON: "what waits begins, wave by wave",
}


def order_of(action: Action, state: ConsoleState) -> Verdict:
    """Decide on a pause of the selected campaign, or that it goes on."""
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


def rewind(state: ConsoleState, name: str, plan: RewindPlan, request: CampaignRewind) -> Verdict:
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
