"""The broker that a client connects to, as its URL says. Pure."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote, urlsplit

DEFAULT_PORT: Final = 1883
DEFAULT_TLS_PORT: Final = 8883


class Server:
    """A broker.

    Attributes:
        host: Its name or address.
        port: Its port.
        tls: True where its URL asks for TLS (``mqtts://``).
        user: The user in its URL, if there is one.
        password: Its password, likewise.
    """

    __slots__ = ("host", "password", "port", "tls", "user")

    def __init__(self, host: str, port: int, *, tls: bool, user: str | None, password: str | None) -> None:
        self.host: str = host
        self.port: int = port
        self.tls: bool = tls
        self.user: str | None = user
        self.password: str | None = password

    def __repr__(self) -> str:
        return self.url

    @property
    def url(self) -> str:
        """Its URL, without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"


def read_url(url: str) -> Server:
    """Read ``mqtt://user:password@host:port``, ``mqtts://host`` or ``host:port``.

    Raises:
        TypeError: It is no text.
        ValueError: It is no URL of a broker; the text says why, without the password.
    """
    if not isinstance(url, str):
        raise TypeError(f"the URL of a broker must be a str such as 'mqtt://127.0.0.1:1883', not {url!r}")
    if not url.strip() or any(character.isspace() for character in url):
        raise ValueError(f"not the URL of a broker, which is such as 'mqtt://127.0.0.1:1883': {_hidden(url)!r}")
    parts = urlsplit(url if "://" in url else f"mqtt://{url}")
    if parts.scheme not in ("mqtt", "mqtts"):
        hint = ": MQTT over WebSocket is not supported" if parts.scheme in ("ws", "wss") else ""
        raise ValueError(f"the URL of a broker begins with mqtt:// or mqtts://, not {parts.scheme}://{hint}")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"the URL of a broker has nothing behind its port: {_hidden(url)!r}")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError(f"the port of {_hidden(url)!r} must be from 1 to 65535")
    if not parts.hostname:
        raise ValueError(f"there is no host in {_hidden(url)!r}")
    tls = parts.scheme == "mqtts"
    return Server(
        parts.hostname,
        port or (DEFAULT_TLS_PORT if tls else DEFAULT_PORT),
        tls=tls,
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password is not None else None,
    )


def _hidden(url: str) -> str:
    """Return a URL without what stands before its host, which may be a secret."""
    scheme, mark, rest = url.rpartition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"
