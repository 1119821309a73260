"""The nodes that sign heads of the audit trail: what each has signed last, and the proofs that they ask for.

Each head that the log has anchored is shown to the linked nodes that have joined. A node signs it only if the trail
goes on from the head that it signed before, so that a trail which was rewritten contradicts what nodes hold. Nobody
waits for any of this. Signatures are checked when somebody asks for them, not when they come: thousands may come at
once.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pydantic import TypeAdapter

from loradeck.artifacts.ed25519 import is_signed
from loradeck.artifacts.notes import KeyKind, cosignature_line, cosigned_bytes, text_of, verifier_key, witness_of
from loradeck.hub.fleet.node import Node
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.log.signing import Signing
from loradeck.hub.log.store_thread import StoreThread
from loradeck.rules.merkle import Frontier, proof_of
from loradeck.schemas.audit import Cosigner
from loradeck.schemas.link import Countersign, Countersigned
from loradeck.schemas.position import AuditHead
from loradeck.store.interface import StoreError

COSIGNED = "audit_cosigned"
"""The store's setting that holds the newest cosignature of each node."""

PAGE = 1000
"""Lines that are read at once."""

PROVEN = 100_000
"""Lines over which proofs are made in a minute, the shortest first; the last one may have more."""

TREES = 16
"""Trees of heads that are kept in memory: nodes have signed one of the newest, or were away."""

AT_ONCE = 100
"""Nodes that are asked in one turn of the event loop."""

log = logging.getLogger("loradeck.hub.audit")

_kept = TypeAdapter(dict[str, Countersigned])


@dataclass(eq=False)
class Cosigners:
    """Shows nodes the heads of the audit trail, and keeps what they have signed.

    `_anchored`: the newest head that the log has anchored; None: none since the hub started.
    """

    _store: StoreThread
    _signing: Signing
    _fleet: Fleet
    _anchored: Callable[[], AuditHead | None]
    newest: dict[str, Countersigned] = field(init=False)
    """Node -> the newest head that it has signed, as it says."""

    _asked: set[str] = field(default_factory=set, init=False)
    """The nodes that sign heads and have linked since the hub started."""
    _refuses: dict[str, str] = field(default_factory=dict, init=False)
    _trees: dict[int, Frontier] = field(default_factory=dict, init=False)
    _unsaved: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.newest = _kept.validate_json(self._store.now(lambda s: s.meta(COSIGNED)) or "{}")

    # ---- nodes ---------------------------------------------------------------------------------------------

    def linked(self, node: str, said: Countersigned | None) -> None:
        """A node has linked, and says what it has signed last; None: it signs nothing."""
        self._refuses.pop(node, None)
        if said is None:
            self._asked.discard(node)
            return
        self._asked.add(node)
        self._take(node, said)

    def answered(self, node: Node, answer: Countersigned) -> None:
        """A node has signed a head, or says why not."""
        if node.name not in self._asked:
            return
        self._take(node.name, answer.model_copy(update={"refuses": ""}))
        if answer.refuses and node.name not in self._refuses:
            log.error("node %s does not sign the head of the audit trail: %s", node.name, answer.refuses[:200])
        if answer.refuses:
            self._refuses[node.name] = answer.refuses
        else:
            self._refuses.pop(node.name, None)

    def _take(self, node: str, said: Countersigned) -> None:
        if said.log == self._signing.log and said.size and self.newest.get(node) != said:
            self.newest[node] = said
            self._unsaved = True

    # ---- asking --------------------------------------------------------------------------------------------

    async def ask(self) -> None:
        """Asks the linked nodes that have not signed the newest anchored head to sign it; writes what they signed."""
        await self._save()
        head = self._anchored()
        if head is None or not head.size:
            return
        text = text_of(self._signing.log, head)
        signature = self._signing.signature(text.encode())
        groups: dict[int, list[Node]] = {}
        for node in self._fleet.linked():
            signed = self.newest.get(node.name)
            if node.name in self._asked and (signed is None or signed.head != head):
                groups.setdefault(signed.size if signed is not None else 0, []).append(node)
        await self._tree(head.size)  # of which the next proofs begin
        lines = 0
        for old, nodes in sorted(groups.items(), reverse=True):
            if lines > PROVEN:
                break
            proof: tuple[str, ...] = ()
            if 0 < old < head.size:
                proof, lines = await self._proof(old, head.size), lines + head.size - old
            ask = Countersign(
                log=self._signing.log, size=head.size, root=head.root, signature=signature, old=old, proof=proof
            )
            for n, node in enumerate(nodes, 1):
                if node.link is not None:
                    node.link.put_message(ask)
                if n % AT_ONCE == 0:
                    await asyncio.sleep(0)

    async def _proof(self, old: int, size: int) -> tuple[str, ...]:
        before, nodes = await self._tree(old), list[str]()
        for first, last in proof_of(old, size):
            nodes.append(before.full(first) if first < old else await self._root(first, last))
        return tuple(nodes)

    async def _root(self, first: int, last: int) -> str:
        """The root over some lines, which are read in pieces."""
        tree = Frontier()
        while first + tree.size < last:
            tree = tree.extended(await self._lines(first + tree.size, last))
        return tree.head.root

    async def _tree(self, size: int) -> Frontier:
        """The tree over the first lines, from the largest one that is known and not larger."""
        known = max((at for at in self._trees if at <= size), default=0)
        tree = self._trees.get(known, Frontier())
        while tree.size < size:
            tree = tree.extended(await self._lines(tree.size, size))
        self._trees[size] = tree
        while len(self._trees) > TREES:
            del self._trees[next(iter(self._trees))]
        return tree

    async def _lines(self, after: int, last: int) -> list[bytes]:
        texts = await self._store(lambda s: s.audit_texts(after, min(PAGE, last - after)), background=True)
        if not texts:
            raise StoreError(f"the audit trail has no line {after + 1}, and {last} were written")
        return [text.encode() for _, text in texts]

    async def _save(self) -> None:
        if not self._unsaved:
            return
        self.newest = {name: one for name, one in self.newest.items() if name in self._fleet.nodes}
        self._unsaved, text = False, _kept.dump_json(self.newest).decode()
        try:
            await self._store(lambda s: s.set_meta(COSIGNED, text), background=True)
        except StoreError:
            self._unsaved = True
            raise

    # ---- what they have signed -----------------------------------------------------------------------------

    def genuine(self) -> dict[str, Countersigned]:
        """Node -> the newest head that its key has signed. It takes 0.2 ms a node."""
        return {name: one for name, one in dict(self.newest).items() if _is_genuine(one)}

    def listed(self) -> tuple[Cosigner, ...]:
        """The nodes that sign, how far each has, and why it does not sign more."""
        sizes = {name: one.size for name, one in self.newest.items()}
        names = sorted({*sizes, *self._asked})
        return tuple(
            Cosigner(node=name, size=sizes.get(name, 0), refuses=self._refuses.get(name, "")) for name in names
        )

    def note(self, head: AuditHead) -> str:
        """The newest head under which there are signatures of nodes, as a signed note; `head`, where there is none."""
        anchored = self._anchored()
        by = {name: one for name, one in dict(self.newest).items() if one.head == anchored and _is_genuine(one)}
        found = anchored if by and anchored is not None else head
        return self._signing.note(found) + "".join(cosignature_line(name, one) for name, one in sorted(by.items()))

    def keys(self) -> str:
        """The keys that the signatures of such notes are checked with: one a line, those of hubs first."""
        nodes = (verifier_key(witness_of(name), KeyKind.WITNESS, one.key) for name, one in sorted(self.newest.items()))
        return "".join(f"{key}\n" for key in (*self._signing.verifier_keys(), *nodes))


def signed_heads(genuine: Mapping[str, Countersigned]) -> dict[int, dict[str, str]]:
    """Size -> node -> root: the heads that nodes have signed."""
    found: dict[int, dict[str, str]] = {}
    for name, one in genuine.items():
        found.setdefault(one.size, {})[name] = one.root
    return found


def _is_genuine(one: Countersigned) -> bool:
    return is_signed(cosigned_bytes(text_of(one.log, one.head), one.at_s), one.signature, (one.key,))
