"""Events that change tenants, their routes, data policies and callers' keys, and pools with their assignments."""

from collections.abc import Mapping, Sequence

from loradeck.rules.errors import Refused
from loradeck.rules.moves.draft import Actor, tenant_draft
from loradeck.rules.quality import break_glass
from loradeck.rules.quality.loosening import loosened, moves_anchor, needs_two
from loradeck.schemas.dataset_ledger import DataPolicy, Reasons
from loradeck.schemas.ids import Digest, Name, PointerKey, digest_of
from loradeck.schemas.jobs import FLEET as NODES
from loradeck.schemas.log import FLEET, Draft, EventKind, PointerState
from loradeck.schemas.pool import PoolConfig
from loradeck.schemas.route import RouteConfig
from loradeck.schemas.tenant import CallerKey, Quota, TenantState


def create(tenants: Mapping[str, TenantState], name: str, actor: Actor, *, reason: str = "") -> Draft:
    """Creates a tenant without routes. A name is never used twice, not even after an offboarding.

    Raises: Refused: exists, invalid_request for the name by which jobs say that they are about no tenant.
    """
    if name == NODES:
        raise Refused("invalid_request", f"no tenant is named {name}: jobs about a node are", fix="choose another name")
    if name in tenants:
        raise Refused("exists", f"there is a tenant {name} already", fix="choose another name")
    return tenant_draft(EventKind.TENANT_CREATE, name, actor, reason)


def suspend(tenant: TenantState, actor: Actor, *, reason: str = "") -> Draft:
    """Suspends a tenant: routers refuse its callers and nothing is promoted; backward moves stay possible.

    Raises: Refused: offboarded, no_change.
    """
    _exists(tenant)
    if tenant.suspended:
        raise Refused("no_change", f"{tenant.name} is suspended already")
    return tenant_draft(EventKind.TENANT_SUSPEND, tenant.name, actor, reason)


def resume(tenant: TenantState, actor: Actor, *, reason: str = "") -> Draft:
    """Ends a tenant's suspension. Raises: Refused: offboarded, no_change."""
    _exists(tenant)
    if not tenant.suspended:
        raise Refused("no_change", f"{tenant.name} is not suspended")
    return tenant_draft(EventKind.TENANT_RESUME, tenant.name, actor, reason)


def offboard(tenant: TenantState, actor: Actor, *, reason: str = "") -> Draft:
    """Offboards a tenant for ever: its table entries become tombstones and its callers' keys end. The log keeps its
    past.

    Raises: Refused: offboarded.
    """
    _exists(tenant)
    return tenant_draft(EventKind.TENANT_OFFBOARD, tenant.name, actor, reason)


def set_route(
    tenant: TenantState,
    route: str,
    config: RouteConfig,
    actor: Actor,
    *,
    pointer: PointerState | None,
    reason: str = "",
    agreed: str | None = None,
    alone: bool = False,
    anchor: Digest | None = None,
) -> Draft:
    """Replaces all settings of a route. A new route (`pointer` None) also gets its pointer, at generation 0.

    Args:
        agreed: who else has asked for the same settings; None: nobody.
        alone: nobody is asked: the glass is broken.
        anchor: the release that candidates are compared with by the gate as it stands; None: there is none.

    Raises: Refused: offboarded; where signers or the gate are loosened: reason_required, second_person, local_only.
    """
    _exists(tenant)
    payload: dict[str, object] = {"config": config.model_dump(mode="json")}
    before = tenant.routes.get(route, RouteConfig())
    if loose := loosened(before, config, anchor):
        payload["loosened"] = list(loose)
        if not reason:
            raise Refused(
                "reason_required",
                "what this route asks of releases and moves is loosened",
                detail="; ".join(loose),
                fix="say why: --reason",
            )
        two = needs_two(before) or moves_anchor(config, anchor)
        if two and alone:
            break_glass.check_alone(actor, reason)
            payload[break_glass.BROKE] = True
        elif two:
            if agreed is None:
                raise Refused(
                    "second_person",
                    f"{tenant.name}/{route} asks for two people, and what it asks of releases and moves is loosened",
                    detail="; ".join(loose),
                    fix="somebody else asks for the same settings within 24 hours, and they hold; or, on the hub's "
                    "host, --break-glass REASON",
                )
            payload["agreed"] = agreed
    first = PointerState(tenant=tenant.name, route=route) if pointer is None else None
    return tenant_draft(EventKind.ROUTE, tenant.name, actor, reason, payload, route=route, pointer=first)


_REASONS = (Reasons.KEEP, Reasons.WARN, Reasons.REFUSE)


def set_data_policy(
    tenant: TenantState, policy: DataPolicy, actor: Actor, *, reason: str = "", was: Digest | None = None
) -> Draft:
    """Replaces the tenant's data policy: the rows that its adapters may be trained on, and what happens with what its
    callers ask.

    `was`: digest of the policy that it is to replace; None: of whichever.

    Raises: Refused: offboarded, no_change, policy_changed, reason_required.
    """
    _exists(tenant)
    if policy == tenant.data:
        raise Refused("no_change", f"this is the data policy of {tenant.name} already")
    if was is not None and was != digest_of(tenant.data):
        raise Refused(
            "policy_changed",
            f"somebody else has changed the data policy of {tenant.name} meanwhile",
            fix=f"look at it, and repeat yours: loradeck tenant data {tenant.name}",
        )
    payload: dict[str, object] = {"policy": policy.model_dump(mode="json")}
    loose = {
        "shadow": "callers' requests go to candidates as well then" if policy.shadow > tenant.data.shadow else "",
        "sample_hours": "what callers ask is kept on nodes, or kept longer, then"
        if policy.sample_hours > tenant.data.sample_hours
        else "",
        "feedback_days": "what callers say of answers is kept, or kept longer, then"
        if policy.feedback_days > tenant.data.feedback_days
        else "",
        "input_days": "what callers ask is counted on nodes, or kept longer, then"
        if policy.input_days > tenant.data.input_days
        else "",
        "reasons": "reasons with personal data are kept, or refused no more, then"
        if _REASONS.index(policy.reasons) < _REASONS.index(tenant.data.reasons)
        else "",
        "uses": "what callers ask is used for more, or elsewhere, then"
        if policy.uses.items() - tenant.data.uses.items()
        else "",
        "training_freezes": "a training freeze ends then"
        if set(tenant.data.training_freezes) - set(policy.training_freezes)
        else "",
        "assessors": "others sign impact assessments, or of other rows, then"
        if (policy.assessors, policy.assessed_tiers) != (tenant.data.assessors, tenant.data.assessed_tiers)
        else "",
        "rated_twice": "fewer rows are judged by two persons, or by others, then"
        if policy.rated_twice < tenant.data.rated_twice
        or (tenant.data.rated_twice and policy.rated_by != tenant.data.rated_by)
        else "",
        "toxic_cap": "more toxic rows come in, or by another list, then"
        if policy.toxic_cap > tenant.data.toxic_cap or tenant.data.toxic not in (None, policy.toxic)
        else "",
        "regulated_sources": "what was regulated comes in then"
        if set(tenant.data.regulated_sources) - set(policy.regulated_sources)
        or set(tenant.data.regulated_columns) - set(policy.regulated_columns)
        else "",
    }
    if told := {name: what for name, what in loose.items() if what}:
        payload["loosened"] = list(told)
        if not reason:
            raise Refused("reason_required", "; ".join(told.values()), fix="say why: --reason")
    return tenant_draft(EventKind.DATA_POLICY, tenant.name, actor, reason, payload)


def override_training(tenant: TenantState, job: str, frozen: Refused, actor: Actor, *, reason: str) -> Draft:
    """Records that a job is queued although training is frozen. Raises: Refused: offboarded."""
    _exists(tenant)
    payload: dict[str, object] = {"training": {"job": job, "frozen": frozen.context}}
    return tenant_draft(EventKind.ANNOTATE, tenant.name, actor, reason, payload).model_copy(update={"override": True})


def set_quota(tenant: TenantState, quota: Quota, actor: Actor, *, reason: str = "") -> Draft:
    """Replaces what the tenant may have at the hub. What it has already stays.

    Raises: Refused: offboarded, no_change.
    """
    _exists(tenant)
    if quota == tenant.quota:
        raise Refused("no_change", f"this is the quota of {tenant.name} already")
    return tenant_draft(EventKind.QUOTA, tenant.name, actor, reason, {"quota": quota.model_dump(mode="json")})


def add_key(tenant: TenantState, key: CallerKey, actor: Actor) -> Draft:
    """Adds a key that the tenant's callers may present. Raises: Refused: offboarded, exists."""
    _exists(tenant)
    if any(k.id == key.id for k in tenant.keys):
        raise Refused("exists", f"{tenant.name} has a key {key.id} already")
    return tenant_draft(EventKind.KEY, tenant.name, actor, "", {"add": key.model_dump(mode="json")})


def remove_key(tenant: TenantState, key_id: str, actor: Actor) -> Draft:
    """Withdraws a caller's key. Raises: Refused: offboarded, unknown_key."""
    _exists(tenant)
    if all(k.id != key_id for k in tenant.keys):
        raise Refused("unknown_key", f"{tenant.name} has no key {key_id}")
    return tenant_draft(EventKind.KEY, tenant.name, actor, "", {"remove": key_id})


def _exists(tenant: TenantState) -> None:
    if tenant.offboarded:
        raise Refused("offboarded", f"{tenant.name} is offboarded", fix="create a new tenant")


MOST_POOLS = 256
"""Most pools of a hub."""


def set_pool(pools: Mapping[Name, PoolConfig], name: Name, config: PoolConfig, actor: Actor, *, reason: str) -> Draft:
    """Sets what makes a node one of a pool; makes the pool where there was none.

    Raises: Refused: no_change, too_many_pools.
    """
    if pools.get(name) == config:
        raise Refused("no_change", f"the pool {name} is set so already")
    if name not in pools and len(pools) >= MOST_POOLS:
        raise Refused("too_many_pools", f"there are {len(pools)} pools", fix="loradeck pool rm one that is not used")
    return tenant_draft(EventKind.POOL, FLEET, actor, reason, {"pool": name, "config": config.model_dump(mode="json")})


def remove_pool(
    pools: Mapping[Name, PoolConfig], tenants: Mapping[str, TenantState], name: Name, actor: Actor, *, reason: str
) -> Draft:
    """Removes a pool that no route names. Raises: Refused: unknown_pool, pool_in_use."""
    known_pool(pools, name)
    used = [f"{tenant}/{route}" for (tenant, route), _ in pooled(tenants, name)]
    if used:
        raise Refused(
            "pool_in_use",
            f"{len(used)} routes are placed in {name}",
            detail=", ".join(used[:8]),
            fix="place them elsewhere first: loradeck route set TENANT ROUTE --pool OTHER",
        )
    return tenant_draft(EventKind.POOL, FLEET, actor, reason, {"pool": name, "config": None})


def known_pool(pools: Mapping[Name, PoolConfig], name: Name) -> PoolConfig:
    """A pool by its name. Raises: Refused: unknown_pool."""
    if name not in pools:
        there = ", ".join(sorted(pools)[:8]) or "none"
        raise Refused("unknown_pool", f"there is no pool {name!r}", detail=f"there is: {there}", fix="loradeck pool ls")
    return pools[name]


def pooled(tenants: Mapping[str, TenantState], name: Name | None = None) -> list[tuple[PointerKey, RouteConfig]]:
    """The routes that are placed in a pool, with their settings. `name`: of this pool; None: of any."""
    return [
        ((tenant.name, route), config)
        for tenant in tenants.values()
        if not tenant.offboarded
        for route, config in tenant.routes.items()
        if config.pool is not None and name in (None, config.pool.pool)
    ]


def check_placement(pools: Mapping[Name, PoolConfig], config: RouteConfig) -> None:
    """Checks the placement of a route's settings. Raises: Refused: unknown_pool, invalid_request."""
    if config.pool is None:
        return
    known_pool(pools, config.pool.pool)
    if config.placement:
        raise Refused(
            "invalid_request",
            "a route is placed by labels or in a pool, not by both",
            detail=f"placement {config.placement}, pool {config.pool.pool}",
            fix="the pool has labels of its own: loradeck pool show",
        )
    if config.min_replicas > config.pool.replicas:
        raise Refused(
            "invalid_request",
            "it asks for more proven replicas than it has nodes",
            detail=f"min_replicas {config.min_replicas}, replicas {config.pool.replicas}",
            fix="--replicas at least as many as --min-replicas",
        )


def assign(key: PointerKey, nodes: Sequence[Name], actor: Actor, *, why: str) -> Draft:
    """Assigns a route of a pool to nodes. It moves nothing: the generation stays."""
    return tenant_draft(EventKind.ASSIGN, key[0], actor, why, {"nodes": list(nodes)}, route=key[1])
