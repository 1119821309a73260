"""The `[mlflow]` table: a tracking server that is told what jobs of this node have measured."""

import importlib.util
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from loradeck.schemas.address import is_loopback
from loradeck.schemas.ids import Strict
from loradeck_agent.host.errors import ConfigError
from loradeck_agent.host.secret_file import read_secret


class MlflowConfig(Strict):
    """Where runs are kept, and by which token."""

    url: str = Field(max_length=500, description="https://… of the server, or http://… on this host")
    token: Path | None = Field(None, description="file with the bearer token that it asks for, mode 0600")
    ca: Path | None = Field(None, description="authority of its certificate, PEM; None: those that this host trusts")
    experiment: str = Field("loradeck", min_length=1, max_length=200, description="a tenant's is NAME/TENANT")

    @field_validator("url")
    @classmethod
    def _may_be_sent_a_token(cls, url: str) -> str:
        parts = urlsplit(url)
        safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
        if not safe or not parts.hostname or parts.query or parts.username or parts.password:
            raise ValueError(f"{url!r} is no server; write https://mlflow.example.com, and its token into a file")
        return url.rstrip("/")

    def check(self) -> None:
        """Raises ConfigError where the client is not installed, or the token cannot be read."""
        if importlib.util.find_spec("mlflow") is None:
            fix = "pip install 'loradeck[mlflow]', or leave [mlflow] out"
            raise ConfigError("mlflow_missing", "[mlflow] needs the package mlflow-skinny", "it is not installed", fix)
        self.read_token()

    def read_token(self) -> str | None:
        """The token; None: the server asks for none. Raises: ConfigError: as `read_secret` does."""
        if self.token is None:
            return None
        return read_secret(self.token, "token", "write the server's token into a file of mode 0600")
