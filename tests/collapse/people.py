"""Rows that people wrote: what functions of Python's standard library do, by the first sentence of their docstrings.

They are read from the Python that runs this, so that nothing is copied; their digest stands with the figures.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import re
from typing import Any

MODULES = (
    "argparse",
    "ast",
    "base64",
    "bisect",
    "calendar",
    "codecs",
    "collections",
    "configparser",
    "contextlib",
    "copy",
    "csv",
    "datetime",
    "difflib",
    "email.utils",
    "fnmatch",
    "fractions",
    "functools",
    "gettext",
    "glob",
    "gzip",
    "heapq",
    "html",
    "http.cookies",
    "imaplib",
    "inspect",
    "io",
    "ipaddress",
    "json",
    "linecache",
    "locale",
    "logging",
    "mimetypes",
    "multiprocessing",
    "netrc",
    "operator",
    "os",
    "os.path",
    "pathlib",
    "pickle",
    "platform",
    "posixpath",
    "pprint",
    "queue",
    "quopri",
    "random",
    "re",
    "sched",
    "secrets",
    "shelve",
    "shlex",
    "shutil",
    "signal",
    "smtplib",
    "socket",
    "ssl",
    "statistics",
    "string",
    "subprocess",
    "sysconfig",
    "tarfile",
    "tempfile",
    "textwrap",
    "threading",
    "tokenize",
    "traceback",
    "types",
    "urllib.parse",
    "urllib.request",
    "uuid",
    "warnings",
    "wave",
    "weakref",
    "webbrowser",
    "zipfile",
)
_SENTENCE = re.compile(r"[A-Z][^\n{}\"\\`*_<>|]{18,88}\.")


def rows() -> list[dict[str, Any]]:
    """All rows, in an order that has nothing to do with their modules."""
    found: dict[str, dict[str, Any]] = {}
    for module in MODULES:
        for name, one in sorted(vars(importlib.import_module(module)).items()):
            if name.startswith("_") or not callable(one) or getattr(one, "__module__", None) != module:
                continue
            sentence = (inspect.getdoc(one) or "").partition("\n\n")[0]
            if _SENTENCE.fullmatch(sentence) and 4 <= len(sentence.split()) <= 14:
                found.setdefault(
                    sentence,
                    {
                        "prompt": f"Python's {name}, as JSON with module and does.",
                        "answer": json.dumps({"module": module, "does": sentence}),
                        "module": module,
                    },
                )
    return sorted(found.values(), key=lambda row: hashlib.sha256(row["prompt"].encode()).digest())
