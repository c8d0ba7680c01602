"""An OPC UA server that clients can read and cannot change, and that malformed or greedy ones do not bring down.

Rules found by trying asyncua: it keeps what it cannot parse, lets everybody register servers and open sessions without
an end, and logs a traceback for each malformed message.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from typing import Any

from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.binary_server_asyncio import BinaryServer, OPCUAProtocol
from asyncua.server.internal_server import InternalServer
from asyncua.server.server import Server
from asyncua.server.user_managers import UserManager
from asyncua.ua.status_codes import StatusCodes
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from edgead.output_config import OpcuaConfig
from edgead.runtime.outputs.complaints import Complaints
from edgead.runtime.outputs.sender import SendError, secret

_CONNECTIONS, _SESSIONS, _SUBSCRIPTIONS = 50, 100, 200
_CHUNK = 65_536  # the largest that asyncua offers its clients
_MESSAGE = 1 << 20  # the largest request; answers may be larger, and asyncua's clients know one limit for both
_IDLE_S = 120.0  # a session that asks for nothing for so long is closed
_ACTIVATED_S = 10.0  # a connection without a session for so long is closed
_TYPES = (b"HEL", b"OPN", b"MSG", b"CLO")
_PATH = "/edgead/"


class _Users(UserManager):
    """Everybody may read, or the one with the password."""

    def __init__(self, config: OpcuaConfig) -> None:
        self._username, self._password = config.username, secret(config.password_file)

    def get_user(
        self,
        iserver: InternalServer,  # noqa: ARG002
        username: str | None = None,
        password: str | None = None,
        certificate: Any = None,  # noqa: ARG002
    ) -> User | None:
        if self._username is None:
            return User(role=UserRole.User)
        given = f"{username}\0{password}".encode(errors="replace")
        wanted = f"{self._username}\0{self._password}".encode()
        return User(role=UserRole.User, name=self._username) if hmac.compare_digest(given, wanted) else None


class _Inside(InternalServer):
    """Sessions are counted, and nobody registers a server here."""

    def register_server(self, server: Any, conf: Any = None) -> None:  # noqa: ARG002
        raise ServiceError(StatusCodes.BadServiceUnsupported)

    def create_session(self, name: str, user: User = User(), external: bool = False) -> Any:  # noqa: B008
        if external and len(self._external_sessions) >= _SESSIONS:
            idle = [one for one in self._external_sessions.values() if not one.is_activated()]
            if not idle:
                raise ServiceError(StatusCodes.BadTooManySessions)
            self._closing = asyncio.get_running_loop().create_task(idle[0].close_session())
            self.unregister_external_session(idle[0])
        return super().create_session(name, user=user, external=external)


class _Connection(OPCUAProtocol):
    """Takes whole messages of a sane size only; closes on others."""

    def __init__(self, *arguments: Any, complaints: Complaints, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._complaints = complaints
        self._bytes = bytearray()
        self._request = 0  # bytes of the chunks of a request that has not come to its end

    def data_received(self, data: bytes) -> None:
        self._bytes += data
        while len(self._bytes) >= 8:
            size = int.from_bytes(self._bytes[4:8], "little")
            if bytes(self._bytes[:3]) not in _TYPES or not 8 < size <= _CHUNK:
                self._bytes.clear()
                self._refuse("no OPC UA message")
                return
            if len(self._bytes) < size:
                return
            message = bytes(self._bytes[:size])
            self._request = self._request + size if message[3:4] == b"C" else 0
            if self._request > _MESSAGE:
                self._refuse("a request without an end")
                return
            del self._bytes[:size]
            super().data_received(message)

    async def _process_one_msg(self, header: Any, buf: Any) -> bool:
        try:
            return await super()._process_one_msg(header, buf)
        except Exception as error:  # whatever it was: the connection goes, the server stays
            self._refuse(f"{type(error).__name__}: {error}")
            return False

    def _refuse(self, why: str) -> None:
        self._complaints.count(why)
        if self.transport is not None:
            self.transport.close()


class _Listener(BinaryServer):
    def __init__(self, *arguments: Any, complaints: Complaints) -> None:
        super().__init__(*arguments)
        self._complaints = complaints

    def _make_protocol(self) -> OPCUAProtocol:
        return _Connection(
            self.iserver, self._policies, self.clients, self.closing_tasks, self.limits, complaints=self._complaints
        )


class ReadOnlyServer(Server):
    """A server for one station; ``init``, then ``start``, in this order.

    Raises:
        SendError: a file that it needs cannot be used.
    """

    def __init__(self, config: OpcuaConfig, *, station: str, note: Callable[[str], None]) -> None:
        super().__init__(_Inside(user_manager=_Users(config)))
        self._config = config
        self.complaints = Complaints("asyncua", f"{config.host}:{config.port}", note)
        self.name = f"edgead {station}"
        self.manufacturer_name, self.product_uri = "edgead", "urn:edgead"
        self.application_type = ua.ApplicationType.Server
        self._application_uri = f"urn:edgead:{station}"
        host = f"[{config.host}]" if ":" in config.host else config.host
        self.set_endpoint(f"opc.tcp://{host}:{config.port}{_PATH}")
        self.socket_address = (config.host, config.port)
        self.allow_remote_admin(False)
        inside = self.iserver
        inside.max_connections, inside.max_subscriptions = _CONNECTIONS, _SUBSCRIPTIONS
        inside.max_pending_activation_seconds = _ACTIVATED_S
        inside.max_session_timeout_ms = 1e3 * _IDLE_S
        inside.max_monitored_item_queue_size = 1000
        inside.max_unacked_messages_per_subscription = 1000

    async def init(self, shelf_file: Any = None) -> None:
        """See that files and address can be had, then load the standard address space.

        Raises:
            OSError: the address is taken.
        """
        policies = ua.SecurityPolicyType
        anyone, known = ua.AnonymousIdentityToken, ua.UserNameIdentityToken
        self.set_identity_tokens([anyone if self._config.username is None else known])
        self.set_security_policy([policies.NoSecurity])
        if self._config.cert_file is not None:
            await self._load_certificate()
            self.set_security_policy([policies.Basic256Sha256_SignAndEncrypt, policies.Basic256Sha256_Sign])
        loop = asyncio.get_running_loop()
        address = self._config.host, self._config.port
        # bound, never listening: a client that comes now is refused and tries again, not let in and cut off
        (await loop.create_server(asyncio.Protocol, *address, start_serving=False)).close()
        await super().init(shelf_file)

    async def _load_certificate(self) -> None:
        files = f"{self._config.cert_file}, {self._config.key_file}"
        try:
            await self.load_certificate(self._config.cert_file or "", "pem")
            await self.load_private_key(self._config.key_file or "", format="pem")
        except (OSError, ValueError, TypeError) as error:
            raise SendError(f"{files}: no certificate and its key as PEM ({error})") from error
        certificate, key = self.iserver.certificate, self.iserver.private_key
        if not isinstance(key, RSAPrivateKey) or certificate.public_key() != key.public_key():
            raise SendError(f"{files}: the key is not the RSA key of this certificate; make both together")
        self._application_uri = _uri_in(certificate) or self._application_uri

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address is taken.
        """
        await self._setup_server_nodes()
        await self.iserver.start()
        listener = _Listener(self.iserver, *self._get_bind_socket_info(), self.limits, complaints=self.complaints)
        listener.set_policies(self._policies)
        try:
            await listener.start()
        except OSError:
            await self.iserver.stop()
            raise
        self.bserver = listener


def _uri_in(certificate: Any) -> str | None:
    """Return the application's URI of a certificate, which has to be that of the server."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    return next(iter(names.get_values_for_type(x509.UniformResourceIdentifier)), None)
