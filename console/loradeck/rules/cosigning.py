"""Cosigning: which heads of an audit trail a node signs, so that no hub can show two of them to its nodes.

A node signs that a head goes on from the last one that it signed. Two heads that contradict each other can so never
both have the signature of one node, and whoever holds one of them has a proof against who wrote the other.
"""

from collections.abc import Sequence

from loradeck.rules.merkle import goes_on
from loradeck.schemas.position import AuditHead


def refusal(signed: AuditHead, asked: AuditHead, old: int, proof: Sequence[str]) -> str:
    """Why a node does not sign a head; '' where it does.

    Args:
        signed: the newest head that it has signed; of size 0: none.
        asked: the head that it is asked to sign.
        old: the size that `proof` begins with.
        proof: that the trail of `asked` goes on from there.
    """
    if asked.size < signed.size:
        return f"it has signed a head of {signed.size} lines, and this one has {asked.size}"
    if asked.size == signed.size:
        return "" if asked.root == signed.root else f"it has signed another head of {signed.size} lines"
    if signed.size == 0:
        return ""
    if old != signed.size:
        return f"it has signed a head of {signed.size} lines, and the proof begins with {old}"
    if not goes_on(signed, asked, proof):
        return f"the trail of {asked.size} lines does not go on from the {signed.size} that it has signed"
    return ""
