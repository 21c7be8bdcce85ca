"""A NATS server on the command line: its URL, with a subject or a device behind it, and the client that is opened."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from psession._cli._problem import Exit, Problem

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Sequence

    from psession.brokers.nats import Nats

NATS_SCHEMES: Final = {"nats": "nats", "nats+tls": "tls"}
"""What a URL with a subject begins with, and what open_nats calls it: ``tls://`` alone is a stream of bytes here."""

NATS_FORM: Final = "nats://HOST[:PORT]/SUBJECT or nats://HOST[:PORT]/device.NAME"

DEVICE: Final = "device."
"""In front of a device's name; what is behind it is no subject, and may be any text, with ``%20`` for a space."""

DEFAULT_SERVER: Final = "nats://127.0.0.1:4222"

SERVERS_VARIABLE: Final = "PSESSION_NATS"
"""An environment variable: servers with commas between, since a password on a command line is everybody's to read."""

DEFAULT_FLEET: Final = "home"


def checked_server(text: str) -> str:
    """Return the URL of a server.

    Raises:
        ValueError: It is none; the text says what is right, and has no password in it.
    """
    scheme, colon, rest = text.partition("://")
    where = rest.rpartition("@")[2]
    if scheme not in ("nats", "tls") or not where or "/" in where.rstrip("/"):
        raise ValueError(f"give nats://HOST:PORT or tls://HOST:PORT, not {f'{scheme}{colon}{where}'!r}")
    return text


def servers_of_environment() -> list[str]:
    """Return the servers that `SERVERS_VARIABLE` names, else the default one.

    Raises:
        Problem: One of them is none.
    """
    named = os.environ.get(SERVERS_VARIABLE, "").split(",")
    try:
        return [checked_server(text.strip()) for text in named if text.strip()] or [DEFAULT_SERVER]
    except ValueError as error:
        raise Problem(f"{SERVERS_VARIABLE}: {error}", Exit.USAGE) from error


@dataclass(frozen=True, slots=True)
class NatsAddress:
    """A subject, or a device, at a server.

    Attributes:
        scheme: ``"nats"`` or ``"nats+tls"``.
        server: The server's URL as `open_nats` takes it, which may have a password in it.
        where: The server without user and password, to show.
        path: The subject; or ``device.`` and the device's name.
    """

    scheme: str
    server: str
    where: str
    path: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.where}/{self.path}"

    @property
    def device(self) -> str | None:
        """The device's name; ``None`` where it is a subject."""
        return unquote(self.path.removeprefix(DEVICE)) if self.path.startswith(DEVICE) else None

    @property
    def is_websocket(self) -> bool:
        """False."""
        return False

    @property
    def is_secure(self) -> bool:
        """True for ``nats+tls://``, and so for files of certificates."""
        return self.scheme == "nats+tls"

    @classmethod
    def parse(cls, url: str) -> NatsAddress:
        """Return the address that `url` gives.

        Raises:
            ValueError: `url` gives none; the text says what is right, and has no password in it.
        """
        scheme, _, rest = url.partition("://")
        place, _, path = rest.partition("/")
        where = place.rpartition("@")[2]
        try:
            parts = urlsplit(f"nats://{where}")
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ValueError(f"give {NATS_FORM} ({error})") from None
        if not host or port == 0:
            raise ValueError(f"{scheme}://{where}/{path} names no host and port; give {NATS_FORM}")
        if path in ("", DEVICE):
            raise ValueError(f"{scheme}://{where} needs a subject or a device behind it; give {NATS_FORM}")
        return cls(scheme, f"{NATS_SCHEMES[scheme]}://{place}", where, path)


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsPlace:
    """Everything that is said of a broker on the command line.

    Attributes:
        servers: URLs of one server or of those of a cluster.
        credentials: A file with a JWT and a seed.
        inbox: What subjects for answers begin with.
        tls: For ``tls://``.
    """

    servers: Sequence[str]
    credentials: str | None = None
    inbox: str | None = None
    tls: ssl.SSLContext | None = None

    @asynccontextmanager
    async def open(self, name: str, **options: Any) -> AsyncIterator[Nats]:
        """Connect, as a client of that name; `options` are those of `open_nats`.

        Raises:
            Problem: No server takes this client, or an argument will not do; raised on entering.
        """
        from psession.brokers.nats import NatsAuthError, NatsConnectError, open_nats

        if self.credentials is not None:
            options["credentials"] = self.credentials
        if self.inbox is not None:
            options["inbox_prefix"] = self.inbox
        if self.tls is not None:
            options["ssl_context"] = self.tls
        async with AsyncExitStack() as stack:
            # Only errors on entering are translated: the body's own errors are not about connecting.
            try:
                nats = await stack.enter_async_context(open_nats(self.servers, name=name, **options))
            except NatsAuthError as error:
                raise Problem(f"{error.why}; --creds FILE, or nats://USER:PASSWORD@HOST", Exit.CONNECTION) from error
            except NatsConnectError as error:
                raise Problem(error.why, Exit.CONNECTION) from error
            except ImportError as error:
                raise Problem(str(error), Exit.FAILED) from error
            except (OSError, ValueError) as error:
                raise Problem(str(error), Exit.USAGE) from error
            yield nats
