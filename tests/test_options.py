"""Options: the nearest wins, a bad value is refused by name, a default is what the guide says."""

from __future__ import annotations

import math
from typing import Any

import pytest

from psession import Classic, Exact, PortOptions, Retry, SessionManager
from psession.options import Options
from psession.protocol.retry import Patience
from psession.testing import port_pair

from .peers import Wire

DURATIONS = ["session_timeout", "session_max_life", "retry_interval", "session_id_rest", "grace"]
SIZES = ["max_session_count", "max_incoming_sessions", "inbox_limit", "max_queued_bytes"]

BAD = [
    *[(name, value, ValueError) for name in DURATIONS for value in (-1, -0.001, math.nan, -math.inf)],
    *[(name, value, TypeError) for name in DURATIONS for value in (True, "1", [1], 1j)],
    *[(name, value, ValueError) for name in SIZES for value in (0, -1)],
    *[(name, value, TypeError) for name in SIZES for value in (True, 1.0, "1", math.inf, math.nan)],
    *[("retry", value, TypeError) for value in (3, (3, 0.5), {"count": 3}, Retry)],
    ("retry_count", -1, ValueError),
    *[("retry_count", value, TypeError) for value in (True, 1.5, "1", math.nan)],
    ("session_ids", range(0), ValueError),
    ("session_ids", range(5, 5), ValueError),
    ("session_ids", range(0, 5), ValueError),
    ("session_ids", range(5, -1, -1), ValueError),
    *[("session_ids", value, TypeError) for value in ([1, 2], (1, 65535), 65535, {1, 2}, "1-5")],
    ("session_id_name", "", ValueError),
    *[("session_id_name", value, TypeError) for value in (5, b"sid", ["sid"])],
    *[("on_session_overflow", value, ValueError) for value in ("drop", "", 5, ["recycle"])],
    *[("on_unanswered", value, ValueError) for value in ("drop", "", 5, ["fresh"], len)],
    *[
        ("retry_on", value, TypeError)
        for value in (OSError, [OSError], (OSError, "x"), (BaseException,), (KeyError(),))
    ],
    *[("on_session", value, TypeError) for value in (5, "handle", [print])],
    *[("on_message", value, TypeError) for value in (5, "handle", [print])],
    *[("dialect", value, TypeError) for value in ("sid", Exact, 5)],
    *[(name, value, TypeError) for name in ("strict", "busy_wait") for value in (1, "yes", [])],
]


@pytest.mark.parametrize(("name", "value", "error"), BAD)
def test_a_bad_value_is_refused_by_name_on_the_manager_and_on_the_port(
    name: str, value: object, error: type[Exception]
) -> None:
    options: Any = {name: value}
    with pytest.raises(error, match=name):
        SessionManager(**options)
    manager = SessionManager(Wire())
    with pytest.raises(error, match=name):
        manager.port("p", **options)
    assert dict(manager.ports) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in DURATIONS for value in (0, 0.0, 1, 0.5, math.inf)],
        *[(name, value) for name in SIZES for value in (1, 10**6)],
        ("retry", Retry(3, 0.5)),
        *[("retry_count", value) for value in (0, 1, math.inf)],
        *[("session_ids", value) for value in (range(1, 2), range(2, 100, 2), range(9, 0, -1), range(1, 2**64))],
        *[("on_session_overflow", value) for value in ("recycle", "refuse", "wait", max)],
        *[("on_unanswered", value) for value in ("fresh", "keep", "end")],
        *[("retry_on", value) for value in ((), (OSError,), (Exception,))],
        ("dialect", Classic("id")),
        ("strict", True),
        ("busy_wait", False),
    ],
)
async def test_a_good_value_is_taken(name: str, value: object) -> None:
    options: Any = {name: value}
    async with SessionManager(Wire(), **options).port("p") as port:
        assert getattr(port._engine.options, name) == value
        if name != "max_session_count":
            assert port.create().sid > 0


@pytest.mark.parametrize("name", ["sessionTimeout", "timeout", "sid", "retries", "sender"])
def test_an_option_that_does_not_exist_is_named_with_those_that_do(name: str) -> None:
    options: Any = {name: 1}
    manager = SessionManager(Wire())
    for use in (lambda: manager.port("p", **options), lambda: Options().override(options)):
        with pytest.raises(TypeError, match=rf"(?s){name}.*session_timeout"):
            use()


def test_every_option_is_in_both_the_table_and_its_type() -> None:
    assert set(PortOptions.__annotations__) == set(Options.__dataclass_fields__)


async def test_none_leaves_the_managers_value_and_zero_overrides_it() -> None:
    manager = SessionManager(Wire(), session_timeout=5, retry_count=2, retry_interval=3)
    async with manager.port("p", session_timeout=None, retry_count=0, retry_interval=0) as port:
        assert port._engine.patience == Patience.of(5, Retry(0, 0))


def test_the_defaults_are_those_of_the_guide() -> None:
    options = Options()
    assert (options.session_timeout, options.session_max_life, options.session_id_name) == (60, 600, "sid")
    assert (options.max_session_count, options.on_session_overflow) == (65535, "recycle")
    assert options.own_ids == range(1, 65536)


@pytest.mark.parametrize("sender", [5, "ws://", [], object()])
def test_a_sender_that_cannot_be_called_is_refused(sender: Any) -> None:
    with pytest.raises(TypeError, match="sender"):
        SessionManager(sender)


@pytest.mark.parametrize("name", [5, None, b"p", ["p"]])
def test_a_port_name_that_is_no_text_is_refused(name: Any) -> None:
    with pytest.raises(TypeError, match="name"):
        SessionManager(Wire()).port(name)


def test_a_field_name_that_contradicts_the_dialect_is_refused() -> None:
    with pytest.raises(ValueError, match="session_id_name"):
        SessionManager(dialect=Classic("id"), session_id_name="number")
    SessionManager(dialect=Classic("id"), session_id_name="id")


def test_the_smallest_session_count_bounds_the_numbers_too() -> None:
    assert Options(max_session_count=3).own_ids == range(1, 4)
    assert Options(max_session_count=3, session_ids=range(10, 20)).own_ids == range(10, 20)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"session_timout": 5}, "session_timout; did you mean session_timeout?"),
        ({"on_reqest": print}, "on_reqest; did you mean on_request?"),
        ({"dept": 1, "grase": 1}, "dept, grase; there are budget, busy_wait, "),
    ],
)
def test_an_option_that_does_not_exist_is_refused_with_the_one_that_was_meant(given: Any, meant: str) -> None:
    with pytest.raises(TypeError) as caught:
        SessionManager(**given)
    assert str(caught.value).startswith(f"no such option: {meant}")


async def test_so_are_those_of_a_pair_of_ports_and_of_a_stream() -> None:
    with pytest.raises(TypeError, match=r"^no such option: dorp; did you mean drop\?$"):
        async with port_pair(dorp=0.2):  # type: ignore[call-arg]
            pass
    async with port_pair(dialect=Exact()) as (near, _, _):
        with pytest.raises(TypeError, match=r"^a stream has no such option: cuont; did you mean count\?$"):
            near.stream({}, cuont=3)  # type: ignore[call-overload]
