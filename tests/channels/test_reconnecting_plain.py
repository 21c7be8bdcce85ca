"""A channel that reopens, used as a plain channel: across breaks, from many tasks, cancelled anywhere."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from psession.channels import LinkState, MemoryChannel, memory_pair, reconnecting
from psession.errors import MalformedMessageError
from psession.testing import check_channel

from .reconnecting_ends import Log, Net, assert_nothing_left, reopening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

REFUSED = ConnectionRefusedError("nobody there")


@pytest.fixture(params=["context", "function"])
def form(request: pytest.FixtureRequest) -> str:
    """Each form of `connect` in turn."""
    return request.param


class Broken(MemoryChannel):
    """A link that breaks at the first thing asked of it, or at all that is asked of the kind that is named."""

    def __init__(self, error: Exception, *, kinds: tuple[str, ...] = ("send", "receive")) -> None:
        near, self.far = memory_pair()
        super().__init__(near._outgoing, near._incoming)
        self.error = error
        self.kinds = kinds

    async def send(self, value: Any) -> None:
        if "send" in self.kinds:
            raise self.error
        await super().send(value)

    async def receive(self) -> Any:
        if "receive" in self.kinds:
            raise self.error
        return await super().receive()


def giving(*links: Any) -> Any:
    """A `connect` that gives these links in turn."""
    rest = iter(links)

    async def connect() -> Any:
        return next(rest)

    return connect


@pytest.mark.parametrize("first", ["open", "send"])
async def test_it_keeps_the_contract_on_a_link_that_does_not_break(first: str) -> None:
    @asynccontextmanager
    async def pair() -> AsyncIterator[tuple[trio.abc.Channel[Any], trio.abc.Channel[Any]]]:
        near, far = memory_pair()
        async with far, reconnecting(lambda: near, reopen_after_end=False, max_attempts=1) as channel:
            if first == "open":
                assert await channel.open() is near
            else:
                await channel.send("hello")
                assert await far.receive() == "hello"
            yield channel, far

    await check_channel(pair)


async def test_the_first_send_opens_the_first_link(form: str, autojump_clock: MockClock) -> None:
    net = Net(REFUSED)
    async with reopening(lambda: net.connect(form)) as channel:
        await channel.send({"a": 1})
        assert net.tries == [0, 0.1]
        assert await net.far[0].receive() == {"a": 1}


async def test_receiving_goes_on_across_breaks(form: str, autojump_clock: MockClock) -> None:
    net, log = Net("open", REFUSED), Log()
    async with (
        reopening(lambda: net.connect(form), first_delay=1, on_state=log) as channel,
        trio.open_nursery() as nursery,
    ):

        async def server() -> None:
            for number in range(3):
                far = await net.accept()
                await far.send(number)
                await far.aclose()

        nursery.start_soon(server)
        assert [await channel.receive() for _ in range(3)] == [0, 1, 2]
        assert net.tries == [0, 1, 3, 7]
        await channel.aclose()
    assert log.words() == [
        *["connecting 1", "open 1"],
        *["broken", "waiting 1", "connecting 1", "waiting 2", "connecting 2", "open 2"],
        *["broken", "waiting 1", "connecting 1", "open 1"],
        "closed",
    ]


@pytest.mark.parametrize("error", [trio.BrokenResourceError("x"), trio.EndOfChannel(), trio.ClosedResourceError()])
async def test_a_receive_does_not_show_that_the_link_was_another(error: Exception, autojump_clock: MockClock) -> None:
    near, far = memory_pair()
    log = Log()
    await far.send({"a": 1})
    async with reopening(giving(Broken(error), near), on_state=log) as channel:
        assert await channel.receive() == {"a": 1}
    assert log[2] == LinkState("broken", error=error)


@pytest.mark.parametrize("error", [trio.BrokenResourceError("x"), trio.ClosedResourceError()])
async def test_a_send_that_meets_the_break_raises_and_the_next_waits_for_the_next_link(
    error: Exception, autojump_clock: MockClock
) -> None:
    near, far = memory_pair()
    async with reopening(giving(Broken(error), near), first_delay=2) as channel:
        with pytest.raises(trio.BrokenResourceError, match="whether this message has arrived is not known") as caught:
            await channel.send(1)
        assert caught.value.__cause__ is error
        assert trio.current_time() == 0
        await channel.send(2)
        assert trio.current_time() == 2
        assert await far.receive() == 2


async def test_no_message_is_sent_twice(autojump_clock: MockClock) -> None:
    class Half(Broken):
        async def send(self, value: Any) -> None:
            await MemoryChannel.send(self, value)
            raise self.error

    half = Half(trio.BrokenResourceError())
    near, far = memory_pair()
    async with reopening(giving(half, near)) as channel:
        with pytest.raises(trio.BrokenResourceError):
            await channel.send(1)
        await channel.send(2)
        assert await half.far.receive() == 1
        assert await far.receive() == 2
        with pytest.raises(trio.EndOfChannel):
            await half.far.receive()


async def test_the_next_link_is_opened_though_nobody_waits_for_it(autojump_clock: MockClock) -> None:
    net = Net()
    async with reopening(net.dial, first_delay=2) as channel:
        await channel.send(1)
        await net.far[0].aclose()
        with pytest.raises(trio.BrokenResourceError):
            await channel.send(2)
        await trio.sleep(5)
        assert net.tries == [0, 2]
        await channel.send(3)
        assert await net.far[1].receive() == 3


async def test_a_send_that_finds_the_break_wakes_who_receives_and_they_go_on(autojump_clock: MockClock) -> None:
    deaf = Broken(trio.BrokenResourceError(), kinds=("send",))
    near, far = memory_pair()
    async with reopening(giving(deaf, near)) as channel, trio.open_nursery() as nursery:

        async def receive() -> None:
            assert await channel.receive() == "from the second link"
            assert trio.current_time() == 1.1

        nursery.start_soon(receive)
        await trio.sleep(1)
        with pytest.raises(trio.BrokenResourceError):
            await channel.send(1)
        await far.send("from the second link")


async def test_however_many_wait_there_is_one_link(form: str, autojump_clock: MockClock) -> None:
    net = Net(REFUSED, max_buffer=100)
    got: list[Any] = []
    async with reopening(lambda: net.connect(form)) as channel, trio.open_nursery() as nursery:

        async def receive() -> None:
            got.append(await channel.receive())

        for number in range(20):
            nursery.start_soon(channel.send, number)
            nursery.start_soon(receive)
        await trio.sleep(1)
        assert len(net.far) == 1
        for _ in range(20):
            await net.far[0].send(await net.far[0].receive())
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(got) == list(range(20))


async def test_a_refused_message_is_its_sender_s_alone(autojump_clock: MockClock) -> None:
    link = Broken(MalformedMessageError("no"))
    async with reopening(giving(link)) as channel:
        for call in (channel.send(1), channel.receive(), channel.send(1)):
            with pytest.raises(MalformedMessageError):
                await call


async def test_a_context_that_fails_by_itself_is_a_break(autojump_clock: MockClock) -> None:
    crash, near, far = OSError("pump"), *memory_pair()
    log = Log()

    @asynccontextmanager
    async def pumped() -> AsyncIterator[Any]:
        async def pump() -> None:
            await trio.sleep(3)
            raise crash

        async with trio.open_nursery() as nursery:
            if trio.current_time() == 0:
                nursery.start_soon(pump)
                yield memory_pair()[0]  # which it does not close
            else:
                yield near

    await far.send({"a": 1})
    async with reopening(pumped, on_state=log) as channel:
        assert await channel.receive() == {"a": 1}
        assert trio.current_time() == 3.1
    assert log[2].state == "broken"
    assert isinstance(log[2].error, ExceptionGroup)
    assert log[2].error.exceptions == (crash,)


async def test_a_send_after_the_context_has_failed_waits_for_the_next_link(autojump_clock: MockClock) -> None:
    ends: list[MemoryChannel] = []

    @asynccontextmanager
    async def short() -> AsyncIterator[Any]:
        near, far = memory_pair()
        ends.append(far)
        with trio.move_on_after(3 if len(ends) == 1 else 1000):
            yield near
            return
        raise OSError("over")

    async with reopening(short) as channel:
        await channel.send(1)
        await trio.sleep(5)
        await channel.send(2)
        assert trio.current_time() == 5.1
        assert await ends[1].receive() == 2


# -- ends --------------------------------------------------------------------------------------------------------------


async def test_running_out_of_tries_ends_it_for_all(form: str, autojump_clock: MockClock) -> None:
    net, log = Net("open", REFUSED, REFUSED), Log()
    ended: list[float] = []
    async with (
        reopening(lambda: net.connect(form), first_delay=1, max_attempts=2, on_state=log) as channel,
        trio.open_nursery() as nursery,
    ):

        async def ends(call: Any, *arguments: Any) -> None:
            with pytest.raises(trio.BrokenResourceError, match=r"no link in 2 tries, the last one: .*nobody there"):
                await call(*arguments)
            ended.append(trio.current_time())

        await channel.send(1)
        await net.far[0].aclose()
        for _ in range(3):
            nursery.start_soon(ends, channel.receive)
        await trio.sleep(0.5)
        nursery.start_soon(ends, channel.send, 2)
        await trio.sleep(5)
        assert ended == [1 + 2] * 4
        await ends(channel.receive)
        await ends(channel.send, 3)
        assert_nothing_left()
        await channel.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await channel.receive()
    assert log.words()[-1:] == ["closed"]


async def test_a_mistake_in_connect_comes_out_as_it_is_once(autojump_clock: MockClock) -> None:
    bug = TypeError("bug")
    net = Net(bug)
    async with reopening(net.dial) as channel, trio.open_nursery() as nursery:
        raised: list[Exception] = []

        async def receive() -> None:
            try:
                await channel.receive()
            except (TypeError, trio.BrokenResourceError) as error:
                raised.append(error)

        for _ in range(3):
            nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        assert raised.count(bug) == 1
        assert {type(error) for error in raised if error is not bug} == {trio.BrokenResourceError}
        with pytest.raises(trio.BrokenResourceError, match=r"not tried again: TypeError\('bug'\)") as caught:
            await channel.send(1)
        assert caught.value.__cause__ is bug


async def test_a_clean_end_is_the_end_where_it_is_to_be(form: str, autojump_clock: MockClock) -> None:
    net, log = Net(), Log()
    async with reopening(lambda: net.connect(form), reopen_after_end=False, on_state=log) as channel:
        await channel.send(1)
        await net.far[0].send(2)
        await net.far[0].aclose()
        assert await channel.receive() == 2
        for _ in range(2):
            with pytest.raises(trio.EndOfChannel):
                await channel.receive()
            with pytest.raises(trio.BrokenResourceError, match="the peer closed"):
                await channel.send(3)
    assert log.words() == ["connecting 1", "open 1", "closed"]


async def test_it_can_be_iterated_until_it_is_closed(autojump_clock: MockClock) -> None:
    net = Net()
    got: list[Any] = []
    async with reopening(net.dial, reopen_after_end=False) as channel:
        await channel.send("go")
        for number in range(3):
            await net.far[0].send(number)
        await net.far[0].aclose()
        got.extend([message async for message in channel])
    assert got == [0, 1, 2]


@pytest.mark.parametrize("script", [[], ["hang"], [REFUSED] * 9], ids=["open", "while it tries", "while it waits"])
async def test_closing_wakes_who_sends_and_who_receives(
    form: str, script: list[Any], autojump_clock: MockClock
) -> None:
    net, log = Net(*script, max_buffer=0), Log()
    async with (
        reopening(lambda: net.connect(form), connect_timeout=50, on_state=log) as channel,
        trio.open_nursery() as nursery,
    ):

        async def ends(call: Any, *arguments: Any) -> None:
            with pytest.raises(trio.ClosedResourceError):
                await call(*arguments)
            assert trio.current_time() == 12

        for _ in range(2):
            nursery.start_soon(ends, channel.receive)
            nursery.start_soon(ends, channel.send, 1)
        await trio.sleep(12)
        await channel.aclose()
        assert_nothing_left()
        await ends(channel.receive)
        await ends(channel.send, 1)
        assert log[-1] == LinkState("closed")


# -- cancelling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["send", "receive"])
async def test_who_is_cancelled_while_waiting_for_a_link_does_not_hold_it_up(
    form: str, what: str, autojump_clock: MockClock
) -> None:
    """A receive with a short timeout in a loop still gets its link, however slow connecting is."""
    net = Net(REFUSED, REFUSED, REFUSED)
    async with reopening(lambda: net.connect(form), first_delay=1) as channel:
        for _ in range(70):
            with trio.move_on_after(0.1) as scope:
                await (channel.receive() if what == "receive" else channel.send("never"))
            assert scope.cancelled_caught
        assert net.tries == [0, 1, 3]
        await trio.sleep(0.1)
        assert net.tries == [0, 1, 3, 7]
        await channel.send(1)
        assert await net.far[0].receive() == 1


async def test_a_send_cancelled_before_there_was_a_link_sends_nothing(autojump_clock: MockClock) -> None:
    net = Net(REFUSED)
    async with reopening(net.dial) as channel:
        with trio.move_on_after(0.05) as scope:
            await channel.send("never")
        assert scope.cancelled_caught
        await channel.send("sent")
        assert await net.far[0].receive() == "sent"


async def test_a_send_and_a_receive_cancelled_on_the_link_leave_it_standing(autojump_clock: MockClock) -> None:
    net = Net(max_buffer=0)
    async with reopening(net.dial) as channel:
        for call in (channel.send, lambda _: channel.receive()):
            with trio.move_on_after(1) as scope:
                await call("never")
            assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(net.far[0].send, "heard")
            assert await channel.receive() == "heard"
            nursery.start_soon(channel.send, "sent")
            assert await net.far[0].receive() == "sent"
    assert len(net.tries) == 1


@pytest.mark.parametrize("script", [["hang"], [REFUSED], ["open"]], ids=["in a try", "in a wait", "on a link"])
async def test_a_block_cancelled_in_a_receive_leaves_nothing(
    form: str, script: list[Any], autojump_clock: MockClock
) -> None:
    net = Net(*script)
    with trio.move_on_after(1) as scope:
        async with reopening(lambda: net.connect(form), first_delay=2) as channel:
            await channel.receive()
    assert scope.cancelled_caught
    assert trio.current_time() == 1
    assert net.entered == net.left
    assert_nothing_left()


async def test_what_is_said_in_a_shielded_finally_still_finds_a_link(form: str, autojump_clock: MockClock) -> None:
    net = Net(REFUSED)

    async def block() -> None:
        async with reopening(lambda: net.connect(form), first_delay=2) as channel:
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await channel.send("goodbye")

    with trio.move_on_after(1):
        await block()
    assert trio.current_time() == 3
    assert await net.far[0].receive() == "goodbye"


async def test_open_after_send_takes_the_link_over(autojump_clock: MockClock) -> None:
    net = Net("hang")
    async with reopening(net.dial, connect_timeout=1, first_delay=1) as channel, trio.open_nursery() as nursery:
        nursery.start_soon(channel.send, 1)
        await trio.sleep(0.5)
        with pytest.raises(trio.BusyResourceError):
            await channel.open()
        await trio.sleep(5)
        assert await net.far[0].receive() == 1
        assert await channel.open() is net.near[1]
