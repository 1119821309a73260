"""The agent's end of the socket on which an evaluation's executor asks an engine."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

Answering = Callable[[dict[str, Any]], dict[str, Any] | None]
"""An answer to a question; None hangs up instead."""


class EngineRelay:
    """Answers questions on a socket, each connection in a thread of its own."""

    def __init__(self, path: Path, answer: Answering) -> None:
        self.answer = answer
        self.most = self.now = 0
        self.lock = threading.Lock()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        with suppress(OSError), connection, connection.makefile("rwb") as file:
            for line in file:
                with self.lock:
                    self.now += 1
                    self.most = max(self.most, self.now)
                answer = self.answer(json.loads(line))
                with self.lock:
                    self.now -= 1
                if answer is None:
                    connection.shutdown(socket.SHUT_RDWR)
                    return
                file.write(json.dumps(answer).encode() + b"\n")
                file.flush()
