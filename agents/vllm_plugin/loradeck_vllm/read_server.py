"""The socket at which a worker is told what to read: vLLM's own calls of it wait for the end of a step.

One line of JSON comes and one goes: `{"number", "name", "path", "instead"}` → `{"code", "detail"}`, where the code is
`held` once the adapter is in memory, or a refusal's; and `{"forget": number}` → `{"code": "forgotten"}`.
"""

import json
import os
import socket
import socketserver
import struct
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

LONGEST_LINE = 64 * 1024
AT_ONCE = 16
"""Connections at a time: more than are ever opened, unless reads of a dead file system never end."""

TALK_S = 10.0


class ReadServer(socketserver.ThreadingUnixStreamServer):
    """Listens in a folder of its own, in threads of its own, for processes of the same user."""

    daemon_threads = True

    def __init__(self, answer: Callable[[dict[str, Any]], dict[str, str]], gone: Callable[[int], None]) -> None:
        """`answer`: answers one line. `gone`: called with the number of an adapter whose reader has gone away."""
        self._folder = tempfile.TemporaryDirectory(prefix="loradeck-")  # for this user alone
        self.path = str(Path(self._folder.name) / "read.sock")
        self._answer, self._gone, self._places = answer, gone, threading.BoundedSemaphore(AT_ONCE)
        super().__init__(self.path, socketserver.BaseRequestHandler)
        threading.Thread(target=self.serve_forever, name="loradeck-read", daemon=True).start()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Lets in whoever runs as the same user, while there is a place."""
        _, uid, _ = struct.unpack("3i", request.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return uid == os.geteuid() and self._places.acquire(blocking=False)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answers one line. Where nobody takes the answer any more, what was read is dropped."""
        try:
            # The model's step has the processor first: on Linux each thread has a niceness of its own.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
            request.settimeout(TALK_S)
            with request.makefile("rb") as lines:
                asked = json.loads(lines.readline(LONGEST_LINE))
            answer = self._answer(asked)
            try:
                request.sendall(json.dumps(answer).encode() + b"\n")
            except OSError:
                self._gone(asked.get("number", -1))
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A line that cannot be read closes its connection, and nothing else."""
