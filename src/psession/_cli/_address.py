"""The address of a peer: ``ws://HOST:PORT`` or ``tcp://HOST:PORT``. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

FORM = "ws://HOST:PORT or tcp://HOST:PORT"

Scheme = Literal["ws", "tcp"]


@dataclass(frozen=True, slots=True)
class Address:
    """A URL, taken apart.

    Attributes:
        scheme: ``"ws"``: a WebSocket. ``"tcp"``: a line of JSON for each message.
        host: A name or an IP address, without brackets.
        port: The TCP port. 0 stands for any free one, to listen on.
        path: The path and query of a WebSocket; ``"/"`` where there is none.
    """

    scheme: Scheme
    host: str
    port: int
    path: str = "/"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}{'' if self.path == '/' else self.path}"

    @property
    def netloc(self) -> str:
        """The host and port, as a URL and HTTP's ``Host`` have them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

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
        scheme: Scheme
        if parts.scheme == "ws":
            scheme = "ws"
        elif parts.scheme == "tcp":
            scheme = "tcp"
        else:
            raise ValueError(f"give {FORM}, not {url!r}")
        if not host:
            raise ValueError(f"{url!r} names no host; give {FORM}, such as {scheme}://127.0.0.1:8080")
        if port is None:
            raise ValueError(f"{url!r} names no port; give {FORM}, such as {scheme}://{parts.netloc.rstrip(':')}:8080")
        if "@" in parts.netloc or parts.fragment:
            raise ValueError(f"{url!r} has a user or a fragment, which mean nothing here; give {FORM}")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if scheme == "tcp" and path != "/":
            raise ValueError(f"{url!r} has a path, which only ws:// can have; give tcp://HOST:PORT")
        return cls(scheme, host, port, path)
