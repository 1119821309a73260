"""A hub that answers what a test tells it to, for the paths on which a real one does not misbehave."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx

from loradeck.schemas.problem import MEDIA_TYPE, Problem

Answer = httpx.Response | Exception
Handler = Callable[[httpx.Request], Answer]


class Script:
    """Hands out answers in order and keeps what was asked."""

    def __init__(self, *answers: Answer | Handler) -> None:
        self.answers: Iterator[Answer | Handler] = iter(answers)
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = next(self.answers, None)
        assert answer is not None, f"not expected: {request.method} {request.url.path}"
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def calls(self) -> list[str]:
        return [f"{request.method} {request.url.path.removeprefix('/v1/')}" for request in self.asked]


def problem(status: int, code: str, **fields: str) -> httpx.Response:
    document = Problem(status=status, code=code, title=fields.pop("title", code), **fields)
    return httpx.Response(status, content=document.model_dump_json(), headers={"content-type": MEDIA_TYPE})
