"""Answers of the engine that serves, asked over the agent's socket: several questions at once, each tried again for a
while where engine or agent is being started anew."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field

from pydantic import ValidationError

from loradeck.schemas.executor import EngineDoor
from loradeck.schemas.jobs import AT_ONCE
from loradeck_agent.executors.protocol import HEARTBEAT_S, ExecutorFailure
from loradeck_agent.serving.engine_questions import EngineAnswer, EngineQuestion

AWAY_S = 600.0
"""How long an engine or the agent may be away before the evaluation fails."""

PAUSE_S = 1.0


@dataclass
class Served:
    """The engine behind the agent's socket, asked `at_once` questions at a time, and `AT_ONCE` at most."""

    door: EngineDoor
    at_once: int
    _own: threading.local = field(default_factory=threading.local)
    _open: set[socket.socket] = field(default_factory=set)
    _ended: bool = False

    def each(self, questions: Sequence[EngineQuestion], beat: Callable[[], None]) -> Iterator[tuple[int, EngineAnswer]]:
        """Asks all questions and yields (number of the question, its answer) as answers come. Called once.

        `beat` is called every second, and ends it by raising.

        Raises: ExecutorFailure: `engine_failed`: a question was refused, or nobody answered for `AWAY_S` seconds.
        """
        pool = ThreadPoolExecutor(min(self.at_once, AT_ONCE))
        numbers = {pool.submit(self._answer, question): number for number, question in enumerate(questions)}
        waiting = set(numbers)
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=HEARTBEAT_S / 2, return_when=FIRST_COMPLETED)
                beat()
                for future in done:
                    yield numbers[future], future.result()
        finally:
            self._ended = True
            pool.shutdown(wait=False, cancel_futures=True)
            for connection in tuple(self._open):  # whoever still waits for an answer waits no longer
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _answer(self, question: EngineQuestion) -> EngineAnswer:
        until, why = time.monotonic() + AWAY_S, "it was ended"
        line = question.model_dump_json(exclude_defaults=True).encode() + b"\n"
        while not self._ended and time.monotonic() < until:
            try:
                answer = self._asked(line)
                if not answer.error:
                    return answer
                why = answer.error
                if not answer.again:
                    break
            except (OSError, ValidationError) as error:
                self._hang_up()
                why = f"the agent does not answer: {error}"
            time.sleep(PAUSE_S)
        raise ExecutorFailure("engine_failed", f"{self.door.replica}: {why}")

    def _asked(self, line: bytes) -> EngineAnswer:
        file = getattr(self._own, "file", None)
        if file is None:
            connection = self._own.connection = socket.socket(socket.AF_UNIX)
            self._open.add(connection)
            connection.settimeout(AWAY_S)
            connection.connect(self.door.socket)
            file = self._own.file = connection.makefile("rwb")
        file.write(line)
        file.flush()
        return EngineAnswer.model_validate_json(file.readline())

    def _hang_up(self) -> None:
        connection: socket.socket = self._own.connection
        self._own.file = None
        self._open.discard(connection)
        connection.close()
