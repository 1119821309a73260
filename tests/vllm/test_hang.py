"""A vLLM whose core hangs: its server goes on saying that it is well."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
from tests.fleets.processes.fleet import TENANT
from tests.vllm.attached import Attached
from tests.vllm_server import asked

from incident.fleet import wait_for


def alarm(tenant: Attached) -> str:
    (node,) = tenant.fleet.ask("nodes")
    (replica,) = node["replicas"]
    return str(replica["alarm"])


def test_a_core_that_is_stopped_under_a_request_is_found_though_the_server_says_that_it_is_well(
    tenant: Attached,
) -> None:
    core = psutil.Process(tenant.server.process.pid).children(recursive=True)
    assert core, "the core is a process of its own"
    with ThreadPoolExecutor(1) as pool:
        for process in core:
            process.suspend()
        try:
            body = asked(TENANT, "w1 w3 w7", 12)
            reply = pool.submit(tenant.http.post, "/v1/chat/completions", json=body)
            found = wait_for("the engine is found to hang", lambda: alarm(tenant), 60)
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(tenant.server.socket))) as http:
                assert http.get("http://vllm/health").status_code == 200
            refusal = reply.result(60)
        finally:
            for process in core:
                process.resume()
        assert re.fullmatch(r"engine e0 makes no step and has not answered for \d+ s", found)
        assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "engine_silent"), (
            "another node may answer"
        )
    wait_for("the engine answers again", lambda: not alarm(tenant), 60)
    wait_for("its router asks it again", lambda: tenant.http.post("/v1/chat/completions", json=body).is_success, 60)
    assert tenant.text("w1 w3 w7")
