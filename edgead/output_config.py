"""The part of station.yaml that says where verdicts go over the network: ``outputs:`` and ``outbox:``.

Apart from ``config``, so that the process that delivers them imports neither NumPy nor OpenCV.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, model_validator


def from_file(path: Path, info: ValidationInfo) -> Path:
    """Return a path as it counts from the folder of the file that names it."""
    folder = (info.context or {}).get("folder")
    return Path(folder) / path.expanduser() if folder else path.expanduser()


def _topic(value: str) -> str:
    if any(sign in value for sign in "+#\0") or value.startswith(("$", "/")) or value.endswith("/"):
        raise ValueError("a topic without wildcards (+ #), $ or / at its start, / at its end")
    return value


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not parts.username
    except ValueError:  # such as a port that is no number
        good = False
    if not good or any(sign <= " " for sign in value):
        raise ValueError("http:// or https://, a host, and no password in it (token_file keeps secrets)")
    return value


FilePath = Annotated[Path, AfterValidator(from_file)]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\w.:-]+$")]
Host = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[\w.:-]+$")]
Port = Annotated[int, Field(ge=1, le=65535)]
_KINDS = ("mqtt", "webhook", "modbus", "opcua")
_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")


class Section(BaseModel):
    """Base of all sections of train.yaml and station.yaml."""

    # A view called 1 or a light called 2 is a name, however YAML reads it.
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True, allow_inf_nan=False)


class TlsConfig(Section):
    """Encryption: null authorities are those of the system; certificate and key are the station's own."""

    ca_file: FilePath | None = None
    cert_file: FilePath | None = None
    key_file: FilePath | None = None


class MqttConfig(Section):
    """A broker: verdicts at ``TOPIC/verdict`` with QoS 1, ``TOPIC/status`` is retained.

    Attributes:
        port: null is 1883, with ``tls`` 8883.
        topic: null is ``edgead/STATION``.
        password_file: its first line is the password of ``username``.
        client_id: null is ``edgead-STATION-OUTPUT``; no two clients of a broker may have the same.
        window: verdicts that are sent and not yet acknowledged.
    """

    host: Host
    port: Port | None = None
    topic: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_topic)] | None = None
    username: str | None = None
    password_file: FilePath | None = None
    client_id: Name | None = None
    tls: TlsConfig | None = None
    keepalive_s: int = Field(default=15, ge=2, le=3600)
    window: int = Field(default=100, ge=1, le=10_000)


class WebhookConfig(Section):
    """An HTTP server that takes each verdict by POST; its ``Idempotency-Key`` is the event's id.

    Attributes:
        token_file: its first line goes as ``Authorization: Bearer``.
        ca_file: authority of the server's certificate; null is those of the system.
        retry_s: longest wait between two attempts.
    """

    url: Annotated[str, AfterValidator(_url)]
    timeout_s: float = Field(default=5, gt=0, le=300)
    token_file: FilePath | None = None
    ca_file: FilePath | None = None
    retry_s: float = Field(default=30, gt=0)


class ModbusConfig(Section):
    """A Modbus TCP server for the controller of the line: registers as in docs/modbus.md.

    Attributes:
        host: address to listen on; the default is reached from this machine only.
    """

    host: Host = "127.0.0.1"
    port: Port = 1502


class OpcuaConfig(Section):
    """An OPC UA server after OPC 40100-1 Machine Vision: what is in it, docs/opcua.md.

    Attributes:
        host: address to listen on; the default is reached from this machine only.
        username: null lets everybody read; a name, with its password, nobody else.
        password_file: its first line is the password of ``username``.
        cert_file, key_file: PEM; with them only encrypted connections are taken (Basic256Sha256).
        keep: last results that clients can ask for.
    """

    host: Host = "127.0.0.1"
    port: Port = 4840
    username: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    password_file: FilePath | None = None
    cert_file: FilePath | None = None
    key_file: FilePath | None = None
    keep: int = Field(default=1000, ge=1, le=10_000)

    @model_validator(mode="after")
    def _secrets_are_whole(self) -> OpcuaConfig:
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file belong together")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together")
        if self.username is not None and self.cert_file is None and self.host not in _THIS_MACHINE:
            raise ValueError("cert_file and key_file, or the password of username would cross the network as it is")
        return self


class OutputConfig(Section):
    """One output: exactly one of its kinds; ``name`` tells two of a kind apart."""

    name: Name | None = None
    mqtt: MqttConfig | None = None
    webhook: WebhookConfig | None = None
    modbus: ModbusConfig | None = None
    opcua: OpcuaConfig | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> OutputConfig:
        if len(self._kinds()) != 1:
            raise ValueError(f"exactly one of {', '.join(_KINDS)}")
        return self

    def _kinds(self) -> list[str]:
        return [kind for kind in _KINDS if getattr(self, kind) is not None]

    @property
    def kind(self) -> str:
        """Return "mqtt", "webhook", "modbus" or "opcua"."""
        return self._kinds()[0]

    @property
    def title(self) -> str:
        """Return what it is called: its name, or its kind."""
        return self.name or self.kind

    def files(self) -> list[Path]:
        """Return the files that it names: all have to be readable when a station starts."""
        section: Any = getattr(self, self.kind)
        sections = [section, getattr(section, "tls", None)]
        values = [value for part in sections if part for value in part.__dict__.values()]
        return [value for value in values if isinstance(value, Path)]


class OutboxConfig(Section):
    """What is kept of the verdicts on their way to the outputs.

    Attributes:
        keep: verdicts that stay after all outputs have acknowledged them.
        limit_mib: size at which the oldest go although not all outputs have them: counted, and said in the report.
        drain_s: longest wait, at the end of the station, for outputs that lag behind.
    """

    keep: int = Field(default=10_000, ge=0)
    limit_mib: float = Field(default=1024, ge=1)
    drain_s: float = Field(default=5, ge=0, le=600)
