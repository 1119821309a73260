"""Campaigns: begun, paused, resumed, stopped and rewound by people; what is between, the hub does by itself."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import TypeAdapter
from starlette.responses import Response

from loradeck.hub.access.auth import Caller
from loradeck.hub.access.routes import Guarded
from loradeck.hub.api import rewind
from loradeck.hub.api.moves import actor_of, move
from loradeck.hub.api.parameters import OperatorOfEach, ReleaserOfEach, ThisHub, ViewerOfEach, Wait
from loradeck.hub.automation.campaigns import unknown_campaign
from loradeck.hub.hub import Hub
from loradeck.rules.moves import campaigns as rules
from loradeck.schemas.campaign import (
    Campaign,
    CampaignChange,
    CampaignRequest,
    CampaignRewind,
    CampaignStarted,
    CampaignState,
)
from loradeck.schemas.ids import Name
from loradeck.schemas.log import FLEET, Draft
from loradeck.schemas.moves import MoveResult, RewindPlan, RewindRequest

router = APIRouter(prefix="/v1/campaigns", tags=["rewind"], route_class=Guarded)

_campaigns = TypeAdapter(list[Campaign])


def _at(caller: Caller, campaign: Campaign) -> Caller:
    """The caller, who has to have its role at every tenant of a campaign, and who sees one of them."""
    if campaign.units:
        _seen(campaign, caller)
    return caller.at(*({unit.tenant for unit in campaign.units.values()} or {FLEET}))


Since = Annotated[int, Query(description="a rev: only those that have changed after it")]


@router.get("", response_model=list[Campaign])
async def listed(hub: ThisHub, caller: ViewerOfEach, since: Since = -1) -> Response:
    """Lists campaigns, the newest first, with the routes of tenants that the caller sees."""
    found = [one for one in (_of(campaign, caller) for campaign in hub.campaigns.all(since)) if one.units]
    return Response(_campaigns.dump_json(found), media_type="application/json")


@router.get("/{campaign}")
async def one(campaign: Name, hub: ThisHub, caller: ViewerOfEach) -> Campaign:
    """A campaign, with the routes of tenants that the caller sees."""
    return _seen(hub.campaigns.get(campaign), caller)


def _of(campaign: Campaign, caller: Caller) -> Campaign:
    if caller.tenants is None:
        return campaign
    units = {name: unit for name, unit in campaign.units.items() if caller.sees(unit.tenant)}
    return campaign.model_copy(update={"units": units})


def _seen(campaign: Campaign, caller: Caller) -> Campaign:
    found = _of(campaign, caller)
    if not found.units:
        raise unknown_campaign(campaign.campaign)  # as if there were none: its name is others' too
    return found


@router.post("")
async def start(body: CampaignRequest, hub: ThisHub, caller: ReleaserOfEach) -> CampaignStarted:
    """Starts a campaign, or says what it would be, by a releaser of each of its tenants; of all for nodes."""
    nodes = bool(body.plan.engine or body.nodes)  # which are everybody's, whatever targets are named beside them
    caller = caller.at(*({FLEET} if nodes else {one.tenant for one in body.targets} or {FLEET}))
    if not body.dry_run and await hub.store(lambda s: s.lookup(body.idempotency_key)) is not None:
        return CampaignStarted(campaign=_seen(hub.campaigns.get(body.campaign), caller), left_out={})
    campaign, left_out = await hub.campaigns.planned(body, caller.actor)
    if not body.dry_run:

        def decide() -> Sequence[Draft]:
            # Of several that were planned at the same moment one begins.
            hub.campaigns.check_free(campaign.campaign, campaign.units)
            return [rules.begun(campaign, actor_of(caller), body.reason)]

        await move(hub, caller, body.idempotency_key, decide)
        campaign = hub.campaigns.get(body.campaign)
    return CampaignStarted(campaign=campaign, left_out=left_out)


async def _change(hub: Hub, caller: Caller, name: str, body: CampaignChange, state: CampaignState) -> Campaign:
    caller = _at(caller, hub.campaigns.get(name))

    def decide() -> Sequence[Draft]:
        known = hub.campaigns.get(name)
        return [rules.state_event(known, state, actor_of(caller), body.reason, gpu_hours=body.gpu_hours)]

    await move(hub, caller, body.idempotency_key, decide)
    return hub.campaigns.get(name)


@router.post("/{campaign}/pause")
async def pause(campaign: Name, body: CampaignChange, hub: ThisHub, caller: OperatorOfEach) -> Campaign:
    """Begins nothing more; what is under way ends."""
    return await _change(hub, caller, campaign, body, CampaignState.PAUSED)


@router.post("/{campaign}/resume")
async def resume(campaign: Name, body: CampaignChange, hub: ThisHub, caller: ReleaserOfEach) -> Campaign:
    """Lets a paused campaign go on, perhaps with another budget."""
    return await _change(hub, caller, campaign, body, CampaignState.RUNNING)


@router.post("/{campaign}/stop")
async def stop(campaign: Name, body: CampaignChange, hub: ThisHub, caller: OperatorOfEach) -> Campaign:
    """Stops a campaign for good: its trainings are cancelled and its candidates aborted. What has moved stays."""
    return await _change(hub, caller, campaign, body, CampaignState.STOPPED)


@router.post("/{campaign}/rewind", response_model=RewindPlan | MoveResult)
async def put_back(campaign: Name, body: CampaignRewind, hub: ThisHub, caller: OperatorOfEach, wait: Wait) -> Response:
    """Puts every route that is still as a campaign has moved it back to what it had before, in one transaction.

    A dry run answers with a plan; executing sends its generations back. It ends the campaign, as a stop does.
    """
    known = hub.campaigns.get(campaign)
    caller, then = _at(caller, known), await hub.campaigns.before(known)

    def also(moved: Sequence[Draft]) -> Sequence[Draft]:
        ends = rules.state_event(hub.campaigns.get(campaign), CampaignState.REWOUND, actor_of(caller), body.reason)
        marked = (one.model_copy(update={"payload": {**one.payload, "campaign": campaign}}) for one in moved)
        return [*marked, ends]

    asked = RewindRequest.model_validate(body.model_dump())
    return await rewind.put_back(hub, caller, asked, then, wait, to_rev=hub.log.state.rev, only=True, also=also)
