"""Who takes part in peers.py: a module each, with the same two functions.

``async serve(ready)``
    Answers each request with itself, on loopback, until cancelled; calls ``ready(port)`` when it listens.
``client(port, in_flight)``
    An async context manager: connected, it yields the `Work` that does so many round trips, so many of them at once.

Those that are "one way" are asked for so many messages, and say them one after another.

Where a session layer is written by hand, it is what one writes in an afternoon: a number in each message, a table of
those who wait, one reader, ten seconds of patience; with the same JSON codec as psession, and without compression, so
that the layers are compared. Only "as first written" has the standard library's `json` and its library's defaults.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harness import FEW, MANY


@dataclass(frozen=True, slots=True)
class Contestant:
    """One of them.

    Attributes:
        label: Its name in tables and pictures.
        module: Where its two functions are.
        package: What it is made of, whose version is worth knowing.
        loop: Whose event loop it runs on, ``"trio"`` or ``"asyncio"``.
        in_flight: How many round trips at once it is measured with.
        options: What its two functions get besides.
        served: Whether there is a server; what is in memory has none.
        one_way: Whether a "round trip" is one message alone, of many that the server says one after another.
    """

    label: str
    module: str
    package: str
    loop: str = "trio"
    in_flight: tuple[int, ...] = (1, MANY)
    options: dict[str, Any] = field(default_factory=dict)
    served: bool = True
    one_way: bool = False

    @property
    def ours(self) -> bool:
        """Whether it is psession."""
        return self.package == "psession"


def _memory(label: str, package: str, way: str) -> Contestant:
    return Contestant(label, "memory", package, in_flight=(1,), options={"way": way}, served=False)


def _one_way(label: str, wire: str, way: str, credit: int | None = None) -> Contestant:
    options = {"wire": wire, "way": way, "credit": credit}
    return Contestant(label, "one_way", "psession", in_flight=(1,), options=options, one_way=True)


CONTESTANTS = {
    "bare": Contestant("bare Trio TCP, a connection each", "bare", "trio", in_flight=(1, *FEW, MANY)),
    "tcp": Contestant("psession, TCP", "psession_tcp", "psession", in_flight=(1, *FEW, MANY)),
    "tcp-exact": Contestant("psession, TCP, exact", "psession_tcp", "psession", options={"exact": True}),
    "aiorpcx": Contestant("aiorpcX, TCP", "aiorpcx", "aiorpcX", "asyncio"),
    "websocket": Contestant("psession, WebSocket", "psession_websocket", "psession"),
    "websocket-exact": Contestant(
        "psession, WebSocket, exact", "psession_websocket", "psession", options={"exact": True}
    ),
    "websockets-asyncio": Contestant("websockets (asyncio) by hand", "websockets_asyncio", "websockets", "asyncio"),
    "websockets-first": Contestant(
        "websockets (asyncio), as first written", "websockets_asyncio", "websockets", "asyncio", options={"first": True}
    ),
    "websockets-trio": Contestant("websockets.trio by hand", "websockets_trio", "websockets"),
    "trio-websocket": Contestant("trio-websocket by hand", "trio_websocket", "trio-websocket"),
    "socketio": Contestant("python-socketio call()", "socketio", "python-socketio", "asyncio"),
    "grpc": Contestant("grpc.aio unary", "grpc_aio", "grpcio", "asyncio"),
    "nats": Contestant("nats-py request(), a broker between", "nats", "nats-py", "asyncio"),
    "memory-bare": _memory("memory: a bare channel, move_on_after", "trio", "bare"),
    "memory-send": _memory("memory: psession session.send", "psession", "send"),
    "memory-request": _memory("memory: psession port.request", "psession", "request"),
    "stream": _one_way("psession stream, WebSocket, credit 32", "websocket", "stream"),
    "stream-256": _one_way("psession stream, WebSocket, credit 256", "websocket", "stream", 256),
    "stream-tcp": _one_way("psession stream, TCP, credit 32", "tcp", "stream"),
    "stream-tcp-256": _one_way("psession stream, TCP, credit 256", "tcp", "stream", 256),
    "posts": _one_way("psession post, WebSocket", "websocket", "posts"),
    "posts-tcp": _one_way("psession post, TCP", "tcp", "posts"),
    "websockets-sends": Contestant(
        "websockets (asyncio) send and recv",
        "websockets_one_way",
        "websockets",
        "asyncio",
        in_flight=(1,),
        one_way=True,
    ),
}
