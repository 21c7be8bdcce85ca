"""A channel that reopens, one link after the other: when it tries, what it tells, what ends it, what is left."""

from __future__ import annotations

import contextvars
import gc
import logging
import math
import weakref
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from psession.channels import HandshakeError, LinkState, MemoryChannel, memory_pair, reconnecting

from .reconnecting_ends import Log, Net, assert_nothing_left, reopening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

REFUSED = ConnectionRefusedError("nobody there")


@pytest.fixture(params=["context", "function"])
def form(request: pytest.FixtureRequest) -> str:
    """Each form of `connect` in turn."""
    return request.param


# -- opening -----------------------------------------------------------------------------------------------------------


async def test_nothing_is_opened_before_somebody_wants_a_link(form: str, autojump_clock: MockClock) -> None:
    net = Net()
    async with reopening(lambda: net.connect(form)) as channel:
        await trio.sleep(5)
        assert "no link" in repr(channel)
        assert net.tries == []
        assert await channel.open() is net.near[0]
        assert "open" in repr(channel)
    assert "closed" in repr(channel)
    assert net.tries == [5]
    with pytest.raises(trio.EndOfChannel):
        await net.far[0].receive()


async def test_a_context_is_entered_and_left_by_the_same_task_whoever_asked_for_it(autojump_clock: MockClock) -> None:
    net = Net()
    async with reopening(net.link) as channel:
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(channel.open)
    assert (net.entered, net.left) == (3, 3)
    assert net.tasks[0] is net.tasks[1]
    assert net.tasks[2] is net.tasks[3]
    assert len(set(net.tasks)) == 3


async def test_each_try_is_at_its_exact_moment(form: str, autojump_clock: MockClock) -> None:
    net = Net(*[REFUSED] * 6)
    async with reopening(lambda: net.connect(form), max_delay=1) as channel:
        await channel.open()
    assert net.tries == pytest.approx([0, 0.1, 0.3, 0.7, 1.5, 2.5, 3.5])


async def test_a_random_share_is_added_to_each_wait(autojump_clock: MockClock) -> None:
    net = Net(*[REFUSED] * 3)
    luck = iter([0.0, 1.0, 0.5])
    async with reopening(net.dial, first_delay=1, max_delay=2, jitter=0.5, rng=lambda: next(luck)) as channel:
        await channel.open()
    assert net.tries == [0, 1, 1 + 3, 4 + 2.5]


async def test_the_next_link_comes_after_the_first_delay_where_the_last_one_stood_long(
    autojump_clock: MockClock,
) -> None:
    net = Net(REFUSED, REFUSED)
    async with reopening(net.dial, first_delay=1, max_delay=10) as channel:
        await channel.open()
        assert net.tries == [0, 1, 3]
        await trio.sleep(10)
        await channel.open()
        assert net.tries[3:] == [14]


async def test_a_server_that_accepts_and_drops_at_once_is_not_hammered(autojump_clock: MockClock) -> None:
    net = Net()
    async with reopening(net.dial, first_delay=1, max_delay=10) as channel:
        for _ in range(7):
            await channel.open()
        assert net.tries == [0, 1, 3, 7, 15, 25, 35]
        await trio.sleep(9.999)
        await channel.open()
        assert net.tries[-1] == 35 + 9.999 + 10


async def test_the_link_before_is_gone_when_the_next_is_opened(form: str, autojump_clock: MockClock) -> None:
    net = Net()

    def connect() -> Any:
        assert len(net.near) == net.left or form == "function"
        return net.connect(form)

    async with reopening(connect) as channel:
        first = await channel.open()
        second = await channel.open()
        assert first is not second
        with pytest.raises(trio.ClosedResourceError):
            await first.receive()
        with pytest.raises(trio.EndOfChannel):
            await net.far[0].receive()
        await net.far[1].send({"a": 1})
        assert await second.receive() == {"a": 1}


async def test_a_try_takes_connect_timeout_seconds_at_most(form: str, autojump_clock: MockClock) -> None:
    net, log = Net("hang", "hang"), Log()
    async with reopening(lambda: net.connect(form), first_delay=1, connect_timeout=3, on_state=log) as channel:
        await channel.open()
        assert net.tries == [0, 3 + 1, 4 + 3 + 2]
        assert isinstance(log[1].error, TimeoutError)
        assert str(log[1].error) == "no link in 3 s"
        await trio.sleep(100)  # the time for the try is not the time of the link
        await net.far[0].send({})
        assert await net.near[0].receive() == {}


async def test_a_link_that_comes_in_the_moment_its_time_is_up_is_closed(autojump_clock: MockClock) -> None:
    net = Net()
    slow = True

    async def connect() -> Any:
        if slow:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
        return await net.dial()

    async with reopening(connect, connect_timeout=5, max_attempts=1) as channel:
        with pytest.raises(trio.BrokenResourceError, match="no link in 1 try, the last one: TimeoutError"):
            await channel.open()
        with pytest.raises(trio.EndOfChannel):
            await net.far[0].receive()


async def test_a_link_is_opened_in_the_context_variables_of_the_block(autojump_clock: MockClock) -> None:
    where = contextvars.ContextVar("where", default="outside")
    seen: list[str] = []

    async def connect() -> Any:
        seen.append(where.get())
        return memory_pair()[0]

    where.set("the block")
    async with reopening(connect) as channel:
        where.set("some task")
        await channel.open()
    assert seen == ["the block"]


# -- giving up ---------------------------------------------------------------------------------------------------------


async def test_it_gives_up_after_max_attempts_in_a_row(form: str, autojump_clock: MockClock) -> None:
    net, log = Net("open", REFUSED, REFUSED, REFUSED), Log()
    async with reopening(lambda: net.connect(form), first_delay=1, max_attempts=3, on_state=log) as channel:
        await channel.open()
        with pytest.raises(trio.BrokenResourceError, match=r"no link in 3 tries, the last one: .*nobody") as caught:
            await channel.open()
        assert net.tries == [0, 1, 3, 7]
        cause = caught.value.__cause__
        assert (isinstance(cause, ExceptionGroup) and cause.exceptions[0] is REFUSED) or cause is REFUSED
        assert log[-1] == LinkState("closed", error=cause)
        with pytest.raises(trio.BrokenResourceError, match="no link in 3 tries"):
            await channel.open()
    assert [state.state for state in log].count("closed") == 1
    assert len(net.tries) == 4


async def test_a_try_that_met_an_end_is_no_end_of_the_channel(autojump_clock: MockClock) -> None:
    net = Net(trio.EndOfChannel())
    async with reopening(net.dial, max_attempts=1, reopen_after_end=False) as channel:
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError, match=r"last one: EndOfChannel\(\)"):
                await channel.open()


async def test_luck_that_is_none_is_the_caller_s_to_mend(autojump_clock: MockClock) -> None:
    net = Net(REFUSED)

    async def block() -> None:
        async with reconnecting(net.dial, rng=lambda: 1.5) as channel:
            await channel.receive()

    with pytest.raises(ValueError, match=r"luck must be a random number from 0 to 1, not 1\.5"):
        await block()
    assert_nothing_left()


async def test_each_opening_has_tries_of_its_own(autojump_clock: MockClock) -> None:
    net = Net(REFUSED, "open", REFUSED, "open", REFUSED, "open")
    async with reopening(net.dial, max_attempts=2) as channel:
        for _ in range(3):
            await channel.open()
    assert len(net.tries) == 6


@pytest.mark.parametrize(
    "error",
    [
        OSError(),
        TimeoutError(),
        HandshakeError("no"),
        trio.BrokenResourceError(),
        trio.EndOfChannel(),
        trio.TooSlowError(),
        ExceptionGroup("", [OSError(), ExceptionGroup("", [trio.TooSlowError()])]),
    ],
    ids=repr,
)
async def test_what_the_world_did_is_tried_again(error: Exception, autojump_clock: MockClock) -> None:
    net = Net(error)
    async with reopening(net.dial) as channel:
        await channel.open()
    assert net.tries == [0, 0.1]


@pytest.mark.parametrize(
    "error", [TypeError("bug"), KeyError(), trio.ClosedResourceError(), ExceptionGroup("", [OSError(), TypeError()])]
)
async def test_a_mistake_in_connect_is_raised_at_once_as_it_is(error: Exception, autojump_clock: MockClock) -> None:
    net, log = Net(error), Log()
    async with reopening(net.dial, on_state=log) as channel:
        with pytest.raises(type(error)) as caught:
            await channel.open()
        assert caught.value is error
        with pytest.raises(trio.BrokenResourceError, match="is not tried again") as later:
            await channel.open()
        assert later.value.__cause__ is error
    assert log.words() == ["connecting 1", "closed"]
    assert net.tries == [0]


async def test_what_give_up_on_names_is_not_tried_again(autojump_clock: MockClock) -> None:
    refusal = HandshakeError("who are you?", status=401)
    net = Net(ConnectionResetError(), refusal)
    async with reopening(net.dial, give_up_on=(HandshakeError,)) as channel:
        with pytest.raises(HandshakeError) as caught:
            await channel.open()
    assert caught.value is refusal
    assert net.tries == [0, 0.1]


async def test_what_connect_raises_before_it_gives_anything_counts_as_well(autojump_clock: MockClock) -> None:
    net = Net()
    errors: list[Exception] = [REFUSED, TypeError("bug")]

    def connect() -> Any:
        net.tries.append(trio.current_time())
        raise errors.pop(0)

    async with reopening(connect) as channel:
        with pytest.raises(TypeError, match="bug"):
            await channel.open()
    assert net.tries == [0, 0.1]


@pytest.mark.parametrize("form", ["plain", "function", "context"])
async def test_a_connect_that_gives_no_channel_is_told_so(form: str) -> None:
    stream, _ = trio.testing.memory_stream_pair()

    async def dial() -> Any:
        return stream

    @asynccontextmanager
    async def link() -> AsyncIterator[Any]:
        async with stream:
            yield stream

    connect: Any = {"plain": lambda: stream, "function": dial, "context": link}[form]
    async with reopening(connect) as channel:
        with pytest.raises(
            TypeError, match=r"must give a trio.abc.Channel.* not StapledStream.*: make messages .* lines\(\)"
        ):
            await channel.open()
    with pytest.raises(trio.ClosedResourceError):
        await stream.send_all(b"x")


@pytest.mark.parametrize("given", [None, "ws://here", 5])
async def test_a_connect_that_gives_nothing_to_wait_for_is_told_so(given: object) -> None:
    connect: Any = lambda: given  # noqa: E731 - as short as what it stands for
    async with reopening(connect) as channel:
        with pytest.raises(TypeError, match=r"must give a trio\.abc\.Channel"):
            await channel.open()


async def test_a_plain_function_may_return_an_open_channel(autojump_clock: MockClock) -> None:
    near, far = memory_pair()
    async with reopening(lambda: near) as channel:
        assert await channel.open() is near
    with pytest.raises(trio.EndOfChannel):
        await far.receive()


# -- what is told ------------------------------------------------------------------------------------------------------


async def test_each_step_is_told_in_order_with_what_is_known_of_it(autojump_clock: MockClock) -> None:
    net, log = Net(REFUSED, "open"), Log()
    reset = trio.BrokenResourceError("reset")
    async with reopening(net.dial, on_state=log) as channel:
        await channel.open()
        assert log == [
            LinkState("connecting", 1),
            LinkState("waiting", 2, REFUSED, 0.1),
            LinkState("connecting", 2, REFUSED),
            LinkState("open", 2),
        ]
        log.clear()
        await channel.open(reset)
        assert log == [
            LinkState("broken", 0, reset),
            LinkState("waiting", 1, reset, pytest.approx(0.2)),
            LinkState("connecting", 1, reset),
            LinkState("open", 1),
        ]
        log.clear()
    assert log == [LinkState("closed")]


async def test_without_on_state_each_kind_of_failure_is_a_warning_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    script = [REFUSED, ConnectionRefusedError("nobody there, still"), HandshakeError("denied", status=403), REFUSED]
    net = Net(*script, HandshakeError("down", status=502))
    async with reopening(net.dial, max_delay=5) as channel:
        await channel.open()
        assert [(record.levelname, record.event_name) for record in caplog.records] == [("WARNING", "no_link")] * 3  # type: ignore[attr-defined]
        reasons = [line.partition("tried again: ")[2].partition(" (said once")[0] for line in caplog.messages]
        assert reasons == ["nobody there", "denied", "down"]
        net.script = [REFUSED]
        await channel.open(trio.BrokenResourceError("at once"))
        assert len(caplog.messages) == 3
        await trio.sleep(5)
        net.script = [REFUSED]
        await channel.open(trio.BrokenResourceError("after a long time"))
        assert len(caplog.messages) == 4


async def test_who_is_told_of_each_step_has_no_warnings(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    net, log = Net(REFUSED), Log()
    async with reopening(net.dial, on_state=log) as channel:
        await channel.open()
    assert (caplog.messages, len(log)) == ([], 5)


async def test_a_server_with_a_new_reason_each_time_does_not_fill_the_log(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    net = Net(*[HandshakeError("no", status=400 + n) for n in range(50)])
    async with reopening(net.dial) as channel:
        await channel.open()
    assert len(caplog.messages) == 8


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (LinkState("connecting", 2, REFUSED), "connecting (try 2)"),
        (LinkState("open", 2), "open (try 2)"),
        (LinkState("waiting", 2, REFUSED, 0.1435294480761513), "next try in 0.144 s (try 2): nobody there"),
        (LinkState("broken", error=trio.EndOfChannel()), "broken: EndOfChannel"),
        (LinkState("broken", error=OSError("a\nforged line")), "broken: a\\nforged line"),
        (LinkState("closed"), "closed"),
    ],
)
def test_a_step_in_words_is_short_and_says_why_once(state: LinkState, words: str) -> None:
    assert str(state) == words


def test_the_same_trouble_has_the_same_words_in_each_step() -> None:
    steps = [
        LinkState("broken", 0, REFUSED),
        LinkState("waiting", 2, REFUSED, 0.1),
        LinkState("connecting", 3, REFUSED),
    ]
    assert {step.why for step in steps} == {"nobody there"}
    assert LinkState("open", 1).why == ""


async def test_the_words_have_the_innermost_cause() -> None:
    with pytest.raises(OSError, match="all attempts") as caught:
        await trio.open_tcp_stream("127.0.0.1", 1)
    words = str(LinkState("waiting", 1, caught.value, 1.0))
    assert words.startswith("next try in 1 s (try 1): all attempts to connect to 127.0.0.1:1 failed: [Errno ")


async def test_a_context_that_fails_by_itself_says_why_the_link_broke(autojump_clock: MockClock) -> None:
    log = Log()
    crash = OSError("pump")

    @asynccontextmanager
    async def pumped() -> AsyncIterator[Any]:
        with trio.move_on_after(3):
            yield memory_pair()[0]
            return
        raise crash

    async with reopening(pumped, on_state=log) as channel:
        link = await channel.open()
        with pytest.raises(trio.ClosedResourceError):
            await link.receive()
        await channel.open()
    assert log[2] == LinkState("broken", error=crash)


async def test_a_failed_try_leaves_no_cycle(autojump_clock: MockClock) -> None:
    class Refused(OSError):
        def __init__(self) -> None:
            refs.append(weakref.ref(self))

    refs: list[weakref.ref[Refused]] = []

    async def connect() -> Any:
        if len(refs) < 3:
            raise Refused
        return memory_pair()[0]

    gc.disable()
    try:
        async with reopening(connect) as channel:
            await channel.open()
            assert [ref() for ref in refs] == [None] * 3
    finally:
        gc.enable()


async def test_who_is_told_and_raises_breaks_nothing(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    net = Net(REFUSED)

    def on_state(state: LinkState) -> None:
        raise RuntimeError(state.state)

    async with reopening(net.dial, on_state=on_state) as channel:
        await channel.open()
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 5
    assert "on_state raised at LinkState(state='closed'" in caplog.text


# -- closing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [["hang"], [REFUSED] * 2], ids=["while it tries", "while it waits"])
async def test_closing_ends_a_pending_open(form: str, script: list[Any], autojump_clock: MockClock) -> None:
    net, log = Net(*script), Log()
    async with (
        reopening(lambda: net.connect(form), first_delay=9, connect_timeout=50, on_state=log) as channel,
        trio.open_nursery() as nursery,
    ):

        async def open_line() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await channel.open()
            assert trio.current_time() == 12

        nursery.start_soon(open_line)
        await trio.sleep(12)
        await channel.aclose()
        assert_nothing_left()
        with pytest.raises(trio.ClosedResourceError):
            await channel.open()
        assert log[-1] == LinkState("closed")


async def test_closing_in_the_moment_that_a_link_opens_leaves_nothing_open(form: str) -> None:
    """Whichever comes first in that pass of the scheduler, whose order is random."""
    for passes in [*range(12)] * 8:
        net, log = Net(), Log()
        async with (
            reopening(lambda net=net: net.connect(form), on_state=log) as channel,
            trio.open_nursery() as nursery,
        ):

            async def open_line(channel: Any = channel) -> None:
                try:
                    await channel.open()
                except trio.ClosedResourceError:
                    return

            nursery.start_soon(open_line)
            for _ in range(passes):
                await trio.lowlevel.checkpoint()
            await channel.aclose()
            assert log[-1].state == "closed"
            assert net.entered == net.left
            for near in net.near:
                with pytest.raises(trio.ClosedResourceError):
                    await near.receive()


async def test_cancelling_open_at_any_pass_leaves_nothing_half_open(form: str) -> None:
    for passes in range(12):
        net = Net()
        async with reopening(lambda net=net: net.connect(form)) as channel:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(channel.open)
                    for _ in range(passes):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            opened = "open" in repr(channel)
            assert net.entered - net.left == (opened and form == "context")
            for near in net.near if not opened else []:
                with pytest.raises(trio.ClosedResourceError):
                    await near.receive()
            await channel.open()


async def test_closing_twice_and_from_two_tasks_is_once(form: str, autojump_clock: MockClock) -> None:
    net, log = Net(), Log()
    async with reopening(lambda: net.connect(form), on_state=log) as channel:
        await channel.open()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.aclose)
            nursery.start_soon(channel.aclose)
        await channel.aclose()
        with trio.testing.assert_checkpoints():
            await channel.aclose()
        assert_nothing_left()
    assert log.words() == ["connecting 1", "open 1", "closed"]


class SlowGoodbye:
    """A context of a link that takes its time to be left, unless it is cancelled."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.said = False

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Any]:
        near, _ = memory_pair()
        try:
            yield near
        finally:
            await trio.sleep(self.seconds)
            self.said = True


async def test_leaving_gives_the_link_time_for_its_goodbye(autojump_clock: MockClock) -> None:
    goodbye = SlowGoodbye(3)
    async with reopening(goodbye) as channel:
        await channel.open()
    assert (trio.current_time(), goodbye.said) == (3, True)


async def test_a_channel_without_a_context_has_time_for_its_goodbye_as_well(autojump_clock: MockClock) -> None:
    class Slow(MemoryChannel):
        async def aclose(self) -> None:
            await trio.sleep(3)
            await super().aclose()

    near, _ = memory_pair()

    async def connect() -> Any:
        return Slow(near._outgoing, near._incoming)

    async with reopening(connect, first_delay=0) as channel:
        await channel.open()
        await channel.open()
        assert trio.current_time() == 0
    assert trio.current_time() == 3


async def test_leaving_takes_close_timeout_seconds_at_most(autojump_clock: MockClock) -> None:
    goodbye = SlowGoodbye(math.inf)
    async with reopening(goodbye, close_timeout=2) as channel:
        await channel.open()
    assert (trio.current_time(), goodbye.said) == (2, False)


async def test_a_broken_link_gets_no_time_for_its_goodbye(autojump_clock: MockClock) -> None:
    async with reopening(SlowGoodbye(3), first_delay=0) as channel:
        for _ in range(3):
            await channel.open()
        assert trio.current_time() == 0


async def test_leaving_by_an_error_is_at_once_and_the_error_comes_out_as_it_is(autojump_clock: MockClock) -> None:
    error = KeyError("mine")

    async def block() -> None:
        async with reconnecting(SlowGoodbye(3)) as channel:
            await channel.open()
            raise error

    with pytest.raises(KeyError) as caught:
        await block()
    assert caught.value is error
    assert trio.current_time() == 0
    assert_nothing_left()


async def test_an_error_in_leaving_a_context_belongs_to_nobody(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "psession")

    @asynccontextmanager
    async def link() -> AsyncIterator[Any]:
        yield memory_pair()[0]
        raise OSError("no goodbye")

    async with reopening(link, first_delay=0) as channel:
        await channel.open()
    assert "no goodbye" in caplog.text


async def test_two_tasks_may_not_open_at_once(autojump_clock: MockClock) -> None:
    net = Net("hang")
    async with reopening(net.dial) as channel, trio.open_nursery() as nursery:
        nursery.start_soon(channel.open)
        await trio.sleep(1)
        with pytest.raises(trio.BusyResourceError):
            await channel.open()
        nursery.cancel_scope.cancel()


async def test_a_clean_end_is_the_end_where_it_is_to_be(autojump_clock: MockClock) -> None:
    net, log = Net(), Log()
    end = trio.EndOfChannel()
    async with reopening(net.dial, reopen_after_end=False, on_state=log) as channel:
        await channel.open()
        await channel.open(trio.BrokenResourceError())
        for _ in range(2):
            with pytest.raises(trio.EndOfChannel, match="the peer closed"):
                await channel.open(end)
    assert len(net.tries) == 2
    assert log[-1] == LinkState("closed", error=end)


# -- cancelling --------------------------------------------------------------------------------------------------------


async def test_an_open_cancelled_in_a_try_leaves_no_half_open_link(form: str, autojump_clock: MockClock) -> None:
    net = Net("hang")
    async with reopening(lambda: net.connect(form)) as channel:
        with trio.move_on_after(2) as scope:
            await channel.open()
        assert scope.cancelled_caught
        assert_nothing_left()
        await channel.open()
        assert net.tries == [0, 2]  # a try that was cut off has not failed


async def test_an_open_cancelled_in_a_wait_leaves_the_rest_of_it_to_the_next(autojump_clock: MockClock) -> None:
    net, log = Net(REFUSED), Log()
    async with reopening(net.dial, first_delay=10, on_state=log) as channel:
        with trio.move_on_after(4) as scope:
            await channel.open()
        assert scope.cancelled_caught
        assert_nothing_left()
        await channel.open()
        assert net.tries == [0, 10]
    waits = [state.delay for state in log if state.state == "waiting"]
    assert waits == [10, 6]


async def test_an_open_cancelled_while_it_drops_the_link_before_has_dropped_it(autojump_clock: MockClock) -> None:
    net = Net()
    async with reopening(net.link, first_delay=0) as channel:
        first = await channel.open()
        with trio.CancelScope() as scope:
            scope.cancel()
            await channel.open()
        assert scope.cancelled_caught
        assert_nothing_left()
        with pytest.raises(trio.ClosedResourceError):
            await first.receive()
        assert (net.entered, net.left) == (1, 1)
        await channel.open()
    assert (net.entered, net.left) == (2, 2)


async def test_a_close_that_is_cancelled_closes_at_once(autojump_clock: MockClock) -> None:
    goodbye = SlowGoodbye(3)
    async with reopening(goodbye) as channel:
        await channel.open()
        with trio.move_on_after(1) as scope:
            await channel.aclose()
        assert scope.cancelled_caught
        assert (trio.current_time(), goodbye.said) == (1, False)
        assert_nothing_left()


async def test_a_close_that_is_cancelled_while_a_link_is_being_opened_leaves_nothing(
    form: str, autojump_clock: MockClock
) -> None:
    net = Net("hang")
    async with reopening(lambda: net.connect(form)) as channel, trio.open_nursery() as nursery:

        async def open_line() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await channel.open()

        nursery.start_soon(open_line)
        await trio.sleep(1)
        with trio.CancelScope() as scope:
            scope.cancel()
            await channel.aclose()
        assert_nothing_left()


async def test_a_block_that_is_cancelled_leaves_nothing(form: str, autojump_clock: MockClock) -> None:
    net = Net()
    with trio.move_on_after(1) as scope:
        async with reconnecting(lambda: net.connect(form)) as channel:
            await channel.open()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert net.entered == net.left
    assert_nothing_left()


async def test_what_is_said_in_a_shielded_finally_still_travels(form: str, autojump_clock: MockClock) -> None:
    net = Net()
    with trio.move_on_after(1):
        async with reconnecting(lambda: net.connect(form)) as channel:
            link = await channel.open()
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await link.send("goodbye")
    assert await net.far[0].receive() == "goodbye"


# -- options -----------------------------------------------------------------------------------------------------------


async def refuse_options(connect: Any, **options: Any) -> None:
    async with reconnecting(connect, **options):
        raise AssertionError("it was let in")


async def on_state_async(state: LinkState) -> None:
    raise AssertionError(state)


@pytest.mark.parametrize(
    ("wrong", "error", "text"),
    [
        ({"first_delay": -1}, ValueError, "first_delay must be 0 or more seconds"),
        ({"first_delay": "1"}, TypeError, "first_delay must be a number of seconds, not '1'"),
        ({"first_delay": 60}, ValueError, "first_delay must not exceed max_delay, as 60 does 30"),
        ({"max_delay": math.nan}, ValueError, "max_delay must be 0 or more seconds"),
        ({"max_delay": math.inf}, ValueError, "max_delay must be finite"),
        ({"backoff": 0.5}, ValueError, "backoff must be 1 or more, not 0.5"),
        ({"backoff": None}, TypeError, "backoff must be a number, not None"),
        ({"jitter": -0.1}, ValueError, "jitter must be 0 or more, not -0.1"),
        ({"max_attempts": 0}, ValueError, "max_attempts must be 1 or more, not 0"),
        ({"max_attempts": 2.5}, TypeError, "max_attempts must be a whole number, not 2.5"),
        ({"max_attempts": True}, TypeError, "max_attempts must be a whole number, not True"),
        ({"connect_timeout": 0}, ValueError, "connect_timeout must be above 0 seconds"),
        ({"connect_timeout": None}, TypeError, "connect_timeout must be a number of seconds"),
        ({"close_timeout": -1}, ValueError, "close_timeout must be 0 or more seconds"),
        ({"give_up_on": OSError}, TypeError, "give_up_on must be a tuple of Exception classes"),
        ({"give_up_on": (trio.Cancelled,)}, TypeError, "give_up_on must be a tuple of Exception classes"),
        ({"reopen_after_end": 1}, TypeError, "reopen_after_end must be True or False, not 1"),
        ({"on_state": "print"}, TypeError, "on_state must be callable, not 'print'"),
        ({"on_state": on_state_async}, TypeError, "on_state must be a plain function"),
        ({"rng": 0.5}, TypeError, "rng must be callable, not 0.5"),
    ],
)
async def test_an_option_out_of_its_range_is_refused_by_name(wrong: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        await refuse_options(memory_pair, **wrong)


@pytest.mark.parametrize("connect", [None, "ws://here", memory_pair()[0]])
async def test_what_cannot_be_called_is_no_connect(connect: Any) -> None:
    with pytest.raises(TypeError, match=r"connect is called for each link: give .lambda: open_websocket\(url\)., not"):
        await refuse_options(connect)
