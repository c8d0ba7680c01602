"""The part of station.yaml that says whether a station shows itself in a browser: ``page:``.

Apart from ``config``, so that the process of the page imports neither a station nor its cameras for it.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

from pydantic import Field, model_validator

from edgead.errors import ConfigError
from edgead.output_config import FilePath, Host, Port, Section

SHORTEST_TOKEN = 16  # characters: what is guessed at a few tries a second holds for ever
_LONGEST_TOKEN = 512


class PageConfig(Section):
    """The operators' page of a station, read-only.

    Attributes:
        host: address to listen on; the default is reached from this machine only, any other needs a ``token_file``.
        token_file: its first line is the word that opens the page; null lets everybody on this machine look.
        metrics: answer Prometheus at /metrics.
        viewers: browsers that may look at the same time.
    """

    host: Host = "127.0.0.1"
    port: Port = 8080
    token_file: FilePath | None = None
    metrics: bool = True
    viewers: int = Field(default=16, ge=1, le=256)

    @model_validator(mode="after")
    def _strangers_need_a_token(self) -> PageConfig:
        refuse_open_door(self.host, has_token=self.token_file is not None)
        return self

    def token(self) -> str | None:
        """Return the word that opens the page, None where none is needed.

        Raises:
            ConfigError: the file cannot be read, or what it holds is too short.
        """
        return read_token(self.token_file) if self.token_file else None


def is_loopback(host: str) -> bool:
    """Tell whether an address is reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def refuse_open_door(host: str, *, has_token: bool) -> None:
    """Refuse to listen for other machines without a token.

    Raises:
        ValueError: it is reached from elsewhere, and everybody could look.
    """
    if not is_loopback(host) and not has_token:
        raise ValueError(f"host {host} is reached from other machines: name a token_file, or take 127.0.0.1")


def read_token(path: str | os.PathLike[str]) -> str:
    """Return the first line of a file as a token.

    Raises:
        ConfigError: it cannot be read, or its first line is no token.
    """
    make = f"make one: python3 -c 'import secrets; print(secrets.token_urlsafe())' > {path}"
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a text file"
        raise ConfigError(f"{path}: the token cannot be read ({why}); {make}") from error
    token = lines[0].strip() if lines else ""
    expected = f"{SHORTEST_TOKEN} to {_LONGEST_TOKEN} ASCII characters"
    if not SHORTEST_TOKEN <= len(token) <= _LONGEST_TOKEN or not token.isascii() or not token.isprintable():
        raise ConfigError(f"{path}: its first line is no token; expected {expected}; {make}")
    return token
