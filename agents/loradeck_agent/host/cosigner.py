"""The node's signatures under heads of its hub's audit trail, and the memory of what it has signed.

Its key (Ed25519) is derived from the key that the node made when it joined, so that there is one secret to keep, and
a node that joins again has another one.
"""

import hashlib
import json
import threading
import time
from collections.abc import Collection

from nacl.signing import SigningKey

from loradeck.artifacts.ed25519 import is_signed, public_half, sign
from loradeck.artifacts.notes import cosigned_bytes, text_of
from loradeck.rules.merkle import cosigning_refusal
from loradeck.schemas.link import Countersign, Countersigned
from loradeck_agent.host.identity import Identity
from loradeck_agent.host.state_folder import write_durably

LOGS = 8
"""Logs whose heads a node remembers: those of hubs that it had before its present one."""


class Cosigner:
    """Signs heads of audit trails for a node that has joined; any other signs none."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._file = identity.folder / "cosigned.json"
        self._one_at_a_time = threading.Lock()

    def newest(self) -> Countersigned | None:
        """The newest head that this node has signed, of size 0 where it has signed none.

        None: it signs nothing. It has not joined, or what it has signed cannot be read.
        """
        key = self._key()
        try:
            return (*self._signed(public_half(key)), Countersigned(key=public_half(key)))[0] if key else None
        except (OSError, ValueError, TypeError):
            return None

    def countersign(self, ask: Countersign, hubs: Collection[str]) -> Countersigned | None:
        """Signs a head, or says why not. What it signs is durable before it is said; blocking.

        `hubs`: public keys of the log's hubs.

        Returns: None where this node signs nothing.
        """
        key = self._key()
        if key is None:
            return None
        with self._one_at_a_time:
            return self._countersign(ask, hubs, key)

    def _countersign(self, ask: Countersign, hubs: Collection[str], key: SigningKey) -> Countersigned:
        public = public_half(key)
        blank = Countersigned(key=public, log=ask.log)
        try:
            kept = self._signed(public)
            known = next((one for one in kept if one.log == ask.log), blank)
            text = text_of(ask.log, ask.head)
            if not is_signed(text.encode(), ask.signature, hubs):
                return known.model_copy(update={"refuses": "no hub of this log has signed this head"})
            if why := cosigning_refusal(known.head, ask.head, ask.old, ask.proof):
                return known.model_copy(update={"refuses": why})
            at_s = int(time.time())
            made = blank.model_copy(
                update={**ask.head.model_dump(), "at_s": at_s, "signature": sign(key, cosigned_bytes(text, at_s))}
            )
            others = [one for one in kept if one.log != ask.log]
            document = [one.model_dump(mode="json") for one in (made, *others)[:LOGS]]
            write_durably(self._file, json.dumps(document).encode())
        except (OSError, ValueError, TypeError) as error:
            return blank.model_copy(update={"refuses": f"what it has signed cannot be read or written: {error}"})
        return made

    def _key(self) -> SigningKey | None:
        secret = self._identity.secret()
        return SigningKey(hashlib.sha256(b"loradeck/cosigner/1\n" + secret).digest()) if secret else None

    def _signed(self, public: str) -> tuple[Countersigned, ...]:
        """Reads what was signed with the present key, the newest first.

        Raises: OSError, ValueError, TypeError: it cannot be read.
        """
        try:
            found = [Countersigned.model_validate(one) for one in json.loads(self._file.read_bytes())]
        except FileNotFoundError:
            return ()
        return tuple(one for one in found if one.key == public)
