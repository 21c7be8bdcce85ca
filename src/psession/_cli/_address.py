"""The address of a peer: a URL such as ``wss://HOST/PATH``, ``tcp://HOST:PORT`` or ``unix:PATH``. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args
from urllib.parse import urlsplit

Scheme = Literal["ws", "wss", "tcp", "tls", "unix"]

SCHEMES: Final[tuple[Scheme, ...]] = get_args(Scheme)

FORM: Final = "ws://HOST:PORT, wss://HOST:PORT, tcp://HOST:PORT, tls://HOST:PORT or unix:PATH"

DEFAULT_PORTS: Final = {"ws": 80, "wss": 443}
"""RFC 6455, section 3. TCP and TLS by themselves have none."""


@dataclass(frozen=True, slots=True)
class Address:
    """A URL, taken apart.

    Attributes:
        scheme: ``"ws"``, ``"wss"``: a WebSocket. ``"tcp"``, ``"tls"``, ``"unix"``: a stream of bytes.
        host: A name or an IP address, without brackets; empty for a Unix socket.
        port: The TCP port. 0 stands for any free one, to listen on.
        path: The path and query of a WebSocket, ``"/"`` where there is none; the file of a Unix socket.
    """

    scheme: Scheme
    host: str = ""
    port: int = 0
    path: str = "/"

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{'' if self.path == '/' else self.path}"

    @property
    def is_websocket(self) -> bool:
        """True for ``ws://`` and ``wss://``."""
        return self.scheme in ("ws", "wss")

    @property
    def is_secure(self) -> bool:
        """True for ``wss://`` and ``tls://``."""
        return self.scheme in ("wss", "tls")

    @classmethod
    def parse(cls, url: str) -> Address:
        """Return the address that `url` gives.

        Raises:
            ValueError: `url` gives none; the text says what is right.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ValueError(f"give {FORM}, not {url!r} ({error})") from None
        scheme: Scheme | None = None
        for known in SCHEMES:
            if parts.scheme == known:
                scheme = known
        if scheme is None:
            raise ValueError(f"give {FORM}, not {url!r}")
        if scheme == "unix":
            return cls._of_unix(url)
        if not host:
            raise ValueError(f"{url!r} names no host; give {scheme}://HOST:PORT, such as {scheme}://127.0.0.1:8080")
        if port is None and (port := DEFAULT_PORTS.get(scheme)) is None:
            raise ValueError(f"{url!r} names no port; give such as {scheme}://{parts.netloc.rstrip(':')}:8080")
        if "@" in parts.netloc or parts.fragment:
            raise ValueError(f"{url!r} has a user or a fragment, which mean nothing here; give {scheme}://HOST:PORT")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if scheme in ("tcp", "tls") and path != "/":
            raise ValueError(f"{url!r} has a path, which only a WebSocket can have; give {scheme}://HOST:PORT")
        return cls(scheme, host, port, path)

    @classmethod
    def _of_unix(cls, url: str) -> Address:
        path = url[len("unix:") :]
        if path.startswith("//"):
            path = path[2:]
            if not path.startswith("/"):
                raise ValueError(f"{url!r} has a host, which a Unix socket has not; give unix:PATH or unix:///PATH")
        if not path:
            raise ValueError(f"{url!r} names no file; give unix:PATH, such as unix:/run/lamp.sock")
        return cls("unix", path=path)
