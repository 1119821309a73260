"""Loradeck's plugin for vLLM: which adapters it holds and how near, pins, and loads that hold up no other tenant.

vLLM loads it through two entry points of its own. `register_worker` adds calls to each worker, in the worker's
process; `endpoint` adds routes under `/v1/loradeck` to the API server, and only where `VLLM_PLUGINS` names `loradeck`.
It rests on what vLLM does not promise, so on a version that it was not tried on it adds nothing, and says so.
"""

import logging

from loradeck_vllm.routes import AdapterRoutes

TESTED = ("0.32.",)
"""Beginnings of the versions of vLLM that the plugin was run on."""

log = logging.getLogger("vllm.loradeck")


def tested(version: str) -> bool:
    """Tells whether the plugin was run on this version of vLLM, which may end in a build's own mark."""
    return version.startswith(TESTED)


def _on_tested_version() -> bool:
    from vllm.version import __version__

    if not tested(__version__):
        log.warning(
            "the plugin of Loradeck adds nothing to vLLM %s: it was tried on %s", __version__, ", ".join(TESTED)
        )
    return tested(__version__)


def register_worker() -> None:
    """Adds the plugin's calls to vLLM's workers. vLLM runs it in each of its processes, and in some more than once."""
    if _on_tested_version():
        from vllm.v1.worker.worker_base import WorkerBase

        from loradeck_vllm.worker import CALLS

        for name, call in CALLS.items():
            setattr(WorkerBase, name, call)


def endpoint() -> AdapterRoutes:
    """The routes, for vLLM's API server; on a version that was not tried they add themselves to nothing."""
    return AdapterRoutes(enabled=_on_tested_version())
