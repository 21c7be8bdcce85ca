"""Who takes part in peers.py and loads.py: a module each, with the same two functions.

``async serve(ready)``
    Answers each request with itself, on loopback, until cancelled; calls ``ready(port)`` when it listens.
``client(port, in_flight)``
    An async context manager: connected, it yields so many `Ask`, to be used at the same time, each for one request
    after another.

Where a session layer is written by hand, it is what one writes in an afternoon: a fresh number in each message, a table
of those who wait, one reader, ten seconds of patience; with the same JSON codec as psession, and without compression,
so that the layers are compared. Only "as first written" has the standard library's `json` and its library's defaults.

Like is to be held against like: a fresh number for each question is `port.request`. `session.send` keeps the number of
its session, which none of the others has.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harness import FEW, MANY


@dataclass(frozen=True, slots=True)
class Contestant:
    """One of them.

    Attributes:
        label: Its name in tables and pictures, beside that of its wire.
        wire: What it goes over, ``"WebSocket"`` or ``"TCP"``; ``"memory"`` has no server.
        module: Where its two functions are.
        package: What it is made of, whose version is worth knowing.
        loop: Whose event loop it runs on, ``"trio"``, ``"asyncio"`` or ``"uvloop"``.
        in_flight: How many round trips at once it is measured with in peers.py; none: it is there for loads.py alone.
        options: What its two functions get besides.
        one_way: Whether it has messages that the server says one after another, and no round trips: its `client` yields
            a `Work` that takes so many.
    """

    label: str
    wire: str
    module: str
    package: str
    loop: str = "trio"
    in_flight: tuple[int, ...] = (1, MANY)
    options: dict[str, Any] = field(default_factory=dict)
    one_way: bool = False

    @property
    def ours(self) -> bool:
        """Whether it is psession."""
        return self.package == "psession"

    @property
    def served(self) -> bool:
        """Whether there is a server."""
        return self.wire != "memory"

    @property
    def title(self) -> str:
        """Its name where the wire is not said beside it."""
        return f"{self.label}, {self.wire}" if self.served else f"memory: {self.label}"


def _ours(label: str, wire: str, *in_flight: int, **options: Any) -> Contestant:
    """psession; its numbers in flight are by default 1 and many, and none where 0 is said."""
    module = {"TCP": "psession_tcp", "WebSocket": "psession_websocket"}[wire]
    counts = tuple(count for count in in_flight or (1, MANY) if count)
    return Contestant(label, wire, module, "psession", in_flight=counts, options=options)


def _by_hand(label: str, module: str, package: str, loop: str = "trio", **options: Any) -> Contestant:
    return Contestant(label, "WebSocket", module, package, loop, options=options)


def _memory(label: str, package: str, way: str) -> Contestant:
    return Contestant(label, "memory", "memory", package, in_flight=(1,), options={"way": way})


def _one_way(label: str, wire: str, way: str, credit: int | None = None) -> Contestant:
    options = {"wire": wire, "way": way, "credit": credit}
    return Contestant(label, wire, "one_way", "psession", in_flight=(1,), options=options, one_way=True)


CONTESTANTS = {
    "websocket": _ours("psession send", "WebSocket"),
    "websocket-served": _ours("psession send, plain on_request", "WebSocket", 0, way="served"),
    "websocket-plain": _ours("psession request, plain on_request", "WebSocket", way="plain"),
    "websocket-async": _ours("psession request, async on_request", "WebSocket", way="async"),
    "websocket-exact": _ours("psession send, exact", "WebSocket", exact=True),
    "websocket-exact-plain": _ours("psession request, plain, exact", "WebSocket", exact=True, way="plain"),
    "websocket-asleep": _ours("psession send, busy_wait=False", "WebSocket", 1, awake=False),
    "websocket-keep": _ours("psession, sessions that stay", "WebSocket", 0, way="keep"),
    "websockets-asyncio": _by_hand("websockets by hand, asyncio", "websockets_asyncio", "websockets", "asyncio"),
    "websockets-uvloop": _by_hand("websockets by hand, uvloop", "websockets_asyncio", "websockets", "uvloop"),
    "websockets-first": _by_hand(
        "websockets as first written, asyncio", "websockets_asyncio", "websockets", "asyncio", first=True
    ),
    "aiohttp": _by_hand("aiohttp by hand, uvloop", "aiohttp_uvloop", "aiohttp", "uvloop"),
    "picows": _by_hand("picows by hand, uvloop", "picows_uvloop", "picows", "uvloop"),
    "websockets-trio": _by_hand("websockets.trio by hand", "websockets_trio", "websockets"),
    "trio-websocket": _by_hand("trio-websocket by hand", "trio_websocket", "trio-websocket"),
    "socketio": Contestant("python-socketio call()", "WebSocket", "socketio", "python-socketio", "asyncio"),
    "tcp": _ours("psession send", "TCP", 1, *FEW, MANY),
    "tcp-plain": _ours("psession request, plain on_request", "TCP", way="plain"),
    "tcp-async": _ours("psession request, async on_request", "TCP", way="async"),
    "tcp-exact": _ours("psession send, exact", "TCP", exact=True),
    "bare": Contestant("bare Trio, a connection each", "TCP", "bare", "trio", in_flight=(1, *FEW, MANY)),
    "limit": Contestant(
        "the limit: asyncio.Protocol, uvloop", "TCP", "protocol_uvloop", "uvloop", "uvloop", options={"patient": False}
    ),
    "limit-timeout": Contestant(
        "the same with asyncio.timeout", "TCP", "protocol_uvloop", "uvloop", "uvloop", options={"patient": True}
    ),
    "aiorpcx": Contestant("aiorpcX", "TCP", "aiorpcx", "aiorpcX", "asyncio"),
    "grpc": Contestant("grpc.aio unary", "TCP", "grpc_aio", "grpcio", "asyncio"),
    "nats": Contestant("nats-py request(), a broker between", "TCP", "nats", "nats-py", "asyncio"),
    "memory-bare": _memory("a bare channel, move_on_after", "trio", "bare"),
    "memory-send": _memory("psession send", "psession", "send"),
    "memory-request": _memory("psession request", "psession", "request"),
    "stream": _one_way("psession stream, credit 32", "WebSocket", "stream"),
    "stream-256": _one_way("psession stream, credit 256", "WebSocket", "stream", 256),
    "posts": _one_way("psession post", "WebSocket", "posts"),
    "websockets-sends": Contestant(
        "websockets send and recv, asyncio",
        "WebSocket",
        "websockets_one_way",
        "websockets",
        "asyncio",
        in_flight=(1,),
        one_way=True,
    ),
    "stream-tcp": _one_way("psession stream, credit 32", "TCP", "stream"),
    "stream-tcp-256": _one_way("psession stream, credit 256", "TCP", "stream", 256),
    "posts-tcp": _one_way("psession post", "TCP", "posts"),
}
