"""The text of a conversation, as people read it: what was asked in a request's body, and what was answered."""

import json
from collections.abc import Iterable
from typing import Any

from loradeck.schemas.trace import SAMPLE_CHARS

LOOKED_AT = 16 * SAMPLE_CHARS
"""Characters of a text that are looked at, from the side that is kept; more of it costs more than it tells."""

_CUT = "[...]"


def question_of(body: str) -> str:
    """Returns what a request of either API asked, a line for each message; "" where it has no text.

    Raises: ValueError: the body is no JSON object.
    """
    asked = json.loads(body)
    if not isinstance(asked, dict):
        raise ValueError("a request that is no object")
    messages = asked.get("messages")
    if not isinstance(messages, list):
        prompt = asked.get("prompt")
        return "\n".join(part for part in (prompt if isinstance(prompt, list) else [prompt]) if isinstance(part, str))
    return "\n".join(_line(message) for message in messages if isinstance(message, dict))


def _line(message: dict[str, Any]) -> str:
    content = message.get("content")
    parts: Iterable[Any] = content if isinstance(content, list) else [content]
    return f"{message.get('role')}: {' '.join(filter(None, map(_text, parts)))}"


def _text(part: Any) -> str:
    """The text of a part of a message; of another kind of part its name."""
    if isinstance(part, dict):
        text = part.get("text")
        return text if isinstance(text, str) else f"[{part.get('type')}]"
    return part if isinstance(part, str) else ""


def end_of(text: str) -> str:
    """The end of a text, as long as a sample may be."""
    return text if len(text) <= SAMPLE_CHARS else _CUT + text[len(_CUT) - SAMPLE_CHARS :]


def beginning_of(text: str) -> str:
    """The beginning of a text, as long as a sample may be."""
    return text if len(text) <= SAMPLE_CHARS else text[: SAMPLE_CHARS - len(_CUT)] + _CUT
