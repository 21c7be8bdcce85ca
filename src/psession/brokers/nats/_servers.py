"""The servers that a client knows: those it was given, and those that these tell of. Pure: chance is an argument."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from psession.brokers.nats._credentials import Credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

DEFAULT_PORT: Final = 4222
MAX_SERVERS: Final = 256
"""How many servers are remembered: clusters have 3 to 30, and a server that lies may tell of any number."""

_SCHEMES: Final = ("nats", "tls")


class Server:
    """One server.

    Attributes:
        host: Its name or address.
        port: Its port.
        tls: True where its URL asks for TLS (``tls://``).
        tls_name: What its certificate is for: of one that another told of by its address, that one's name.
        credentials: Those in its URL, if there are any.
        is_told: True where a server told of it.
    """

    __slots__ = ("credentials", "host", "is_told", "port", "tls", "tls_name")

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: bool = False,
        tls_name: str | None = None,
        credentials: Credentials | None = None,
        is_told: bool = False,
    ) -> None:
        self.host: str = host
        self.port: int = port
        self.tls: bool = tls
        self.tls_name: str = tls_name or host
        self.credentials: Credentials | None = credentials
        self.is_told: bool = is_told

    def __repr__(self) -> str:
        return self.url

    @property
    def address(self) -> tuple[str, int]:
        """Its host and port, by which it is known."""
        return self.host, self.port

    @property
    def url(self) -> str:
        """Its URL, without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'tls' if self.tls else 'nats'}://{host}:{self.port}"


def read_url(url: str) -> Server:
    """Read ``nats://user:password@host:port``, ``tls://host``, ``nats://token@host`` or ``host:port``.

    Raises:
        TypeError: It is no text.
        ValueError: It is no URL of a server; the text says why, without the password.
    """
    if not isinstance(url, str):
        raise TypeError(f"the URL of a server must be a str such as 'nats://127.0.0.1:4222', not {url!r}")
    if not url.strip() or any(character.isspace() for character in url):
        raise ValueError(f"not the URL of a server, which is such as 'nats://127.0.0.1:4222': {hidden(url)!r}")
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    if parts.scheme not in _SCHEMES:
        hint = ": NATS over WebSocket is not supported" if parts.scheme in ("ws", "wss") else ""
        raise ValueError(f"the URL of a server begins with nats:// or tls://, not {parts.scheme}://{hint}")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"the URL of a server has nothing behind its port: {hidden(url)!r}")
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"the port of {hidden(url)!r} must be from 1 to 65535") from None
    if port == 0:
        raise ValueError(f"the port of {hidden(url)!r} must be from 1 to 65535")
    if not parts.hostname:
        raise ValueError(f"there is no host in {hidden(url)!r}")
    credentials = None
    if parts.username:
        user = unquote(parts.username)
        if parts.password is None:
            credentials = Credentials(token=user)
        else:
            credentials = Credentials(user=user, password=unquote(parts.password))
    return Server(parts.hostname, port or DEFAULT_PORT, tls=parts.scheme == "tls", credentials=credentials)


def hidden(url: str) -> str:
    """Return a URL without what stands before its host, which may be a secret."""
    scheme, mark, rest = url.rpartition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"


class ServerPool:
    """The servers there are, and in which order they are tried.

    Args:
        urls: A URL, or several.
        rng: Gives random numbers from 0 to 1.

    Raises:
        TypeError, ValueError: As `read_url`; or there is none.
    """

    def __init__(self, urls: str | Iterable[str], rng: Callable[[], float]) -> None:
        servers = [read_url(url) for url in ([urls] if isinstance(urls, str) else urls)]
        if not servers:
            raise ValueError("there must be at least one server, such as 'nats://127.0.0.1:4222'")
        self._servers = {server.address: server for server in servers}
        self._rng = rng

    def __len__(self) -> int:
        return len(self._servers)

    @property
    def urls(self) -> list[str]:
        """The URLs of all servers, those that were given first."""
        return [server.url for server in self._servers.values()]

    def round(self, last: Server | None = None) -> list[Server]:
        """Return all servers in random order; `last`, which has just been lost, at the end."""
        servers = sorted(self._servers.values(), key=lambda _: self._rng())
        return sorted(servers, key=lambda server: last is not None and server.address == last.address)

    def learn(self, urls: Iterable[str], teller: Server) -> None:
        """Take in what a server says of its cluster: who is new, and who of those that were told is gone.

        What is no address is passed over.
        """
        told: set[tuple[str, int]] = {teller.address}
        for url in urls:
            try:
                server = read_url(url)
            except ValueError:
                continue
            if ":" in server.host or _is_address(server.host):
                server.tls_name = teller.tls_name
            told.add(server.address)
            if server.address not in self._servers and len(self._servers) < MAX_SERVERS:
                server.tls, server.credentials, server.is_told = teller.tls, teller.credentials, True
                self._servers[server.address] = server
        if len(told) > 1:
            gone = [address for address, server in self._servers.items() if server.is_told and address not in told]
            for address in gone:
                del self._servers[address]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
