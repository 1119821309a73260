"""Every error that leaves the hub is a problem document with a stable code, and the OpenAPI document says which."""

import logging
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from loradeck.artifacts import BadArtifact
from loradeck.rules.errors import STATUS, Refused
from loradeck.schemas.fault import Fault
from loradeck.schemas.problem import MEDIA_TYPE, Problem
from loradeck.schemas.replica_state import NOT_ACTIVE
from loradeck.store.interface import Moved, StoreError

log = logging.getLogger("loradeck.hub")

ACTIVE_HEADER = "x-loradeck-active"
"""The header of a `not_active` answer in which the address of the active hub stands, where it is known."""

_HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 422: "invalid_request"}

_STORE_FIX = {
    "moved": "look at the row again and decide anew",
    "outcome_unknown": "ask GET /v1/moves/{key} with the same key before you try again",
    "disk_full": "free space on the hub's disk; nothing was changed",
    "not_active": "another hub has taken over: use its address",
    "store_unusable": "see the hub's log",
    "store_unreachable": "try again; nothing was changed",
    "lease_held": "use the address of the hub that holds the lease",
}


def status_of(code: str) -> int:
    """The HTTP status of a problem code; 500 for one that is not listed."""
    return STATUS.get(code, 500)


def problem_of(error: Refused | BadArtifact | StoreError) -> Problem:
    """The problem document of a refusal."""
    if isinstance(error, Fault):
        problem = error.as_problem(status_of(error.code))
        return problem.model_copy(update={"context": error.context}) if isinstance(error, Refused) else problem
    context: dict[str, Any] = {}
    if isinstance(error, Moved):
        context["winner"] = error.winner.model_dump(mode="json") if error.winner else None
        context["pointer"] = error.pointer.model_dump(mode="json") if error.pointer else None
    return Problem(
        status=status_of(error.code),
        code=error.code,
        title=str(error),
        fix=_STORE_FIX.get(error.code, "see the hub's log"),
        context=context,
    )


def problem_response(problem: Problem) -> Response:
    """The HTTP response with a problem document."""
    return Response(problem.model_dump_json(), problem.status, headers_of(problem), MEDIA_TYPE)


def headers_of(problem: Problem) -> dict[str, str]:
    """The headers that belong to a problem document. Whoever is not known is not heard further."""
    headers = {}
    if problem.status == 401:
        headers["www-authenticate"] = "Bearer"
    if "retry_after_s" in problem.context:
        headers["retry-after"] = str(problem.context["retry_after_s"])
    if problem.status in (401, 413, 429):
        headers["connection"] = "close"
    if problem.code == NOT_ACTIVE and problem.context.get("address"):
        headers[ACTIVE_HEADER] = str(problem.context["address"])
    return headers


def invalid(errors: Sequence[Any]) -> Problem:
    """The problem of a request that does not fit its schema. The values sent are not repeated: they may be secrets."""
    where = [".".join(str(part) for part in e.get("loc", ())) for e in errors]
    leaves = any("leaves the artifact's folder" in str(e.get("msg", "")) for e in errors)
    code = "path_traversal" if leaves else "invalid_request"
    what = [f"{field or 'body'}: {e.get('msg', 'invalid')}" for field, e in zip(where, errors, strict=True)]
    return Problem(
        status=status_of(code),
        code=code,
        title="the request does not fit its schema",
        detail="; ".join(what),
        fix="see GET /openapi.json for what this call takes",
        context={"fields": where},
    )


def install(app: FastAPI, count: Callable[[str], None]) -> None:
    """Makes a problem document of every exception of a call. `count` is called with the code of each refusal."""

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, Refused | BadArtifact | StoreError)
        count(error.code)
        return problem_response(problem_of(error))

    async def validation(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError | ValidationError)
        return problem_response(invalid(error.errors()))

    async def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = _HTTP_CODES.get(error.status_code, "http_error")
        return problem_response(
            Problem(status=error.status_code, code=code, title=str(error.detail), fix="see GET /openapi.json")
        )

    async def unexpected(request: Request, error: Exception) -> Response:
        log.error("unexpected error in %s %s", request.method, request.url.path, exc_info=error)
        return problem_response(
            Problem(
                status=500,
                code="internal",
                title="the hub failed at this request",
                detail=type(error).__name__,
                fix="see the hub's log; a move may or may not be committed: ask GET /v1/moves/{key}",
            )
        )

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(StoreError, refused)
    app.add_exception_handler(BadArtifact, refused)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unexpected)


_EVERY = (400, 401, 403, 404, 408, 413, 422, 429, 431)
"""Not HTTP or JSON, no token, another role, not there, slow, long, not of its schema, too many failed logins, a header
that is too long."""

_CHANGES = (409, 503, 507)
"""A call that changes something may meet another state, a hub that waits, or a full disk."""


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document: FastAPI's, with the errors that calls really answer and the token that they ask for."""
    made = app.openapi()
    schemas = made["components"]["schemas"]
    if "Problem" in schemas:
        return made  # FastAPI keeps it, and it was completed before
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = Problem.model_json_schema()
    made["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    made["security"] = [{"token": []}]
    for calls in made["paths"].values():
        for method, call in calls.items():
            found = {int(status) for status, answer in call["responses"].items() if "content" not in answer}
            errors = {status for status in found if status >= 400} | set(_EVERY)
            if method not in ("get", "head"):
                errors.update(_CHANGES)
            call["responses"] |= {str(status): _problem(status) for status in sorted(errors)}
    return made


def _problem(status: int) -> dict[str, Any]:
    return {
        "description": HTTPStatus(status).phrase,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
