"""The hub's OpenAPI document: FastAPI's, with the errors that calls really answer and the token that they ask for."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI

from loradeck.schemas.problem import MEDIA_TYPE, Problem

_EVERY = (400, 401, 403, 404, 408, 413, 422, 429, 431)
"""Not HTTP or JSON, no token, another role, not there, slow, long, not of its schema, too many failed logins, a header
that is too long."""

_CHANGES = (409, 503, 507)
"""A call that changes something may meet another state, a hub that waits, or a full disk."""


def document(app: FastAPI) -> dict[str, Any]:
    """The document of an app."""
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
