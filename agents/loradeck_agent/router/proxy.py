"""The proxy of a node: callers' requests, admitted to its engines, and their answers back."""

import asyncio
import json
import logging
import time
from dataclasses import dataclass, field, replace
from functools import partial

import aiohttp
from aiohttp import web

from loradeck.rules.serving.retry_budget import RetryBudget
from loradeck.rules.serving.router_handover import may_admit
from loradeck.schemas.feedback import CallerFeedback, FeedbackRow
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.table import RouteResidency
from loradeck_agent.router.admission import Admission, Admitted, Caller, Refusal
from loradeck_agent.router.asked_again import AskAgain, RequestFaults
from loradeck_agent.router.caller_keys import bearer_of, caller_digest, cohort_key
from loradeck_agent.router.callers_api import (
    HINT,
    HINT_PATH,
    CallersApi,
    body_of,
    cut_short,
    error_body,
    is_gateway,
    pointer_of,
    refused,
)
from loradeck_agent.router.cold_queue import ColdQueue
from loradeck_agent.router.counters import End
from loradeck_agent.router.engine_pools import EnginePool
from loradeck_agent.router.feedback import FeedbackFiles, InputCounter
from loradeck_agent.router.fences import FENCE
from loradeck_agent.router.handover import Successor, SuccessorLost
from loradeck_agent.router.judges import Judges
from loradeck_agent.router.request_body import Asked
from loradeck_agent.router.response_checks import ANSWER_CAP, Checks, Verdict
from loradeck_agent.router.samples import QUESTION_BYTES, Samples
from loradeck_agent.router.trace import Trace, now_ms
from loradeck_agent.router.votes import Outcome, Repetitions

log = logging.getLogger(__name__)

LOOK_UPS = 4
"""How often one request is looked up at most: after a lost connection, or when its release was left."""

PATIENCE_S = 10.0
"""A caller that leaves earlier, or in mid-answer, has changed its mind; one that waited longer was not answered. So a
release that hangs is seen to fail, and callers that take back what they typed do not brand one that is well."""

_CALLER_LEFT = 499
_OURS_TO_ANSWER = frozenset({401, 403, 404, 405})
"""Statuses of an engine that are not about the caller's request: the router chose the path and the name."""


class _LookUpAgain(Exception):
    """Nothing was sent to the caller yet. `failed`: the engine that could not be reached, if that is why."""

    def __init__(self, failed: EnginePool | None) -> None:
        super().__init__()
        self.failed = failed


class _CallerLeft(Exception):
    """The caller's connection is gone."""


@dataclass(eq=False, kw_only=True)
class Proxy(CallersApi):
    """Handles callers' requests: who asks, for which route, admitted to which engine, and the answer back."""

    admission: Admission
    checks: Checks
    trace: Trace
    faults: RequestFaults
    again: AskAgain
    samples: Samples
    inputs: InputCounter
    judges: Judges
    successor: Successor
    feedback_files: FeedbackFiles
    cold: ColdQueue
    under_way: int = field(default=0, init=False)
    """Requests that are being answered."""
    retries: RetryBudget = field(default_factory=RetryBudget, init=False)
    """Second requests after an engine has failed the first."""
    _repetitions: Repetitions = field(default_factory=Repetitions, init=False)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers one request, or has the router after this one answer it."""
        self.under_way += 1
        try:
            response = await (self._handle(request) if may_admit(self.admission.stage) else self._pass_on(request))
            if not response.prepared and not may_admit(self.admission.stage):
                response.force_close()
            return response
        finally:
            self.under_way -= 1

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == HINT_PATH and request.method == "POST" and request.transport is not None:
            tenants, key = self._tenants(request), pointer_of(request.headers.get(HINT, ""))
            tls = request.transport.get_extra_info("ssl_object")
            if not isinstance(tenants, Refusal) and key[0] in tenants and is_gateway(tls):
                self.cold.hint(key)
                return web.Response(status=204)
        return await super()._handle(request)

    async def _pass_on(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer of the router that has the right to admit now."""
        raw = await body_of(request)
        try:
            return refused(raw) if isinstance(raw, Refusal) else await self.successor.answer(request, raw)
        except SuccessorLost as lost:
            log.error("a request was not passed on to the router after this one: %s", lost)
            return refused(Refusal(503, "router_restarts", "This node's router is being restarted.", "Try again.", 1))

    async def _answer(
        self, request: web.BaseRequest, path: str, asked: Asked, key: PointerKey, request_id: str
    ) -> web.StreamResponse:
        refusal = await self.admission.behind(key, request.headers.get(FENCE))
        if refusal is not None and may_admit(self.admission.stage):  # else the router after this one judges it
            return refused(refusal, request_id)
        caller = caller_digest(bearer_of(request.headers))
        name = caller if asked.user is None else f"{caller} {asked.user}"
        unit = self._repetitions.unit_of(name, key, asked.rest)
        who = Caller(
            name=name,
            cohort=partial(cohort_key, request.headers, {"user": asked.user}),
            repeats=not self._repetitions.is_first(unit),
            tokens=asked.tokens,
        )
        failed: EnginePool | None = None
        self.retries.asked()
        for _ in range(LOOK_UPS):
            if key in self.cold.awaited and (refusal := await self._loaded(key)) is not None:
                return refused(refusal, request_id)
            if not may_admit(self.admission.stage):
                return await self._pass_on(request)
            found = self.admission.admit(key, request_id, who, streamed=asked.streamed, passed_by=failed)
            if isinstance(found, Refusal):
                return refused(found, request_id)
            found.unit, found.row.parameters = unit, asked.recorded
            entry = found.plan.entry
            looked_at = entry.sample_hours or entry.judge is not None or entry.count_inputs
            if looked_at and len(asked.rest) <= QUESTION_BYTES:
                found.question = asked.rest
            self.again.offer(found, path, asked)
            try:
                return await self._forward(request, found, path, asked)
            except _LookUpAgain as again:
                who = replace(who, repeats=True)
                if again.failed is not None and (again.failed is failed or not self.retries.take()):
                    break  # the same engine twice, of which there is no other, or too many second requests
                failed = again.failed
        return refused(
            Refusal(502, "engine_unreachable", "The engine could not be reached.", "Try again.", 1), request_id
        )

    async def _feedback(
        self, request: web.BaseRequest, raw: bytes, given: CallerFeedback, key: PointerKey
    ) -> web.StreamResponse:
        row = FeedbackRow(
            **given.model_dump(exclude={"model"}),
            route=key[1],
            at_ms=now_ms(),
            caller=caller_digest(bearer_of(request.headers))[:16],
            release=self.trace.release_of(*key, given.request),
        )
        refusal = await self.feedback_files.keep(key[0], row)
        if refusal is not None:
            return refused(refusal, given.request)
        return web.json_response({"request": given.request, "status": "taken"}, status=202)

    async def _loaded(self, key: PointerKey) -> Refusal | None:
        """Waits until a route's release is loaded, or its gap policy holds. Returns why the request may not wait."""
        try:
            retry_after_s = await self.cold.wait(key)
        except asyncio.CancelledError:
            self.admission.refuse(key)
            raise
        if retry_after_s is None:
            return None
        return self.admission.refuse(key, retry_after_s, full=self.cold.is_full(key))

    # ---- one admission -------------------------------------------------------------------------------------

    async def _forward(
        self, request: web.BaseRequest, admitted: Admitted, path: str, asked: Asked
    ) -> web.StreamResponse:
        """Sends an admitted request to its engine and the answer back.

        Raises: _LookUpAgain: nothing was sent to the caller, and another look-up may do better.
        """
        target = admitted.target
        headers = _answer_headers(admitted)
        sent: web.StreamResponse | None = None
        try:
            async with target.replica.session.post(
                target.replica.urls[path],
                data=asked.body(target.model),
                headers={"Content-Type": "application/json", "x-request-id": admitted.row.request},
                allow_redirects=False,
            ) as upstream:
                if upstream.status == 200 and upstream.content_type == "text/event-stream":
                    sent = web.StreamResponse(headers={**headers, "Content-Type": "text/event-stream"})
                    if await self._stream(request, admitted, upstream, sent):
                        return sent
                    self._end(admitted, 200, await self._failed(request, admitted, path, asked))
                    return cut_short(request, sent)
                raw = await upstream.read()
                if upstream.status == 404 and admitted.plan.entry.residency is RouteResidency.ON_DEMAND:
                    self.admission.lost(target.replica.name, admitted.row.release)
                    self._end(admitted, 0, "taken_back")
                    raise _LookUpAgain(None)  # it waits until the release is loaded
                how: End = "failed"
                if upstream.status >= 500:
                    how = await self._failed(request, admitted, path, asked)
                return self._whole(admitted, upstream, raw, headers, how)
        except asyncio.CancelledError:
            if not (admitted.cut or admitted.hung) or _cancelled_twice():
                self._end(admitted, _CALLER_LEFT, _given_up(admitted))
                raise
            if admitted.hung:
                if sent is None or not sent.prepared:
                    self._end(admitted, 0, "failed")
                    raise _LookUpAgain(target.replica) from None
                self._end(admitted, 200, "failed")
                return await _break_off(request, sent, "engine_silent", "The engine stopped answering.")
            if sent is None or not sent.prepared:
                self._end(admitted, 0, "taken_back")
                raise _LookUpAgain(None) from None
            self._end(admitted, 200, "taken_back")
            return await _break_off(request, sent, "release_left", "The release that was answering has been left.")
        except _CallerLeft:
            self._end(admitted, _CALLER_LEFT, "given_up")
            assert sent is not None
            return sent
        except aiohttp.SocketTimeoutError:
            self._end(admitted, 504, "failed")
            if sent is not None and sent.prepared:
                return await _break_off(request, sent, "engine_silent", "The engine stopped answering.")
            return refused(Refusal(504, "engine_silent", "The engine did not answer.", "Try again."), headers=headers)
        except aiohttp.ClientError as lost:
            log.warning("%s: %s", target.replica.name, lost)
            if sent is not None and sent.prepared:
                self._end(admitted, 200, "failed")
                return await _break_off(request, sent, "engine_lost", "The engine was lost in mid-answer.")
            self._end(admitted, 0, "failed")
            raise _LookUpAgain(target.replica) from lost

    async def _failed(self, request: web.BaseRequest, admitted: Admitted, path: str, asked: Asked) -> End:
        """Says how a request counts that the engine failed: as answered, where it would fail under any release."""
        caller = caller_digest(bearer_of(request.headers))
        if not await self.faults.is_of_request(caller, admitted, path, asked):
            return "failed"
        if admitted.pair is not None:
            admitted.pair.dropped = True  # what is asked again fails on it as well
        return "answered"

    def _whole(
        self, admitted: Admitted, upstream: aiohttp.ClientResponse, raw: bytes, headers: dict[str, str], failed: End
    ) -> web.Response:
        """An answer that came in one piece. `failed`: how it counts, where it is none."""
        status = upstream.status
        if status == 200:
            self._end(admitted, status, "answered", answer=raw if len(raw) <= ANSWER_CAP else None)
        elif 400 <= status < 500 and status not in _OURS_TO_ANSWER:
            self._end(admitted, status, "answered")
        else:
            log.warning("%s answered %d: %.500s", admitted.target.replica.name, status, raw.decode(errors="replace"))
            self._end(admitted, 502, failed)
            code = "release_not_on_engine" if status == 404 else "engine_error"
            return refused(Refusal(502, code, f"The engine answered {status}.", "Try again.", 1), headers=headers)
        kind = upstream.headers.get("Content-Type", "application/json")
        return web.Response(status=status, body=raw, headers={**headers, "Content-Type": kind})

    async def _stream(
        self,
        request: web.BaseRequest,
        admitted: Admitted,
        upstream: aiohttp.ClientResponse,
        response: web.StreamResponse,
    ) -> bool:
        """Passes events on as they come. Headers are sent with the first event, not before.

        Returns:
            False: the engine ended it with an error of its own, which was passed on and is not counted yet.
        """
        row = admitted.row
        kept: list[bytes] | None = []
        size = 0
        tail = b""
        failed = False
        async for chunk in upstream.content.iter_any():
            try:
                if not response.prepared:
                    row.first_token_ns = time.monotonic_ns()
                    admitted.target.counter.first_token(row)
                    if not may_admit(self.admission.stage):
                        response.force_close()
                    await response.prepare(request)
                await response.write(chunk)
            except ConnectionError as gone:
                raise _CallerLeft from gone
            tail = (tail + chunk)[-32:]
            failed = failed or b'data: {"error"' in chunk
            row.events += chunk.count(b"\n\n")
            size += len(chunk)
            if kept is not None:
                kept.append(chunk)
                if size > ANSWER_CAP:
                    kept = None
        if failed:
            return False
        if b"[DONE]" not in tail:
            raise aiohttp.ClientPayloadError("the stream ended without its [DONE]")
        self._end(admitted, 200, "answered", answer=b"".join(kept) if kept is not None else None)
        return True

    def _end(self, admitted: Admitted, status: int, end: End, *, answer: bytes | None = None) -> None:
        """Counts the end of an admission and has its answer judged, if there is one and the route asks for it."""
        self.admission.left(admitted, status, end)
        if end == "answered" and admitted.question is not None and admitted.plan.entry.count_inputs:
            self.inputs.offer(admitted.row, admitted.question, answer or b"")
        checks, pair = admitted.checks, admitted.pair
        if answer is None or not admitted.row.sampled or not self.checks.has_room(checks):
            if status == 200 and end == "answered":
                self._repetitions.answered_well(admitted.unit)
            if pair is not None and end in ("failed", "answered"):
                pair.given = Outcome(failed=end == "failed")
            elif pair is not None:
                pair.dropped = True
            self.trace.add(admitted.row)
            self.judges.plugins_over(admitted.row)
            return

        def judged(verdict: Verdict | None) -> None:
            if verdict is None or not verdict.fault:
                self._repetitions.answered_well(admitted.unit)
            if verdict is not None:
                admitted.target.counter.judged(admitted.row, verdict, checks.content.plugins)
                if admitted.question is not None:
                    self._look_closer(admitted, verdict, admitted.question, answer)
            if pair is not None:
                pair.given = Outcome(failed=False, bad=None if verdict is None else verdict.bad)
            self.trace.add(admitted.row)
            self.judges.plugins_over(admitted.row)

        self.checks.submit(answer, streamed=admitted.row.streamed, checks=checks, done=judged)

    def _look_closer(self, admitted: Admitted, verdict: Verdict, question: bytes, answer: bytes) -> None:
        """Offers an answer that was checked, and what was asked, to whoever looks closer."""
        if verdict.bad and admitted.plan.entry.sample_hours:
            self.samples.offer(admitted.row, question, answer)
        self.judges.offer(admitted, question, answer)


def _given_up(admitted: Admitted) -> End:
    """Says how a request counts whose caller left: as failed where nothing had come for longer than callers wait."""
    row = admitted.row
    waited_s = (time.monotonic_ns() - row.admitted_ns) / 1e9
    return "failed" if not row.first_token_ns and waited_s > PATIENCE_S else "given_up"


def _cancelled_twice() -> bool:
    """Takes back the cut's own cancellation; true if the caller left as well."""
    task = asyncio.current_task()
    return task is not None and task.uncancel() > 0


def _answer_headers(admitted: Admitted) -> dict[str, str]:
    headers = {**admitted.target.headers, "x-request-id": admitted.row.request, "Server": "loradeck"}
    if admitted.stale_s is not None:
        headers["x-loradeck-stale"] = f"{admitted.stale_s:.1f}"
    return headers


async def _break_off(
    request: web.BaseRequest, response: web.StreamResponse, code: str, message: str
) -> web.StreamResponse:
    """Ends a stream that cannot be finished: says why, then closes without the ending a client takes for success."""
    try:
        await response.write(b"data: " + json.dumps(error_body(code, message)).encode() + b"\n\n")
    except ConnectionError as gone:
        log.debug("the caller left as well: %s", gone)
    return cut_short(request, response)
