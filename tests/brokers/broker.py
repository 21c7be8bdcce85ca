"""A NATS server in memory, after its protocol's documentation: for tests on virtual time, with faults at a word."""

from __future__ import annotations

import json
import random
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import trio
import trio.testing

from psession.nursery import open_quiet_nursery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject is one of those that a pattern stands for."""
    if pattern == subject or not ("*" in pattern or ">" in pattern):
        return pattern == subject
    wanted, tokens = pattern.split("."), subject.split(".")
    for place, token in enumerate(wanted):
        if token == ">":
            return len(tokens) > place
        if place >= len(tokens) or token not in ("*", tokens[place]):
            return False
    return len(tokens) == len(wanted)


class Client:
    """One connection, as the server sees it."""

    def __init__(self, stream: trio.abc.Stream, broker: Broker, host: str) -> None:
        self.stream = stream
        self.broker = broker
        self.host = host
        self.connect: dict[str, Any] = {}
        self.subscriptions: dict[str, list[Any]] = {}
        self.heard: list[bytes] = []
        self.muted = False
        self._out_lock = trio.Lock()

    async def say(self, data: bytes) -> None:
        """Send bytes to the client."""
        async with self._out_lock:
            await self.stream.send_all(data)

    async def run(self) -> None:
        """Serve it until it goes."""
        info = {**self.broker.info, **self.broker.infos.get(self.host, {})}
        await self.say(b"INFO " + json.dumps(info).encode() + b"\r\n")
        buffer = b""
        while True:
            try:
                data = await self.stream.receive_some(65536)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            if not data:
                return
            buffer += data
            while b"\r\n" in buffer:
                line, _, rest = buffer.partition(b"\r\n")
                words = line.decode().split(" ")
                if words[0] in ("PUB", "HPUB"):
                    size = int(words[-1])
                    if size > info["max_payload"]:
                        await self.say(b"-ERR 'Maximum Payload Violation'\r\n")
                        return
                    if len(rest) < size + 2:
                        break
                    payload, buffer = rest[:size], rest[size + 2 :]
                    await self.published(words, payload)
                else:
                    buffer = rest
                    await self.said(line, words)

    async def said(self, line: bytes, words: list[str]) -> None:
        """A word without a payload."""
        self.heard.append(line)
        if self.muted:
            return
        if words[0] == "CONNECT":
            self.connect = json.loads(line[8:])
            refusal = self.broker.refuse(self.connect)
            if refusal:
                await self.say(f"-ERR '{refusal}'\r\n".encode())
                await self.stream.aclose()
        elif words[0] == "PING":
            await self.say(b"PONG\r\n")
        elif words[0] == "SUB":
            queue = words[2] if len(words) == 4 else ""
            if words[1] in self.broker.forbidden:
                await self.say(f"-ERR 'Permissions Violation for Subscription to \"{words[1]}\"'\r\n".encode())
            else:
                self.subscriptions[words[-1]] = [words[1], queue, None]
        elif words[0] == "UNSUB":
            if len(words) == 3 and words[1] in self.subscriptions:
                self.subscriptions[words[1]][2] = int(words[2])
            else:
                self.subscriptions.pop(words[1], None)

    async def published(self, words: list[str], payload: bytes) -> None:
        """A message."""
        headed = int(words[-2]) if words[0] == "HPUB" else 0
        subject = words[1]
        reply = words[2] if len(words) == (5 if headed else 4) else ""
        if subject in self.broker.forbidden:
            await self.say(f"-ERR 'Permissions Violation for Publish to \"{subject}\"'\r\n".encode())
            return
        self.broker.published.append((subject, reply, payload))
        if not await self.broker.route(subject, reply, headed, payload) and reply:
            block = b"NATS/1.0 503\r\n\r\n"
            await self.broker.route(reply, "", len(block), block)

    async def deliver(self, sid: str, subject: str, reply: str, headed: int, payload: bytes) -> None:
        """A message for one of its subscriptions."""
        kept = self.subscriptions[sid]
        if kept[2] is not None:
            kept[2] -= 1
            if not kept[2]:
                del self.subscriptions[sid]
        back = f"{reply} " if reply else ""
        if headed:
            line = f"HMSG {subject} {sid} {back}{headed} {len(payload)}"
        else:
            line = f"MSG {subject} {sid} {back}{len(payload)}"
        try:
            await self.say(line.encode() + b"\r\n" + payload + b"\r\n")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.subscriptions.clear()


class Broker:
    """A server, or several that share all messages: each host is one. `open_stream` is for `open_nats`."""

    def __init__(self, **info: Any) -> None:
        self.info = {"server_id": "here", "version": "2.10.0", "headers": True, "max_payload": 1048576, **info}
        self.infos: dict[str, dict[str, Any]] = {}
        self.clients: list[Client] = []
        self.tried: list[str] = []
        self.down: set[str] = set()
        self.forbidden: set[str] = set()
        self.published: list[tuple[str, str, bytes]] = []
        self.refusal = ""
        self.pair: Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]] = trio.testing.memory_stream_pair
        self._rng = random.Random(7)
        self._nursery: trio.Nursery | None = None

    def refuse(self, connect: dict[str, Any]) -> str:
        """Why a client is not taken."""
        return self.refusal

    async def open_stream(self, host: str, port: int) -> trio.abc.Stream:
        """Connect."""
        await trio.lowlevel.checkpoint()
        self.tried.append(host)
        if host in self.down:
            raise ConnectionRefusedError(111, "Connection refused")
        near, far = self.pair()
        client = Client(far, self, host)
        self.clients.append(client)
        assert self._nursery is not None
        self._nursery.start_soon(self._serve, client)
        return near

    async def _serve(self, client: Client) -> None:
        try:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await client.run()
        finally:
            self.clients.remove(client)
            await trio.aclose_forcefully(client.stream)

    async def route(self, subject: str, reply: str, headed: int, payload: bytes) -> bool:
        """Deliver a message; whether somebody had subscribed."""
        queues: dict[tuple[str, str], list[tuple[Client, str]]] = {}
        found = []
        for client in self.clients:
            for sid, (pattern, queue, _) in client.subscriptions.items():
                if matches(pattern, subject):
                    if queue:
                        queues.setdefault((pattern, queue), []).append((client, sid))
                    else:
                        found.append((client, sid))
        found += [self._rng.choice(members) for members in queues.values()]
        for client, sid in found:
            await client.deliver(sid, subject, reply, headed, payload)
        return bool(found)

    async def kill(self, host: str | None = None) -> None:
        """Break all connections, or those to one host."""
        for client in list(self.clients):
            if host in (None, client.host):
                await trio.aclose_forcefully(client.stream)
        await trio.testing.wait_all_tasks_blocked()

    async def say_all(self, data: bytes) -> None:
        """Send bytes to all clients."""
        for client in list(self.clients):
            await client.say(data)


def socket_pair() -> tuple[trio.abc.Stream, trio.abc.Stream]:
    """Two ends of real sockets, as a client's `Broker.pair`."""
    near, far = trio.socket.socketpair()
    return trio.SocketStream(near), trio.SocketStream(far)


@asynccontextmanager
async def a_broker(**info: Any) -> AsyncIterator[Broker]:
    """A server for as long as the block lasts."""
    broker = Broker(**info)
    async with open_quiet_nursery() as broker._nursery:
        yield broker
        broker._nursery.cancel_scope.cancel()
