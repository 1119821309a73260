"""A harness's Python that asks a release as lm-eval or inspect-ai would, and leaves the files that they leave."""

from __future__ import annotations

import sys
from pathlib import Path

STUB = f"""#!{sys.executable}
import json, os, sys, urllib.request
from pathlib import Path

args = sys.argv[1:]
said = dict(zip(args[::1], args[1:] + [""]))
if "boom" in str(said):
    sys.exit("no such task")
lm = args[1] == "lm_eval"
settings = dict(part.split("=", 1) for part in said["--model_args"].split(",")) if lm else {{}}
url = settings["base_url"] if lm else os.environ["LOCAL_BASE_URL"] + "/chat/completions"
answers = []
for n in range(int(said["--limit"])):
    body = {{"messages": [{{"role": "user", "content": f"question {{n}}"}}], "model": "release", "temperature": 0}}
    head = {{"content-type": "application/json", "authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}}
    asked = urllib.request.Request(url, json.dumps(body).encode(), head)
    answers.append(json.load(urllib.request.urlopen(asked))["choices"][0]["message"]["content"])
task = said["--tasks"] if lm else args[3].rpartition("/")[2].partition("@")[2]
out = Path(said["--output_path" if lm else "--log-dir"])
(out / "environment.txt").write_text(json.dumps(dict(os.environ)))
if lm:
    made = out / "release"
    made.mkdir()
    results = {{task: {{"alias": task, "acc,none": 0.5, "acc_stderr,none": 0.1}}}}
    (made / "results_1.json").write_text(json.dumps({{
        "results": results, "versions": {{task: 1.0}}, "lm_eval_version": "0.4.13", "model_name": "release"}}))
    rows = [{{"doc_id": n, "doc_hash": f"{{n:064x}}", "filter": kept, "filtered_resps": [text],
        "acc": 1.0 if kept == "none" and text == "yes" else 0.0}}
        for kept in ("none", "strict") for n, text in enumerate(answers)]
    (made / f"samples_{{task}}_1.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
else:
    (out / "log.json").write_text(json.dumps({{
        "status": "success",
        "eval": {{"task": task, "task_version": 0, "model": "m", "packages": {{"inspect_ai": "0.3.285"}}}},
        "results": {{"completed_samples": len(answers), "scores": [{{"name": "match", "metrics":
            {{"accuracy": {{"value": 0.5}}}}}}]}},
        "samples": [{{"id": n, "scores": {{"match": {{"value": "C" if text == "yes" else "I", "answer": text}}}}}}
            for n, text in enumerate(answers)]}}))
"""


def write_stub(path: Path) -> Path:
    """Writes the program, which is run as `python -m lm_eval` or `python -m inspect_ai eval`."""
    path.write_text(STUB)
    path.chmod(0o700)
    return path
