"""How long a turn waits and how often it tries: the arithmetic, then the same on Trio's clock."""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING

import pytest
import trio

from psession import SessionCancelError, SessionError, SessionManager, SessionTimeoutError
from psession._retry import Patience

from .peers import Caught, Wire, settle

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock


def test_there_is_a_pause_after_each_attempt_but_the_last() -> None:
    assert list(Patience(1.0, 2, 0.5).pauses()) == [0.5, 0.5, None]


def test_no_retries_is_one_attempt() -> None:
    assert list(Patience(1.0, 0, 0.5).pauses()) == [None]


def test_endless_retries_never_come_to_a_last_attempt() -> None:
    assert list(islice(Patience(1.0, math.inf, 0.5).pauses(), 1000)) == [0.5] * 1000


def test_none_leaves_a_value_as_it_is_and_zero_is_a_value() -> None:
    assert Patience(1.0, 2, 0.5).replace(timeout=None, retry_count=0, retry_interval=0) == Patience(1.0, 0, 0)


async def test_giving_up_takes_as_long_as_promised(autojump_clock: MockClock) -> None:
    wire = Wire()
    async with SessionManager().port("p", wire) as port:
        with pytest.raises(SessionTimeoutError) as caught:
            await port.request({"q": 1}, timeout=1.0, retry_count=2, retry_interval=0.5)
    assert (caught.value.attempts, trio.current_time()) == (3, 4.0)
    assert (caught.value.waited, caught.value.port, caught.value.sid) == (4.0, "p", 1)
    assert wire.sent == [{"q": 1, "sid": 1}] * 3


@pytest.mark.parametrize(
    ("patience", "count", "interval", "moments"),
    [
        (1.0, 0, 9.0, [0.0]),
        (1.0, 3, 0.0, [0.0, 1.0, 2.0, 3.0]),
        (0.0, 2, 0.5, [0.0, 0.5, 1.0]),
        (2.0, 2, 0.25, [0.0, 2.25, 4.5]),
        (0.0, 3, 0.0, [0.0, 0.0, 0.0, 0.0]),
    ],
)
async def test_each_attempt_leaves_at_its_exact_moment(
    autojump_clock: MockClock, patience: float, count: int, interval: float, moments: list[float]
) -> None:
    sent: list[float] = []

    async with SessionManager().port("p", lambda _: sent.append(trio.current_time())) as port:
        with pytest.raises(SessionTimeoutError) as caught:
            await port.request({}, timeout=patience, retry_count=count, retry_interval=interval)
    assert sent == moments
    assert trio.current_time() == (count + 1) * patience + count * interval
    assert caught.value.attempts == count + 1


async def test_five_retries_make_six_sends(autojump_clock: MockClock) -> None:
    wire = Wire()
    async with SessionManager().port("p", wire) as port:
        with pytest.raises(SessionTimeoutError) as caught:
            await port.request({}, timeout=0.1, retry_count=5, retry_interval=0.1)
        assert (len(wire.sent), caught.value.attempts, port.statistics().sent) == (6, 6, 6)


async def test_a_retry_is_the_same_message_with_the_same_number(autojump_clock: MockClock) -> None:
    wire = Wire()
    async with SessionManager().port("p", wire) as port, port.session() as session:
        with pytest.raises(SessionTimeoutError):
            await session.send({"n": [1]}, timeout=1, retry_count=3, retry_interval=0)
    assert wire.sent == [{"n": [1], "sid": 1}] * 4


@pytest.mark.parametrize("moment", [0.5, 1.0, 1.25, 1.5, 2.0, 3.75])
async def test_a_reply_counts_whenever_it_comes_in_an_attempt_or_in_the_pause(
    autojump_clock: MockClock, moment: float
) -> None:
    wire = Wire()
    async with SessionManager().port("p", wire) as port, trio.open_nursery() as nursery:

        async def answer() -> None:
            await trio.sleep(moment)
            port.dispatch({"ok": 1, "sid": 1})

        nursery.start_soon(answer)
        reply = await port.request({}, timeout=1.0, retry_count=2, retry_interval=0.5)
        assert (reply, trio.current_time()) == ({"ok": 1, "sid": 1}, moment)
        assert len(wire.sent) in {math.ceil(moment / 1.5), 1 + int(moment / 1.5)}
        assert (port.statistics().matched, port.statistics().timed_out) == (1, 0)


@pytest.mark.parametrize("moment", [0.5, 1.2, 1.5, 2.7])
async def test_cancelling_in_an_attempt_or_a_pause_stops_the_retries(autojump_clock: MockClock, moment: float) -> None:
    wire = Wire()
    async with SessionManager().port("p", wire) as port, trio.open_nursery() as nursery:
        session = port.create(timeout=1.0, retry_count=9, retry_interval=0.5)
        caught = Caught()
        nursery.start_soon(caught.run, session.send, {})
        await trio.sleep(moment)
        await settle()
        sent = len(wire.sent)
        session.cancel()
        await trio.sleep(100)
        assert (type(caught.error), caught.at, len(wire.sent)) == (SessionCancelError, moment, sent)


async def test_infinite_patience_waits_a_year_for_the_reply(autojump_clock: MockClock) -> None:
    year = 365 * 86400.0
    async with SessionManager(session_max_life=math.inf).port("p", Wire()) as port, trio.open_nursery() as nursery:
        caught = Caught()
        nursery.start_soon(lambda: caught.run(lambda: port.request({}, timeout=math.inf)))
        await trio.sleep(year)
        port.dispatch({"sid": 1})
        await settle()
        assert caught.value == {"sid": 1}


async def test_endless_retries_end_with_the_callers_own_limit(autojump_clock: MockClock) -> None:
    wire = Wire()
    async with SessionManager().port("p", wire) as port:
        with trio.move_on_after(9.75) as scope:
            await port.request({}, timeout=0.5, retry_count=math.inf, retry_interval=0.5)
        assert (scope.cancelled_caught, trio.current_time(), len(wire.sent)) == (True, 9.75, 10)


async def test_endless_retries_without_any_wait_still_let_others_run() -> None:
    async with SessionManager().port("p", Wire()) as port:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: port.request({}, timeout=0, retry_count=math.inf, retry_interval=0))
                for _ in range(20):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        assert scope.cancelled_caught


class Flaky:
    """A sender that fails as often as it is told, then works."""

    def __init__(self, failures: int, error: Callable[[], Exception]) -> None:
        self.failures = failures
        self.error = error
        self.moments: list[float] = []

    def __call__(self, message: object) -> None:
        self.moments.append(trio.current_time())
        if len(self.moments) <= self.failures:
            raise self.error()


def async_sender(flaky: Flaky) -> Callable[[object], object]:
    """The same failures from an async callable."""

    async def send(message: object) -> None:
        await trio.lowlevel.checkpoint()
        flaky(message)

    return send


@pytest.mark.parametrize("wrap", [lambda flaky: flaky, async_sender], ids=["sync", "async"])
async def test_what_the_sender_raises_is_retried_if_the_caller_says_so(
    autojump_clock: MockClock, wrap: Callable[[Flaky], Callable[[object], object]]
) -> None:
    flaky = Flaky(2, ConnectionError)
    async with SessionManager().port("p", wrap(flaky)) as port, trio.open_nursery() as nursery:
        caught = Caught()
        nursery.start_soon(
            lambda: caught.run(
                lambda: port.request({}, timeout=5, retry_count=3, retry_interval=0.5, retry_on=(OSError,))
            )
        )
        await trio.sleep(2.0)
        port.dispatch({"sid": 1, "ok": 1})
        await settle()
        assert (flaky.moments, caught.value) == ([0.0, 0.5, 1.0], {"sid": 1, "ok": 1})


@pytest.mark.parametrize("wrap", [lambda flaky: flaky, async_sender], ids=["sync", "async"])
@pytest.mark.parametrize("retry_on", [(), (KeyError,)])
async def test_any_other_error_of_the_sender_is_raised_at_once_as_the_same_object(
    autojump_clock: MockClock,
    wrap: Callable[[Flaky], Callable[[object], object]],
    retry_on: tuple[type[Exception], ...],
) -> None:
    error = ValueError("a bug")
    flaky = Flaky(9, lambda: error)
    async with SessionManager().port("p", wrap(flaky)) as port:
        with pytest.raises(ValueError, match="a bug") as caught:
            await port.request({}, retry_count=5, retry_on=retry_on)
        assert caught.value is error
        assert (flaky.moments, trio.current_time()) == ([0.0], 0.0)


@pytest.mark.parametrize("wrap", [lambda flaky: flaky, async_sender], ids=["sync", "async"])
async def test_the_last_attempts_error_is_raised_when_all_have_failed(
    autojump_clock: MockClock, wrap: Callable[[Flaky], Callable[[object], object]]
) -> None:
    flaky = Flaky(99, ConnectionError)
    async with SessionManager().port("p", wrap(flaky)) as port:
        with pytest.raises(ConnectionError):
            await port.request({}, retry_count=3, retry_interval=2.0, retry_on=(ConnectionError,))
        assert flaky.moments == [0.0, 2.0, 4.0, 6.0]


@pytest.mark.parametrize("deed", ["cancel", "abort", "timeout", "end"])
async def test_an_ending_is_never_retried_even_when_every_error_may_be(autojump_clock: MockClock, deed: str) -> None:
    wire = Wire()
    async with SessionManager().port("p", wire) as port, trio.open_nursery() as nursery:
        session = port.create(retry_count=9, retry_on=(Exception,))
        caught = Caught()
        nursery.start_soon(caught.run, session.send, {})
        await trio.sleep(1)
        getattr(session, deed)()
        await trio.sleep(1000)
        assert isinstance(caught.error, SessionError)
        assert (caught.at, len(wire.sent)) == (1.0, 1)
