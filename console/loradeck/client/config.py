"""Contexts: which hub a console talks to, with which token, and how careful it has to be there.

`config.toml` in the user's configuration folder (`$XDG_CONFIG_HOME/loradeck`):

    current = "eu-1"

    [contexts.eu-1]
    url = "https://hub.eu-1.example:7400"
    token_file = "eu-1.token"      # relative to this file; mode 0600
    ca_file = "eu-1.pem"           # only for a private certificate authority
    production = true
    read_only = false

    [contexts.eu-2]
    url = "https://hub.eu-2.example:7400"
    issuer = "https://login.example"   # people sign in there: loradeck login
    client_id = "loradeck"

    [contexts.eu-3]                # hubs of which one is active at a time and the others stand by
    url = ["https://a.eu-3.example:7400", "https://b.eu-3.example:7400"]
    token_file = "eu-3.token"

    [contexts.lab]
    socket = "/run/loradeck/hub.sock"

    [keys]                         # of the console, by the names of its actions (docs/console.md)
    rollback = "ctrl+r"

Without a file there is one context, `local`: the Unix socket of this user's own hub. A token goes only to
the hub it was named for, so a hub named by itself does not get the token of a context.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import platformdirs

from loradeck.client.errors import ConfigError
from loradeck.schemas.address import is_loopback, is_safe_url

LOCAL = "local"
_KNOWN = {"url", "socket", "token_file", "ca_file", "production", "read_only", "issuer", "client_id", "scope"}
_MAX_TOKEN = 4096

SCOPE = "openid profile email offline_access"
"""What a sign-in asks the provider for where the context does not say."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """One hub, as a console on this machine reaches it. Exactly one of `url` and `socket` is set.

    `others` are the addresses of further hubs of the same log: one of them is active at a time. With an `issuer` people
    sign in there, unless there is a token file.
    """

    name: str
    url: str | None = None
    others: tuple[str, ...] = ()
    socket: Path | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    production: bool = False
    read_only: bool = False
    issuer: str | None = None
    client_id: str = ""
    scope: str = SCOPE

    @property
    def where(self) -> str:
        """The hub's address, or those of all its hubs, for people."""
        return ", ".join(self.addresses)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The address of each of its hubs."""
        return (self.url, *self.others) if self.url is not None else (f"unix:{self.socket}",)

    def each(self) -> tuple[Context, ...]:
        """A context for each of its hubs."""
        return tuple(replace(self, url=url, others=()) for url in self.addresses) if self.others else (self,)


def config_path() -> Path:
    """Path of the user's configuration file."""
    return platformdirs.user_config_path("loradeck") / "config.toml"


def state_path() -> Path:
    """Folder for the state of this user's own hub and console (`$XDG_STATE_HOME/loradeck`)."""
    return platformdirs.user_state_path("loradeck")


def local_socket() -> Path:
    """Path of the Unix socket of this user's own hub."""
    return state_path() / "hub" / "hub.sock"


def load_contexts(path: Path | None = None) -> tuple[dict[str, Context], str]:
    """Reads all contexts by name, and the name of the current one. Without a file there is only `local`.

    Raises: ConfigError: the file is unreadable, not TOML, or has a wrong setting.
    """
    path = path or config_path()
    data = _settings(path)
    unknown = sorted(set(data) - {"current", "contexts", "keys"})
    tables = data.get("contexts", {})
    if unknown or not isinstance(tables, dict):
        raise ConfigError(
            f"unknown setting {unknown[0]!r}" if unknown else "'contexts' is not a table",
            detail=str(path),
            fix="known are: current, a table [contexts.NAME] for each hub, and [keys]",
        )
    contexts = {name: _context(name, table, path) for name, table in tables.items()}
    contexts.setdefault(LOCAL, Context(name=LOCAL, socket=local_socket()))
    current = data.get("current", LOCAL)
    if current not in contexts:
        raise ConfigError(
            f"the current context {current!r} is not defined", detail=str(path), fix=f"known are: {_names(contexts)}"
        )
    return contexts, str(current)


def load_keys(path: Path | None = None) -> dict[str, tuple[str, ...]]:
    """The keys that a person has given to actions of the console, by the action's name; empty without a file.

    Which actions and keys there are is the console's to say.

    Raises: ConfigError: the file is unreadable, not TOML, or the table holds something else than keys.
    """
    path = path or config_path()
    table = _settings(path).get("keys", {})
    if not isinstance(table, dict):
        fix = 'write [keys] and below it rollback = "ctrl+r"'
        raise ConfigError("'keys' is not a table", detail=str(path), fix=fix)
    own = {name: [keys] if isinstance(keys, str) else keys for name, keys in table.items()}
    for name, keys in own.items():
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            fix = 'write rollback = "ctrl+r", or several: down = ["j", "down"]'
            raise ConfigError(f"{name!r} is a key or a list of keys", detail=f"{path}: [keys]", fix=fix)
    return {name: tuple(keys) for name, keys in own.items()}


def _settings(path: Path) -> dict[str, Any]:
    """Reads the file; empty where there is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            "the console's settings cannot be read", detail=f"{path}: {error}", fix="correct it"
        ) from None


def resolve(
    *,
    context: str | None = None,
    hub: str | None = None,
    token_file: str | Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Context:
    """Chooses the context: flags, then LORADECK_CONTEXT / _HUB / _TOKEN_FILE, then the file's current one.

    `hub` is a URL, several with commas between them, or `unix:/path`. A context named by flag ignores LORADECK_HUB and
    LORADECK_TOKEN_FILE.

    Raises: ConfigError: two hubs are named at once, an unknown context, or a malformed address.
    """
    env = os.environ if env is None else env
    source = "--context and --hub"
    if context is None and hub is None:
        context, hub = env.get("LORADECK_CONTEXT") or None, env.get("LORADECK_HUB") or None
        source = "LORADECK_CONTEXT and LORADECK_HUB"
        token_file = token_file or env.get("LORADECK_TOKEN_FILE") or None
    elif hub is not None:
        token_file = token_file or env.get("LORADECK_TOKEN_FILE") or None
    if context is not None and hub is not None:
        raise ConfigError("two hubs are named at once", detail=source, fix="give one of them")
    token = Path(token_file).expanduser() if token_file else None
    if hub is not None:
        return replace(_addressed("hub", hub), token_file=token)
    contexts, current = load_contexts()
    name = context or current
    if name not in contexts:
        raise ConfigError(
            f"no context is called {name!r}", detail=str(config_path()), fix=f"known are: {_names(contexts)}"
        )
    found = contexts[name]
    if token is None:
        return found
    return replace(found, token_file=token)


def read_token(path: Path) -> str:
    """Reads the token in a file.

    Raises: ConfigError: it is missing, readable by others, another user's, empty, or not one line. The message never
    repeats the file's content.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(_MAX_TOKEN + 1)
    except OSError as error:
        raise ConfigError(
            "the token file cannot be read",
            detail=f"{path}: {error.strerror}",
            fix="give the file that `loradeck token create --out FILE` wrote",
        ) from None
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError("the token file is not a regular file", detail=str(path), fix="give the file itself")
    if status.st_mode & 0o077:
        raise ConfigError(
            "the token file can be read by others",
            detail=f"{path}: mode {stat.S_IMODE(status.st_mode):04o}",
            fix=f"chmod 600 {path}, and create a new token if others use this machine",
        )
    if status.st_uid not in (os.geteuid(), 0):
        raise ConfigError("the token file belongs to another user", detail=str(path), fix="use a token of your own")
    text = data.decode("ascii", "replace").strip()
    if not text or len(data) > _MAX_TOKEN or not all("!" <= c <= "~" for c in text):
        raise ConfigError(
            "the token file does not hold a token",
            detail=str(path),
            fix="it is one line, as `loradeck token create --out FILE` writes it",
        )
    return text


def _context(name: str, table: object, path: Path) -> Context:
    where = f"{path}: [contexts.{name}]"
    if not isinstance(table, dict):
        raise ConfigError("a context is a table", detail=where, fix="see docs/cli.md")
    unknown = sorted(set(table) - _KNOWN)
    if unknown:
        raise ConfigError(
            f"unknown setting {unknown[0]!r}", detail=where, fix=f"known are: {', '.join(sorted(_KNOWN))}"
        )
    urls = table.get("url", ())
    if isinstance(urls, list) and not (urls and all(isinstance(url, str) for url in urls)):
        raise ConfigError(
            "'url' is a string, or a list of strings", detail=where, fix='url = ["https://…", "https://…"]'
        )
    for key in ("url", "socket", "token_file", "ca_file", "issuer", "client_id", "scope"):
        if not isinstance(table.get(key, ""), (str, list) if key == "url" else str):
            raise ConfigError(f"{key!r} is a string", detail=where, fix="put it in quotes")
    for key in ("production", "read_only"):
        if not isinstance(table.get(key, False), bool):
            raise ConfigError(f"{key!r} is true or false", detail=where, fix="write it without quotes")
    if ("url" in table) == ("socket" in table):
        raise ConfigError("a context has either a url or a socket", detail=where, fix="give exactly one of them")
    issuer = table.get("issuer")
    if (issuer is None) != ("client_id" not in table) or not (issuer is None or is_safe_url(issuer)):
        raise ConfigError(
            "a sign-in needs an issuer, an https:// address, and a client_id", detail=where, fix="give both of them"
        )
    address = (",".join([urls] if isinstance(urls, str) else urls)) or f"unix:{table['socket']}"

    def file(key: str) -> Path | None:
        return path.parent / Path(table[key]).expanduser() if key in table else None

    return replace(
        _addressed(name, address, where),
        token_file=file("token_file"),
        ca_file=file("ca_file"),
        production=table.get("production", False),
        read_only=table.get("read_only", False),
        issuer=issuer,
        client_id=table.get("client_id", ""),
        scope=table.get("scope", SCOPE),
    )


def _addressed(name: str, addresses: str, where: str = "") -> Context:
    """Builds a context for an address, or for several, after checking that a token would be safe on the way there."""
    parts = [addresses] if addresses.startswith("unix:") else addresses.split(",")
    first, *others = [_one(name, part.strip(), where) for part in parts]
    if others and any(one.url is None for one in (first, *others)):
        raise ConfigError("several hubs are named, and one by its socket", detail=where or addresses, fix="give URLs")
    return replace(first, others=tuple(dict.fromkeys(one.url for one in others if one.url and one.url != first.url)))


def _one(name: str, address: str, where: str) -> Context:
    url: str | None = None
    socket: Path | None = None
    if address.startswith("unix:"):
        socket = Path(address.removeprefix("unix:")).expanduser()
        if not socket.is_absolute():
            raise ConfigError(
                "the path of a Unix socket is absolute", detail=where or address, fix="unix:/path/hub.sock"
            )
    else:
        try:
            parts = urlsplit(address)
            port_fits = parts.port is None or parts.port > 0
        except ValueError:
            parts, port_fits = urlsplit(""), False
        if parts.username is not None or parts.password is not None:
            # The address is not repeated: what stands before the @ may be a secret.
            raise ConfigError("a hub's address holds no user or password", detail=where or name, fix="use a token file")
        if parts.scheme not in ("http", "https") or not parts.hostname or not port_fits or parts.path.strip("/"):
            raise ConfigError(
                "this is not an address of a hub",
                detail=where or address,
                fix="give https://HOST:PORT, http://127.0.0.1:PORT or unix:/path/hub.sock",
            )
        if parts.scheme == "http" and not is_loopback(parts.hostname):
            raise ConfigError(
                "a hub on another machine needs TLS",
                detail=where or address,
                fix=f"use https://{parts.netloc}, or forward a port over SSH and use http://127.0.0.1:PORT",
            )
        url = f"{parts.scheme}://{parts.netloc}"
    return Context(name=name, url=url, socket=socket)


def _names(contexts: Mapping[str, Context]) -> str:
    return ", ".join(sorted(contexts))
