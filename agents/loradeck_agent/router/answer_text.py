"""Repetition in an answer: the same words, round after round."""

PERIODS = 64
"""Words after which a text may begin again at most, to be called a circle."""

ROUNDS = 5
"""Times that the same words come one after the other at least."""

LEAST_WORDS = 20
"""Words that a circle has at least, all its rounds together: a list may well say "no, no, no"."""

_LAST_WORDS = 4000


def runs_in_a_circle(text: str) -> bool:
    """Tells whether a text says the same words again and again, one round after the other, anywhere near its end."""
    words = text.split()[-_LAST_WORDS:]
    for period in range(1, min(PERIODS, len(words) // ROUNDS) + 1):
        same, needed = 0, max((ROUNDS - 1) * period, LEAST_WORDS - period)
        for word, again in zip(words, words[period:], strict=False):
            same = same + 1 if word == again else 0
            if same >= needed:
                return True
    return False
