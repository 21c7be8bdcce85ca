"""Lines that break under a port that lives on: what is asked again, who is recognised, and what is told the truth."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
import trio.testing

from psession import (
    Budget,
    Exact,
    PortClosedError,
    SessionAbortError,
    SessionManager,
    SessionRemoteError,
    SessionTimeoutError,
)
from psession.channels import lines, memory_pair, reconnecting

from .links import HalfOpen, Network, Work, client
from .peers import Caught, settle
from .tables import assert_empty

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock


async def test_a_turn_whose_link_breaks_is_asked_again_and_run_once(autojump_clock: MockClock) -> None:
    work = Work()
    async with trio.open_nursery() as nursery:
        network = Network(nursery, work, resume_within=30)
        async with client(network) as port:
            caught = Caught()
            nursery.start_soon(caught.run, port.request, {"n": 7, "sleep": 3})
            await trio.sleep(1)
            await network.cut()
            await trio.sleep(5)
            assert caught.value["twice"] == 14
            assert (caught.at, work.runs, network.served) == (3.0, [7], ["fresh", "resumed"])
            assert port.statistics().resumed == 1
    assert_empty(network.server, *network.ports)


async def test_an_answer_that_was_lost_with_the_link_comes_over_the_next(autojump_clock: MockClock) -> None:
    work = Work()
    async with trio.open_nursery() as nursery:
        network = Network(nursery, work, resume_within=30)
        async with client(network) as port:
            caught = Caught()
            nursery.start_soon(caught.run, port.request, {"n": 7, "sleep": 1})
            await trio.sleep(0.5)
            network.up = False
            await network.cut()
            await trio.sleep(2)  # the handler has answered by now, into nothing
            network.up = True
            await trio.sleep(10)
            assert (caught.value["twice"], work.runs) == (14, [7])


async def test_a_dialogue_goes_on_over_the_next_link(autojump_clock: MockClock) -> None:
    work = Work()
    async with trio.open_nursery() as nursery:
        network = Network(nursery, work, resume_within=30)
        async with client(network) as port, port.session() as session:
            for number in range(5):
                assert (await session.send({"n": number}))["twice"] == 2 * number
                await network.cut()
            sids = {session.sid}
        assert (work.runs, len(sids), len(network.ports)) == ([0, 1, 2, 3, 4], 1, 1)


async def test_what_is_sent_while_the_link_is_down_waits_for_the_next(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        network = Network(nursery, Work(), resume_within=30)
        async with client(network) as port:
            await port.request({"n": 1})
            network.up = False
            await network.cut()
            await settle()
            with pytest.raises(SessionTimeoutError) as caught:
                await port.request({"n": 2}, timeout=0.5)
            assert caught.value.outcome == "not_sent"
            network.up = True
            assert (await port.request({"n": 3}))["twice"] == 6
        assert network.work.runs == [1, 3]


async def test_a_turn_that_times_out_without_a_link_says_since_when_why_and_for_how_long(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        network = Network(nursery, Work(), resume_within=30)
        async with client(network) as port:
            caught = Caught()
            nursery.start_soon(caught.run, partial(port.request, timeout=2), {"n": 1, "sleep": 20})
            await trio.sleep(0.5)
            network.up = False
            await network.cut()
            await trio.sleep(0.6)
            with pytest.raises(SessionTimeoutError) as unsent:
                await port.request({"n": 2}, timeout=1)
            await trio.sleep(1)
            link = "the port has had no link for {} s (the link broke: this side closed it); by resume_within it waits "
            link += "for the next one for {} s more"
            unsent_link, sent_link = link.format(1.6, 28.4), link.format(1.5, 28.5)
            assert str(unsent.value) == f"port 'server', session 2: no reply: not sent, {unsent_link} (1 attempt, 1 s)"
            assert (
                str(caught.error) == f"port 'server', session 1: no reply: sent once, but {sent_link} (1 attempt, 2 s)"
            )
            network.up = True
            await trio.sleep(10)
            with pytest.raises(SessionTimeoutError) as with_link:
                await port.request({"n": 3, "sleep": 20}, timeout=1)
            assert "link" not in str(with_link.value)


async def test_a_peer_that_lost_its_memory_is_noticed_and_the_outcome_is_sent(autojump_clock: MockClock) -> None:
    work = Work()
    async with trio.open_nursery() as nursery:
        network = Network(nursery, work, resume_within=30)
        async with client(network) as port:
            caught = Caught()
            nursery.start_soon(caught.run, port.request, {"n": 1, "sleep": 20})
            await trio.sleep(1)
            await network.restart()
            await trio.sleep(5)
            assert isinstance(caught.error, SessionAbortError)
            assert caught.error.outcome == "sent"
            assert (await port.request({"n": 2}))["twice"] == 4
            assert (work.runs, port.statistics().forgotten) == ([1, 2], 1)


async def test_a_dialogue_whose_peer_lost_its_memory_is_refused_and_then_begins_anew(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        network = Network(nursery, Work(), resume_within=30)
        async with client(network) as port, port.session() as session:
            await session.send({"n": 1})
            await network.restart()
            await trio.sleep(5)
            await port.request({"n": 2})  # a peer that marks what opens a session
            with pytest.raises(SessionRemoteError) as caught:
                await session.send({"n": 3})
            assert (caught.value.code, caught.value.outcome) == ("refused.no_session", "refused")
            assert (await session.send({"n": 4}))["twice"] == 8
        assert network.work.runs == [1, 2, 4]


async def test_a_link_that_stays_away_ends_the_port_in_time(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        network = Network(nursery, Work(), resume_within=30)
        async with client(network, resume_within=10) as port:
            caught = Caught()
            nursery.start_soon(caught.run, port.request, {"n": 1, "sleep": 100})
            await trio.sleep(1)
            network.up = False
            await network.cut()
            await port.wait_closed()
            await settle()
            assert (trio.current_time(), caught.at) == (11.0, 11.0)
            assert isinstance(caught.error, PortClosedError)
            assert caught.error.outcome == "sent"
            assert "within 10 s" in str(caught.error)


async def test_without_resume_within_a_break_ends_the_port_and_the_next_port_has_the_next_link(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        network = Network(nursery, Work())
        manager = SessionManager(dialect=Exact())
        async with reconnecting(network.connect, first_delay=1, jitter=0) as channel:
            for number in range(3):
                async with manager.port("server", channel) as port:
                    assert (await port.request({"n": number}))["twice"] == 2 * number
                    await network.cut()
                    await port.wait_closed()
        assert trio.current_time() > 2


async def hello_of(network: Network) -> dict[str, Any]:
    """What the client that is connected would say on its next line."""
    lines: Any = network.server._links["client 0"]
    return {
        "_new": True,
        "_life": lines._handshake.guest_life,
        "_port": network.ports[0].name,
        "_resume": lines._handshake.secret,
    }


@pytest.mark.parametrize("wrong", [{"_resume": "x"}, {"_resume": ""}, {"_port": "client 9"}, {"_life": 5}])
async def test_who_has_not_name_secret_and_life_gets_nothing_and_learns_nothing(
    wrong: dict[str, Any], autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        network = Network(nursery, Work(), resume_within=30)
        async with client(network) as port:
            await port.request({"n": 1})
            answers = []
            for forged in ({**await hello_of(network), **wrong}, {"_new": True, "_life": 5}):
                here, there = memory_pair()
                nursery.start_soon(network.serve, there)
                await here.send(forged)
                welcome = await here.receive()
                answers.append(sorted(welcome))
                assert welcome["_port"] != network.ports[0].name
                assert welcome["_life"] != network.ports[0]._engine.connection._shared.life
                await here.aclose()
            assert answers[0] == answers[1]  # as one who brings nothing
            assert (await port.request({"n": 2}))["twice"] == 4
            nursery.cancel_scope.cancel()


async def test_the_right_peer_gets_its_port_also_where_the_old_link_looks_well(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        network = Network(nursery, Work(), resume_within=30)
        async with client(network) as port:
            await port.request({"n": 1})
            here, there = memory_pair()
            nursery.start_soon(network.serve, there)
            await here.send(await hello_of(network))
            assert (await here.receive())["_life"] == network.ports[0]._engine.connection._shared.life
            await here.aclose()
            await settle()
            assert network.served.count("resumed") == 1
        nursery.cancel_scope.cancel()


async def test_a_peer_that_leaves_for_good_ends_the_port_at_once(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        network = Network(nursery, Work(), resume_within=30)
        async with client(network) as port:
            await port.request({"n": 1})
        await settle()
        assert trio.current_time() == 0.0
        assert network.ports[0].closed


async def test_resume_within_on_the_classic_wire_is_refused_on_the_side_that_connects() -> None:
    async def connect() -> trio.abc.Channel[Any]:
        return memory_pair()[0]

    async with reconnecting(connect) as channel:
        with pytest.raises(ValueError, match=r"resume_within needs dialect=Exact"):
            async with SessionManager(resume_within=5).port("p", channel):
                pass


async def test_a_peer_that_says_nothing_first_is_a_new_one(autojump_clock: MockClock) -> None:
    plain: list[Any] = []
    manager = SessionManager(resume_within=30, on_message=plain.append)
    for first in ([], [{"first": 1}]):
        here, there = memory_pair()
        for message in first:
            await here.send(message)
        async with manager.accept(there, hello_timeout=2) as port:
            assert trio.current_time() == 2.0
            await settle()
            assert (port.name, plain) == (f"peer {len(first) + 1}", first)


@pytest.mark.parametrize("said", [[], [{"n": 1, "sid": 1}]], ids=["nothing", "something classic"])
@pytest.mark.parametrize("breaks", [False, True])
async def test_a_peer_that_never_said_who_it_is_cannot_come_back_and_is_not_waited_for(
    said: list[Any], breaks: bool, autojump_clock: MockClock
) -> None:
    class Breaking(HalfOpen):
        async def receive(self) -> Any:
            try:
                return await super().receive()
            except trio.EndOfChannel as error:
                raise trio.BrokenResourceError from error

    async with trio.open_nursery() as nursery:
        network = Network(nursery, Work(), resume_within=30)
        here, there = memory_pair()
        nursery.start_soon(network.serve, Breaking(there) if breaks else there)
        for message in said:
            await here.send(message)
        await settle()
        await here.aclose()
    assert trio.current_time() == 0.0
    assert [port.closed for port in network.ports] == [True]
    assert_empty(network.server, *network.ports)


@pytest.mark.parametrize("seed", range(6))
async def test_a_terrible_network_that_also_breaks_runs_nothing_twice(seed: int, autojump_clock: MockClock) -> None:
    work = Work()
    outcomes: dict[int, Any] = {}
    async with trio.open_nursery() as nursery:
        network = Network(nursery, work, resume_within=60)
        network.odds = {
            "seed": seed, "drop": 0.2, "duplicate": 0.2, "reorder": 0.2, "delay": (0, 2), "disconnect": 0.01,
        }  # fmt: skip
        numbers = iter(range(200))
        async with client(network, resume_within=60, session_timeout=1, retry_count=60) as port:

            async def ask() -> None:
                for number in numbers:
                    try:
                        outcomes[number] = (await port.request({"n": number}))["twice"]
                    except (SessionAbortError, SessionTimeoutError, SessionRemoteError) as error:
                        outcomes[number] = error.outcome

            async with trio.open_nursery() as askers:
                for _ in range(8):
                    askers.start_soon(ask)
        nursery.cancel_scope.cancel()
    assert len(outcomes) == 200
    assert len(work.runs) == len(set(work.runs))
    for number, outcome in outcomes.items():
        assert outcome in (2 * number, "sent", "refused", "not_sent")
        assert number in work.runs or outcome != 2 * number
        assert number not in work.runs or outcome in (2 * number, "sent")
    assert sum(type(outcome) is int for outcome in outcomes.values()) > 150
    assert_empty(network.server, *network.ports)


async def test_a_silent_link_is_found_broken_and_a_port_that_resumes_gets_another(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        network = Network(nursery, Work(), resume_within=30)
        async with client(network, keepalive_interval=10, keepalive_patience=3, session_timeout=100) as port:
            await port.request({"n": 1})
            await trio.sleep(35)
            assert port.statistics().resumed == 0  # it answers each sign of life that it is asked for
            network.lines[-1].vanished = True
            caught = Caught()
            nursery.start_soon(caught.run, port.request, {"n": 2})
            await trio.sleep(30)
            assert (caught.value["twice"], port.statistics().resumed) == (4, 1)
        nursery.cancel_scope.cancel()


async def test_a_silent_link_ends_a_port_that_does_not_resume(autojump_clock: MockClock) -> None:
    here, there = memory_pair()
    manager = SessionManager(dialect=Exact(), keepalive_interval=10, keepalive_patience=3)
    async with manager.port("p", here) as port, trio.open_nursery() as nursery:
        caught = Caught()
        nursery.start_soon(caught.run, partial(port.request, {}, timeout=1))
        asked = await there.receive()
        await there.send({"sid": 1, "_re": asked["_turn"], "_life": asked["_life"]})
        await port.wait_closed()
        assert trio.current_time() == 23.0  # heard in the first 10 s, asked at 20
        with pytest.raises(PortClosedError, match="no sign of life"):
            await port.request({})


async def test_a_peer_that_answers_is_alive(autojump_clock: MockClock) -> None:
    here, there = memory_pair()
    manager = SessionManager(dialect=Exact(), keepalive_interval=10, keepalive_patience=3)
    async with SessionManager(on_session=Work().handle).port("q", there), manager.port("p", here) as port:
        await port.request({"n": 1})
        await trio.sleep(100)
        assert not port.closed


@asynccontextmanager
async def broken_in_the_middle_of_a_message(
    first: Any, second: Any, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Caught]:
    """A port asks one thing, of which `first` takes a part and is lost; then `second` is its line."""
    manager = SessionManager(dialect=Exact(), resume_within=30)
    async with manager.port("client", first) as port, trio.open_nursery() as nursery:
        over: Any = manager._links["client"]
        over._handshake.guest_life = 5

        def half(frame: Any) -> bytes:
            over.lose(trio.BrokenResourceError("in the middle of a message"))
            return b"the other half"

        monkeypatch.setattr(first, "send_frame_now", half)
        caught = Caught()
        nursery.start_soon(caught.run, port.request, {"n": 1})
        await settle()
        await first.aclose()
        nursery.start_soon(over.adopt, second, [])
        yield caught
        port.close()


@pytest.mark.parametrize("kind", ["memory", "sockets"])
async def test_the_rest_of_a_message_that_the_link_broke_in_does_not_begin_the_next_link(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    async with AsyncExitStack() as stack:
        ends: list[Any] = [end for _ in range(2) for end in memory_pair()]
        if kind == "sockets":
            ends = [lines(trio.SocketStream(end)) for _ in range(2) for end in trio.socket.socketpair()]
        for end in ends:
            await stack.enter_async_context(end)
        _, first, there, second = ends
        async with broken_in_the_middle_of_a_message(first, second, monkeypatch) as caught:
            assert "_port" in await there.receive()
            question = await there.receive()
            assert question["n"] == 1
            await there.send({"sid": question["sid"], "_re": question["_turn"], "_life": question["_life"]})
            await trio.sleep(1)
            assert (caught.error, caught.at) == (None, 0)


# -- waiting for a peer ------------------------------------------------------------------------------------------------


class From(HalfOpen):
    """A line from somewhere."""

    def __init__(self, channel: trio.abc.Channel[Any], host: str | None) -> None:
        super().__init__(channel)
        self.remote = None if host is None else (host, 5)


async def come_and_go(network: Network, host: str | None, life: int = 5) -> dict[str, Any]:
    """Say hello from that host, take the welcome, and hang up. Return the hello of a client that comes back."""
    here, there = memory_pair()
    network.nursery.start_soon(network.serve, From(there, host))
    await here.send({"_new": True, "_life": life})
    welcome: dict[str, Any] = await here.receive()
    await here.aclose()
    await settle()
    return {"_new": True, "_life": life, "_port": welcome["_port"], "_resume": welcome["_resume"]}


async def test_of_the_ports_that_wait_for_peers_of_one_address_the_oldest_is_given_up(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    budget = Budget(absent_ports=5, absent_ports_per_address=3)
    async with trio.open_nursery() as nursery:
        network = Network(nursery, Work(), resume_within=30, budget=budget)
        await come_and_go(network, "192.0.2.9")
        for _ in range(5):
            await come_and_go(network, "192.0.2.1")
        assert [port.closed for port in network.ports] == [False, True, True, False, False, False]
        assert (budget.absent, budget.given_up) == (4, 2)
        with pytest.raises(PortClosedError, match=r"a peer at 192\.0\.2\.1.*absent_ports_per_address=3") as caught:
            await network.ports[1].request({})
        assert isinstance(caught.value.__cause__, trio.BrokenResourceError)
        for _ in range(2):
            await come_and_go(network, None)
        assert (budget.absent, budget.given_up, network.ports[0].closed) == (5, 3, True)
        assert trio.current_time() == 0.0
        for _ in range(20):
            await come_and_go(network, "192.0.2.1")
        assert (budget.absent, budget.given_up) == (5, 23)
    assert trio.current_time() == 30.0
    assert_empty(network.server, *network.ports)
    lines = [record.getMessage() for record in caplog.records if "was given up" in record.getMessage()]
    assert len(lines) == 3
    assert lines[0].startswith(
        "manager: port 'client 1' was given up: of all ports that waited for a peer at 192.0.2.1"
    )


async def test_a_peer_that_comes_back_waits_no_more_and_its_port_is_not_given_up(autojump_clock: MockClock) -> None:
    budget = Budget(absent_ports=2)
    async with trio.open_nursery() as nursery:
        network = Network(nursery, Work(), resume_within=30, budget=budget)
        first = await come_and_go(network, "192.0.2.1")
        assert budget.absent == 1
        back, there = memory_pair()
        nursery.start_soon(network.serve, From(there, "192.0.2.1"))
        await back.send(first)
        assert (await back.receive())["_port"] == first["_port"]
        await settle()
        assert (network.served, budget.absent) == (["fresh", "resumed"], 0)
        for _ in range(4):
            await come_and_go(network, "192.0.2.1")
        assert (network.ports[0].closed, budget.absent, budget.given_up) == (False, 2, 2)
        again, there = memory_pair()  # its old link still looks well: that it is replaced makes nobody wait
        nursery.start_soon(network.serve, From(there, "192.0.2.1"))
        await again.send(first)
        await again.receive()
        await settle()
        assert (network.ports[0].closed, budget.absent, budget.given_up) == (False, 2, 2)
        await again.send({"_end": True, "_life": 5})
        await again.aclose()
    assert_empty(network.server, *network.ports)


async def test_a_link_that_is_adopted_while_the_port_closes_is_given_up(autojump_clock: MockClock) -> None:
    near, far = trio.testing.memory_stream_pair()
    slow, its_peer = trio.testing.lockstep_stream_pair()
    server = SessionManager(dialect=Exact(), grace=1)
    async with server.port("p", lines(near), resume_within=5) as port:
        await far.send_all(b'{"_new":true,"_life":5}\n')
        await settle()
        links = server._links["p"]
        async with trio.open_nursery() as nursery:

            async def close_and_read() -> None:
                await trio.sleep(1)
                port.close()
                await trio.sleep(1)
                assert await its_peer.receive_some(1000)

            nursery.start_soon(close_and_read)
            with pytest.raises(trio.ClosedResourceError):
                await links.adopt(lines(slow), [])
        assert (links.stands, server.budget.absent) == (False, 0)
    assert_empty(server, port)


async def test_managers_that_share_a_budget_share_the_places_of_ports_that_wait(autojump_clock: MockClock) -> None:
    budget = Budget(absent_ports=2)
    async with trio.open_nursery() as nursery:
        networks = [Network(nursery, Work(), resume_within=30, budget=budget) for _ in range(2)]
        for network in networks * 2:
            await come_and_go(network, None)
        assert (budget.absent, budget.given_up) == (2, 2)
        assert [port.closed for network in networks for port in network.ports] == [True, False] * 2
        assert networks[0].server.budget is budget
        for network in networks:
            for port in network.ports:
                port.close()
    for network in networks:
        assert_empty(network.server, *network.ports)


async def test_a_port_that_connects_waits_without_a_place(autojump_clock: MockClock) -> None:
    budget = Budget(absent_ports=1)
    async with trio.open_nursery() as nursery:
        network = Network(nursery, Work())
        async with client(network, budget=budget) as one, client(network, budget=budget) as other:
            for port in (one, other):
                await port.request({"n": 1})
            network.up = False
            for line in network.lines:
                await line.aclose()
            await trio.sleep(10)
            assert (budget.absent, one.closed, other.closed) == (0, False, False)
        nursery.cancel_scope.cancel()


# -- a server that floods ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["messages", "bytes", "malformed"])
async def test_a_server_that_floods_before_its_welcome_is_left_and_tried_again_later(
    kind: str, autojump_clock: MockClock
) -> None:
    came: list[float] = []
    errors: list[str] = []
    said = 0

    async def serve(stream: trio.abc.Stream) -> None:
        nonlocal said
        channel = lines(stream)
        hello = await channel.receive()
        assert hello["_new"] is True
        came.append(trio.current_time())
        if len(came) in (1, 5):
            await channel.send({"_port": "p", "_life": 7, "_resume": "secret"})
            if len(came) == 1:
                await trio.sleep(1)
                await channel.aclose()
            return
        flood = {"messages": b'{"n":1}\n' * 100, "bytes": b'"%s"\n' % (b"x" * 60_000), "malformed": b"}\n" * 100}
        try:
            while True:
                await stream.send_all(flood[kind])
                said += len(flood[kind])
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async with trio.open_nursery() as nursery:

        async def connect() -> trio.abc.Channel[Any]:
            near, far = trio.testing.lockstep_stream_pair()
            nursery.start_soon(serve, far)
            return lines(near)

        def told(state: Any) -> None:
            if state.state == "broken":
                errors.append(str(state.error))

        manager = SessionManager(dialect=Exact(), resume_within=30)
        async with (
            reconnecting(connect, first_delay=1, jitter=0, max_delay=4, on_state=told) as channel,
            manager.port("server", channel) as port,
        ):
            await trio.sleep(15)
            assert came == [0, 2, 4, 8, 12]
            assert said <= 3 * 1.2 * 2**20
            assert sum("no welcome, so this link is given up" in error for error in errors) == 3
            assert (port.closed, port.statistics().resumed) == (False, 1)
        nursery.cancel_scope.cancel()


class Speechless:
    """A codec of the user's that knows its own messages alone."""

    text = True

    def encode(self, message: Any) -> bytes:
        """Encode what has a number."""
        return b'{"n":%d,"sid":%d,"_turn":%d,"_new":true,"_end":true,"_wait":5,"_life":%d}' % (
            message["n"], message["sid"], message["_turn"], message["_life"],
        )  # fmt: skip

    def decode(self, data: Any) -> Any:
        """Decode anything."""
        return msgspec.json.decode(data)


async def test_a_codec_without_a_form_for_a_hello_costs_the_links_that_follow_and_no_more(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    far_ends: list[trio.abc.Stream] = []

    async def connect() -> trio.abc.Channel[Any]:
        near, far = trio.testing.memory_stream_pair()
        far_ends.append(far)
        return lines(near, codec=Speechless())

    manager = SessionManager(dialect=Exact(), resume_within=30, session_timeout=5)
    async with (
        reconnecting(connect, first_delay=1, jitter=0) as channel,
        manager.port("server", channel) as port,
        trio.open_nursery() as nursery,
    ):
        got: list[Any] = []

        async def ask() -> None:
            got.append(await port.request({"n": 1}))

        nursery.start_soon(ask)
        await settle()
        question = msgspec.json.decode(await far_ends[0].receive_some())
        await far_ends[0].send_all(
            msgspec.json.encode({"n": 2, "sid": 1, "_re": question["_turn"], "_life": question["_life"]}) + b"\n"
        )
        await settle()
        assert got == [{"n": 2}]
        assert caplog.text.count("its codec has no form for a hello") == 1
        await far_ends[0].aclose()
        await trio.sleep(10)
        with pytest.raises(PortClosedError, match="cannot encode"):
            await port.request({"n": 1})
