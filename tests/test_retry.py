"""How long a turn waits and how often it tries: the arithmetic, then the same on Trio's clock."""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from psession import Exact, Retry, Session, SessionCancelError, SessionError, SessionManager, SessionTimeoutError
from psession.channels import memory_pair
from psession.options import checked
from psession.protocol.bucket import MILLIONTH, RETRY_TOKENS, TokenBucket
from psession.protocol.retry import Patience

from .peers import Caught, Wire, settle

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock


RETRIES = st.builds(
    Retry,
    count=st.integers(0, 200),
    interval=st.floats(1e-6, 1e6) | st.just(0.0),
    backoff=st.floats(1, 10),
    max_interval=st.floats(0, 1e9) | st.just(math.inf),
    jitter=st.floats(0, 10),
)


def unlucky() -> float:
    """The random number of a test that wants no share of it."""
    return 0.0


def test_there_is_a_pause_after_each_attempt_but_the_last() -> None:
    assert list(Patience.of(1.0, Retry(2, 0.5)).pauses(unlucky)) == [0.5, 0.5, None]


def test_no_retries_is_one_attempt() -> None:
    assert list(Patience.of(1.0, Retry(0, 0.5)).pauses(unlucky)) == [None]


@pytest.mark.parametrize("backoff", [1, 2])
def test_endless_retries_never_come_to_a_last_attempt(backoff: float) -> None:
    retry = Retry(math.inf, 0.5, backoff, max_interval=0.5)
    assert list(islice(Patience.of(1.0, retry).pauses(unlucky), 1000)) == [0.5] * 1000
    assert Patience.of(1.0, retry).total == Patience.of(0.0, Retry(math.inf, 0.0)).total == math.inf


def test_none_leaves_a_value_as_it_is_and_zero_is_a_value() -> None:
    assert checked(Patience.of(1.0, Retry(2)), 0, None, None, None, None) == Patience.of(0, Retry(2))
    assert checked(Patience.of(1.0, Retry(2)), None, None, None, None, (OSError,)).retry_on == (OSError,)
    assert Patience.of(1.0, Retry(0)).within(3) == Patience.of(3, Retry(0))


def test_each_pause_is_the_last_one_times_the_factor_up_to_the_cap_and_then_a_random_share_is_added() -> None:
    lucks = iter([0.0, 1.0, 0.5, 0.0])
    retry = Retry(4, 1, backoff=3, max_interval=5, jitter=0.5)
    assert list(Patience.of(1.0, retry).pauses(lambda: next(lucks))) == [1.0, 4.5, 6.25, 5.0, None]


def test_without_a_random_share_no_random_number_is_drawn() -> None:
    def draw() -> float:
        raise AssertionError

    for retry in (Retry(2, 1), Retry(2, 1, backoff=2), Retry(2, 1, max_interval=0.5)):
        assert len(list(Patience.of(1.0, retry).pauses(draw))) == 3


@given(RETRIES, st.data())
def test_every_pause_is_within_the_formula_and_the_total_is_not_exceeded(retry: Retry, data: st.DataObject) -> None:
    pauses = list(Patience.of(0.5, retry).pauses(lambda: data.draw(st.floats(0, 1))))
    assert pauses.pop() is None
    for attempt, pause in enumerate(pauses):
        least = min(retry.max_interval, retry.interval * retry.backoff**attempt)
        assert pause is not None
        assert least <= pause <= least * (1 + retry.jitter)
    spent = math.fsum(pause or 0.0 for pause in pauses) + 0.5 * (retry.count + 1)
    assert spent <= Patience.of(0.5, retry).total * (1 + 1e-9)


@given(RETRIES)
def test_the_total_is_what_the_worst_luck_makes_it(retry: Retry) -> None:
    pauses = [pause or 0.0 for pause in Patience.of(0.5, retry).pauses(lambda: 1.0)]
    assert Patience.of(0.5, retry).total == pytest.approx(math.fsum(pauses) + 0.5 * len(pauses))


@pytest.mark.parametrize(
    "retry",
    [Retry(2**53 - 1, 1, 1.001), Retry(1000, 1e300, 1e300), Retry(1000, math.inf, 2), Retry(3, math.inf, jitter=1)],
)
def test_a_wait_past_what_a_number_holds_has_no_end(retry: Retry) -> None:
    assert Patience.of(1.0, retry).total == math.inf


def test_a_count_past_what_can_be_added_up_has_its_total_at_once() -> None:
    assert Patience.of(0.0, Retry(2**53 - 1, 1, 1.0000001, max_interval=60)).total == pytest.approx(60 * 2.0**53)
    assert Patience.of(0.0, Retry(10**6, 5e-324, 2, max_interval=1e308, jitter=1)).total == math.inf


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        *[(field, value, TypeError) for field in Retry.__dataclass_fields__ for value in (True, "1", None, [1])],
        *[(field, -1, ValueError) for field in Retry.__dataclass_fields__],
        *[(field, math.nan, ValueError) for field in ("interval", "backoff", "max_interval", "jitter", "budget")],
        *[(field, math.inf, ValueError) for field in ("backoff", "jitter")],
        ("count", 1.5, TypeError),
        ("count", 2**53, ValueError),
        ("backoff", 0.5, ValueError),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_name(field: str, value: object, error: type[Exception]) -> None:
    options: dict[str, Any] = {field: value}
    with pytest.raises(error, match=field):
        Retry(**options)


@given(st.lists(st.floats(0, 20) | st.just(math.inf) | st.none()))
def test_the_bucket_never_holds_less_than_nothing_or_more_than_its_size(deeds: list[float | None]) -> None:
    bucket = TokenBucket(RETRY_TOKENS)
    for budget in deeds:
        before = bucket.millionths
        if budget is not None:
            bucket.put(budget)
        else:
            assert bucket.take() == (before >= MILLIONTH)
        assert 0 <= bucket.millionths <= RETRY_TOKENS * MILLIONTH


def test_ten_turns_at_a_tenth_pay_for_one_retry() -> None:
    bucket = TokenBucket(RETRY_TOKENS)
    while bucket.take():
        pass
    for _ in range(10):
        assert not bucket.take()
        bucket.put(0.1)
    assert (bucket.take(), bucket.take()) == (True, False)


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
        assert (reply, trio.current_time()) == ({"ok": 1}, moment)
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
        assert caught.value == {}


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
        assert (flaky.moments, caught.value) == ([0.0, 0.5, 1.0], {"ok": 1})


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


async def moments_of(retry: Retry, patience: float, *lucks: float) -> list[float]:
    """When the attempts of a turn leave that nobody answers, and when it is given up."""
    moments: list[float] = []
    drawn = iter(lucks)
    async with SessionManager().port("p", lambda _: moments.append(trio.current_time())) as port:
        port._engine.luck = lambda: next(drawn)
        with pytest.raises(SessionTimeoutError):
            await port.request({}, timeout=patience, retry=retry)
    return [*moments, trio.current_time()]


async def test_growing_waits_leave_at_their_exact_moments(autojump_clock: MockClock) -> None:
    assert await moments_of(Retry(4, 1, backoff=2, max_interval=3), 0.5) == [0.0, 1.5, 4.0, 7.5, 11.0, 11.5]


async def test_a_random_share_of_the_wait_is_drawn_from_the_port(autojump_clock: MockClock) -> None:
    assert await moments_of(Retry(2, 2, jitter=0.5), 1.0, 0.0, 0.75) == [0.0, 3.0, 6.75, 7.75]


async def test_the_nearest_retry_wins_and_the_short_forms_change_it(autojump_clock: MockClock) -> None:
    manager = SessionManager(retry=Retry(1, 1), retry_count=2)
    async with manager.port("p", Wire()) as one, manager.port("q", Wire(), retry=Retry(3, 4, budget=1)) as other:
        assert one._engine.patience.retry == Retry(2, 1)
        assert other._engine.patience.retry == Retry(3, 4, budget=1)
        assert other.create(retry_interval=9)._live.patience.retry == Retry(3, 9, budget=1)
        assert one.create(retry=Retry(5, jitter=1))._live.patience.retry == Retry(5, jitter=1)
        assert one.create(retry=Retry(5, jitter=1), retry_count=0)._live.patience.retry == Retry(0, jitter=1)
        async with one.session(retry=Retry(1, 7)) as session:
            with pytest.raises(SessionTimeoutError):
                await session.send({}, timeout=1)
            assert trio.current_time() == 9.0
            with pytest.raises(SessionTimeoutError):
                await session.send({}, timeout=1, retry=Retry(1, 1))
            assert trio.current_time() == 12.0
    async with manager.port("p", Wire(), retry_interval=5) as port:
        assert port._engine.patience.retry == Retry(2, 5)


async def test_what_is_no_retry_is_refused_before_anything_is_sent() -> None:
    wire = Wire()
    wrong: Any = 3
    async with SessionManager().port("p", wire) as port, port.session() as session:
        for use in (session.send, port.request):
            with pytest.raises(TypeError, match="retry must be a Retry"):
                await use({}, retry=wrong)
        with pytest.raises(TypeError, match="retry must be a Retry"):
            port.create(retry=wrong)
    with pytest.raises(TypeError, match="retry must be a Retry"):
        SessionManager(retry=wrong)
    assert wire.sent == []


async def test_a_dead_peer_gets_no_more_retries_than_the_budget_pays(autojump_clock: MockClock) -> None:
    wire, turns, budget = Wire(), 1000, 0.1
    async with SessionManager(wire, retry=Retry(3, 1, budget=budget)).port("p") as port:
        async with trio.open_nursery() as nursery:
            for _ in range(turns):
                nursery.start_soon(Caught().run, port.request, {})
                await trio.sleep(0.25)
        counted = port.statistics()
        assert (counted.timed_out, counted.unpaid) == (turns, 3 * turns - (len(wire.sent) - turns))
        assert turns + RETRY_TOKENS <= len(wire.sent) <= turns * (1 + budget) + RETRY_TOKENS
        assert trio.current_time() == 249.75 + 4 * 60 + 3 * 1


async def test_a_turn_whose_retry_is_not_paid_for_still_gets_a_late_reply(autojump_clock: MockClock) -> None:
    wire = Wire()
    async with SessionManager(wire).port("p") as port, trio.open_nursery() as nursery:
        port._engine.bucket.millionths = 0
        caught = Caught()
        retry = Retry(2, 0.5, budget=0)
        nursery.start_soon(lambda: caught.run(lambda: port.request({}, timeout=1, retry=retry)))
        await trio.sleep(3.75)
        port.dispatch({"sid": 1, "ok": 1})
        await settle()
        assert (caught.value, len(wire.sent), port.statistics().unpaid) == ({"ok": 1}, 1, 2)


async def test_a_turn_whose_retries_are_not_paid_for_ends_when_it_would_have(autojump_clock: MockClock) -> None:
    wire = Wire()
    async with SessionManager(wire).port("p") as port:
        port._engine.bucket.millionths = 0
        with pytest.raises(SessionTimeoutError) as caught:
            await port.request({}, timeout=1, retry=Retry(2, 0.5, budget=0.5))
        assert (caught.value.attempts, trio.current_time(), len(wire.sent)) == (1, 4.0, 1)


async def test_a_later_retry_is_made_when_other_turns_have_paid_meanwhile(autojump_clock: MockClock) -> None:
    wire = Wire()
    async with SessionManager(wire).port("p") as port, trio.open_nursery() as nursery:
        port._engine.bucket.millionths = 0
        nursery.start_soon(lambda: Caught().run(lambda: port.request({}, timeout=1, retry=Retry(2, 0, budget=0))))
        await trio.sleep(1.5)
        nursery.start_soon(lambda: Caught().run(lambda: port.request({}, timeout=9, retry=Retry(0, budget=1))))
        await trio.sleep(0.75)
        assert [message["sid"] for message in wire.sent] == [1, 2, 1]


async def test_turns_without_a_budget_neither_fill_the_bucket_nor_empty_it(autojump_clock: MockClock) -> None:
    wire = Wire()
    async with SessionManager(wire).port("p") as port:
        for tokens in (0, 3):
            port._engine.bucket.millionths = tokens * MILLIONTH
            with pytest.raises(SessionTimeoutError):
                await port.request({}, timeout=1, retry=Retry(20, 0))
            assert port._engine.bucket.millionths == tokens * MILLIONTH
        assert (len(wire.sent), port.statistics().unpaid) == (42, 0)


async def test_a_senders_error_is_raised_when_the_retry_on_it_cannot_be_paid(autojump_clock: MockClock) -> None:
    flaky = Flaky(9, ConnectionError)
    async with SessionManager(flaky).port("p") as port:
        port._engine.bucket.millionths = MILLIONTH
        with pytest.raises(ConnectionError):
            await port.request({}, retry=Retry(5, 2, budget=0), retry_on=(OSError,))
        assert (flaky.moments, trio.current_time(), port.statistics().unpaid) == ([0.0, 2.0], 4.0, 1)


async def test_a_retry_whose_last_message_is_still_in_the_queue_costs_nothing(autojump_clock: MockClock) -> None:
    async def stuck(_: object) -> None:
        await trio.sleep_forever()

    async with SessionManager(stuck, grace=0).port("p") as port, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: Caught().run(lambda: port.request({}, timeout=1)))
        await trio.sleep(0.5)  # the writer is in the sender with this one
        with pytest.raises(SessionTimeoutError):
            await port.request({}, timeout=1, retry=Retry(3, 0, budget=0))
        assert (port._engine.bucket.millionths, port.statistics().unpaid) == (RETRY_TOKENS * MILLIONTH, 0)


async def test_a_retry_that_the_peer_postponed_is_paid_for_once(autojump_clock: MockClock) -> None:
    async def slow(session: Session) -> None:
        async for message in session:
            await trio.sleep(9.5)
            await session.post(message)

    here, there = memory_pair()
    asking = SessionManager(dialect=Exact(), session_timeout=1, retry=Retry(20, 0, budget=0))
    async with SessionManager().port("b", there, on_session=slow) as answerer, asking.port("a", here) as port:
        await port.request({"q": 1})
        sent = port.statistics().sent
        assert answerer.statistics().repeated == sent - 1 > 0
        assert port._engine.bucket.millionths == (RETRY_TOKENS - (sent - 1)) * MILLIONTH
        assert sent < 6  # without being postponed it would have been one each second
        assert trio.current_time() == 9.5
