"""The embedded engine: transformers and LoRA in one process, behind the engine contract.

    python -m loradeck_agent.embedded.serve --state DIR --base FOLDER --slots N --threads N

It listens on DIR/engine.sock (0600, in a 0700 folder) and holds DIR/engine.lock for its life, so that no two
engines share a folder and an agent can find one that outlived it. SIGTERM ends it at the next step.
"""

import argparse
import asyncio
import logging
import os
import secrets
import signal
import sys
from collections.abc import Sequence as Args
from pathlib import Path

from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.process import allow_open_files, log_to_stderr, paused
from loradeck_agent.host.state_folder import locked

log = logging.getLogger("loradeck_agent.embedded.serve")

BASE_NAME = "base"


def parse(argv: Args[str] | None) -> argparse.Namespace:
    """Parses the engine's command line; exits with a message if it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m loradeck_agent.embedded.serve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--state", type=Path, required=True, help="folder for the socket and the lock")
    parser.add_argument("--base", type=Path, required=True, help="folder of the base model, in safetensors")
    parser.add_argument("--slots", type=int, default=4, help="adapters in memory at once (default 4)")
    parser.add_argument("--batch-slots", type=int, help="of them, those that one batch mixes (default: all)")
    parser.add_argument("--threads", type=int, default=1, help="threads of one operation (default 1)")
    args = parser.parse_args(argv)
    args.batch_slots = args.slots if args.batch_slots is None else args.batch_slots
    if min(args.slots, args.batch_slots, args.threads) < 1:
        parser.error("--slots, --batch-slots and --threads must be positive")
    if not (args.base / "config.json").is_file():
        parser.error(f"--base {args.base} is not the folder of a model")
    return args


async def serve(args: argparse.Namespace) -> None:
    """Listens, loads the model meanwhile, and serves until SIGTERM or SIGINT."""
    with paused():
        from aiohttp import web

        from loradeck_agent.embedded.server import EngineServer, embedded_build, load_model

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = EngineServer(secrets.token_hex(8), embedded_build(), BASE_NAME, args.slots)
    # A caller that goes away cancels its handler, and with it its row in the batch.
    runner = web.AppRunner(server.app(), handler_cancellation=True, access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    socket = args.state / "engine.sock"
    socket.unlink(missing_ok=True)  # left by an engine that was killed; the lock says that it is gone
    await web.UnixSite(runner, str(socket)).start()
    log.info("listening on %s, loading %s", socket, args.base)
    load = paused()(load_model)
    loading = asyncio.create_task(asyncio.to_thread(load, args.base, args.threads, args.batch_slots), name="load")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            model = loading.result()
            server.ready(model)
            log.info("ready: base %s", model.base_digest)
            await stopping
            await asyncio.to_thread(model.inference.stop)
    finally:
        socket.unlink(missing_ok=True)
        await runner.cleanup()


def main(argv: Args[str] | None = None) -> int:
    """Command line. 0 after SIGTERM; 1 when another engine holds the folder or the model cannot be loaded."""
    args = parse(argv)
    log_to_stderr("info")
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("USE_HUB_KERNELS", "NO")  # code that nobody here has looked at
    os.umask(0o077)
    args.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    allow_open_files()
    # The event loop must get the interpreter within a fraction of a decoding step.
    sys.setswitchinterval(0.0005)
    try:
        with locked(args.state / "engine.lock", "engine"):
            asyncio.run(serve(args))
    except AgentError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except Exception:  # a model that cannot be loaded: the log says why, the exit status that it is over
        log.exception("the engine cannot serve")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
