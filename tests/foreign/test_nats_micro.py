"""A `Service` as a micro service of NATS, before who looks for such: `nats micro ls`, `info`, `stats` and `ping`.

The command `nats` itself (natscli, in Go) is in none of the registries that the tests' programs come from: pip, npm and
Debian's. So nats-py does on the wire what its source does: an empty message to ``$SRV.PING``, ``INFO`` or ``STATS``, to
all, by name, and by name and id, with an inbox of its own for the answers, which it gathers until none comes any more.

The command refuses an answer that its schema does not admit, and shows none at all then. So each is held against the
published schemas (io.nats.micro.v1.ping_response, info_response, stats_response, of nats-io/jsm.go), written here as
types; and nats-py reads each into its own.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec
import pytest
import trio

from psession import Service
from psession.brokers.nats import NatsService, open_nats

from .nats_servers import servers
from .test_nats import LONGEST, nats_py

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

pytestmark = pytest.mark.foreign

SEMVER = (
    r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(?:-((?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?"
    r"(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?$"
)
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-zA-Z0-9_-]+$", min_length=1)]
Text = Annotated[str, msgspec.Meta(min_length=1)]
Version = Annotated[str, msgspec.Meta(pattern=SEMVER, min_length=5)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class Ping(msgspec.Struct, kw_only=True):
    """io.nats.micro.v1.ping_response."""

    type: Literal["io.nats.micro.v1.ping_response"]
    name: Name
    id: Text
    version: Version
    metadata: dict[str, str] | None = None


class EndpointInfo(msgspec.Struct, kw_only=True):
    """An endpoint of an info_response; the group is what ADR-32 adds."""

    name: Name
    subject: Text
    queue_group: Text
    metadata: dict[str, str] | None = None


class Info(msgspec.Struct, kw_only=True):
    """io.nats.micro.v1.info_response."""

    type: Literal["io.nats.micro.v1.info_response"]
    name: Name
    id: Text
    version: Version
    description: str
    metadata: dict[str, str] | None = None
    endpoints: list[EndpointInfo]


class EndpointStats(msgspec.Struct, kw_only=True):
    """An endpoint of a stats_response."""

    name: Name
    subject: Text
    queue_group: Text
    num_requests: int
    num_errors: int
    last_error: str
    processing_time: int
    average_processing_time: int


class Stats(msgspec.Struct, kw_only=True):
    """io.nats.micro.v1.stats_response."""

    type: Literal["io.nats.micro.v1.stats_response"]
    name: Name
    id: Text
    version: Version
    metadata: dict[str, str] | None = None
    started: Moment
    endpoints: list[EndpointStats]


Answer = TypeVar("Answer", Ping, Info, Stats)


def a_lamp() -> Service:
    """What is served: a method that answers, one that fails, one with a name that is no word of Python's."""
    lamp = Service("command")

    @lamp.method
    async def dim(level: int) -> dict[str, int]:
        """Dim the lamp."""
        return {"level": level}

    @lamp.method
    async def fail() -> None:
        raise RuntimeError("no")

    @lamp.method("turn-off")
    async def turn_off() -> bool:
        return True

    return lamp


async def gather(
    ask: Callable[[str], Awaitable[str]], kind: type[Answer], verb: str, of: str = ""
) -> dict[str, Answer]:
    """Ask as the command does; return the answers by the services' ids."""
    said = await ask(f"all $SRV.{verb}{of}")
    answers = msgspec.json.decode(said, type=list[kind])  # type: ignore[valid-type]
    assert len({answer.id for answer in answers}) == len(answers)  # each answers once
    return {answer.id: answer for answer in answers}


@pytest.mark.parametrize("which", ["newest", "oldest"])
async def test_services_are_listed_shown_and_counted_as_the_command_asks_for_it(
    which: str, socket_folder: Path
) -> None:
    began = datetime.now(UTC)
    with trio.fail_after(LONGEST):
        async with (
            servers(socket_folder, which) as (server,),
            open_nats(server.url) as one,
            open_nats(server.url) as two,
            nats_py(server.url) as ask,
            trio.open_nursery() as nursery,
        ):
            assert await ask("all $SRV.PING") == "no responders"
            options: dict[str, Any] = {"description": "A lamp", "metadata": {"room": "Küche"}}
            first: NatsService = await nursery.start(partial(one.micro, a_lamp(), "lamp", "1.2.3-rc.1+7", **options))
            second: NatsService = await nursery.start(partial(two.micro, a_lamp(), "lamp", "1.2.3-rc.1+7", **options))
            oven: NatsService = await nursery.start(partial(two.micro, Service("command"), "oven"))
            await one.flush()
            await two.flush()
            lamps = {first.id, second.id}

            pings = await gather(ask, Ping, "PING")
            assert {(id, ping.name) for id, ping in pings.items()} == {
                (first.id, "lamp"),
                (second.id, "lamp"),
                (oven.id, "oven"),
            }
            assert pings[first.id].metadata == {"room": "Küche"}
            assert (pings[first.id].version, pings[oven.id].version) == ("1.2.3-rc.1+7", "0.0.1")
            for verb, kind in (("PING", Ping), ("INFO", Info), ("STATS", Stats)):
                assert (await gather(ask, kind, verb)).keys() == {*lamps, oven.id}
                assert (await gather(ask, kind, verb, ".lamp")).keys() == lamps
                assert (await gather(ask, kind, verb, f".lamp.{second.id}")).keys() == {second.id}
                for nobody in (".nobody", f".oven.{first.id}"):
                    assert await ask(f"all $SRV.{verb}{nobody}") == "no responders"

            info = (await gather(ask, Info, "INFO", ".lamp"))[first.id]
            assert (info.description, info.metadata) == ("A lamp", {"room": "Küche"})
            assert [(one.name, one.subject, one.queue_group) for one in info.endpoints] == [
                ("dim", "lamp.dim", "q"),
                ("fail", "lamp.fail", "q"),
                ("turn-off", "lamp.turn-off", "q"),
            ]
            shown = info.endpoints[0].metadata
            assert shown is not None
            assert shown["description"] == "Dim the lamp."
            assert msgspec.json.decode(shown["arguments"])["required"] == ["level"]

            for number in range(20):
                assert await ask(f'lamp.dim {{"level":{number}}}') == f'{{"level":{number}}} '
            assert "Nats-Service-Error-Code=500" in await ask("lamp.fail {}")
            assert await ask("lamp.turn-off {}") == "true "
            counted = [*(await gather(ask, Stats, "STATS", ".lamp")).values()]
            assert all(began <= stats.started <= datetime.now(UTC) for stats in counted)
            by_name = {
                name: [one for stats in counted for one in stats.endpoints if one.name == name]
                for name in ("dim", "fail", "turn-off")
            }
            sums = {
                name: (sum(one.num_requests for one in some), sum(one.num_errors for one in some))
                for name, some in by_name.items()
            }
            assert sums == {"dim": (20, 0), "fail": (1, 1), "turn-off": (1, 0)}
            assert {one.last_error for one in by_name["fail"]} == {"", "RuntimeError"}
            for one in by_name["dim"]:
                assert one.num_requests == 0 or one.average_processing_time == one.processing_time // one.num_requests
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("names", "options", "kind", "text"),
    [
        (["a.b"], {}, ValueError, r"name of an endpoint .* not 'a\.b'"),
        (["größer"], {}, ValueError, "name of an endpoint"),
        ([], {"version": "01.0.0"}, ValueError, "semver"),
        ([], {"version": "1.0.0-"}, ValueError, "semver"),
        ([], {"version": "1.0.0-a..b"}, ValueError, "semver"),
        ([], {"version": "1.0.\u0661"}, ValueError, "semver"),
        ([], {"metadata": {"room": 3}}, TypeError, "metadata"),
        ([], {"description": None}, TypeError, "description"),
    ],
)
async def test_what_the_schemas_do_not_admit_is_refused_before_it_is_served(
    names: list[str], options: dict[str, Any], kind: type[Exception], text: str, socket_folder: Path
) -> None:
    """One such answer, and the command would list no service at all."""
    service = Service("command")
    for name in names:
        service.add(turn_on, name)
    async with servers(socket_folder) as (server,), open_nats(server.url) as nats:
        with pytest.raises(kind, match=text):
            await nats.micro(service, "lamp", **options)


def turn_on() -> bool:
    """A method."""
    return True
