"""The inspector: what it samples and leaves out, what it hides, who gets in, why a turn waits, and the command."""

from __future__ import annotations

import re
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

from psession import Port, SessionCancelError, SessionManager, inspector
from psession._cli import watch
from psession._cli._address import Address
from psession._cli._problem import Exit, Problem
from psession.channels import HandshakeError, memory_pair, open_websocket, serve_websocket
from psession.hooks import MessageDropped, Turn, TurnAnswered, TurnFailed, TurnStarted, Waiting
from psession.inspector._look import MAX_PORTS, MAX_WAITING, Looker, why
from psession.inspector._record import MAX_DROPS, MAX_FOLLOWED, MAX_ROWS, SECONDS, TURNS_A_SECOND, Record
from psession.inspector._redaction import MAX_CHARS, redact_secrets, shown, without_secrets

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

TOKEN = "a token of the test"


# -- redaction ---------------------------------------------------------------------------------------------------------


@dataclass
class Login:
    name: str
    api_key: str


class Card(msgspec.Struct):
    name: str
    secret: bytes


@pytest.mark.parametrize("name", ["password", "userPassword", "API-Key", "api_key", "Authorization", "access_token"])
def test_fields_called_like_a_secret_are_hidden_wherever_they_stand(name: str) -> None:
    assert "hunter2" not in shown({"a": [{name: {"deep": "hunter2"}}], name: "hunter2"}, redact_secrets)


@pytest.mark.parametrize("payload", [Login("ann", "hunter2"), Card("ann", b"hunter2")])
def test_objects_with_fields_are_shown_by_these(payload: Any) -> None:
    text = shown(payload, redact_secrets)
    assert '"name":"ann"' in text
    assert "[redacted]" in text
    assert "hunter2" not in text


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ({"sid": 1, "secret": "hunter2"}, "{'sid': 1, 'secret': '[redacted]'}"),
        ([({"API-Key": b"hunter2"}, 1)], "[[{'API-Key': '[redacted]'}, 1]]"),
        (Login("ann", "hunter2"), "{'name': 'ann', 'api_key': '[redacted]'}"),
        ({1: Card("ann", b"hunter2")}, "{1: {'name': 'ann', 'secret': '[redacted]'}}"),
    ],
)
def test_for_a_repr_secrets_are_hidden_and_the_payload_is_left_as_it_is(payload: Any, text: str) -> None:
    before = repr(payload)
    assert (repr(without_secrets(payload)), repr(payload)) == (text, before)


def test_for_a_repr_what_has_no_secret_is_the_same_object_and_what_holds_itself_comes_to_an_end() -> None:
    for payload in ({"a": [1, (2, {"b": None})]}, [float("nan")], b"x", Speaking(), (1, [])):
        assert without_secrets(payload) is payload
    endless: list[Any] = []
    endless.append(endless)
    assert repr(without_secrets(endless)).strip("[]") == "'<1 items>'"


class Speaking:
    def __repr__(self) -> str:
        return "hunter2"


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ({"n": 1, "on": True, "x": None}, '{"n":1,"on":true,"x":null}'),
        ("plain", '"plain"'),
        (b"hunter2", '"<7 bytes>"'),
        (Speaking(), '"<Speaking>"'),
        (1 << 64, '"<int of 65 bits>"'),
        ({1: 2, (3, 4): 5}, '{"1":2,"<tuple>":5}'),
        (float("nan"), "null"),
    ],
)
def test_a_payload_is_shown_as_json_and_what_has_no_form_there_by_its_kind(payload: Any, text: str) -> None:
    assert shown(payload, redact_secrets) == text


def test_a_payload_of_any_size_is_a_short_line_and_few_of_its_values_are_read() -> None:
    seen = []

    def count(name: str, value: Any) -> Any:
        seen.append(name)
        return value

    deep: Any = 0
    for _ in range(500):
        deep = [deep]
    text = "x" * 10**6
    for payload in ({str(n): text for n in range(1000)}, [list(range(1000))] * 1000, deep):
        seen.clear()
        assert len(shown(payload, count)) <= MAX_CHARS
        assert len(seen) < 70


def test_a_rule_of_ones_own_takes_the_place_of_the_other_and_one_that_raises_hides_the_payload() -> None:
    assert shown({"password": "x", "pin": 1}, lambda name, value: "***" if name == "pin" else value) == (
        '{"password":"x","pin":"***"}'
    )

    def broken(name: str, value: Any) -> Any:
        raise RuntimeError(f"hunter2 {name} {value}")

    assert shown({"a": "hunter2"}, broken) == "[cannot be shown: RuntimeError]"


# -- sampling ----------------------------------------------------------------------------------------------------------


def turn_at(now: float, payload: Any = None) -> Turn:
    return Turn("lamp", "asker", 1, 0, False, payload, now)


def feed(record: Record, now: float, *, fail: bool = False) -> None:
    turn = turn_at(now)
    record(TurnStarted(now, "lamp", turn, {}))
    record(TurnFailed(now, "lamp", turn, "timeout", "sent") if fail else TurnAnswered(now, "lamp", turn, {}))


def test_of_thousands_of_turns_a_second_some_are_followed_and_the_others_counted() -> None:
    record = Record(redact_secrets)
    for n in range(5000):
        feed(record, 7 + n / 5000)
    rows, missed = record.rows(0, None)
    assert [row["kind"] for row in rows] == ["question", "answer"] * TURNS_A_SECOND
    assert {row["turn"] for row in rows} == set(range(1, TURNS_A_SECOND + 1))
    assert (record.left_out, missed) == (5000 - TURNS_A_SECOND, 0)
    (second,) = record.told()["seconds"]
    assert (second["at"], second["started"], second["answered"]) == (7, 5000, 5000)


def test_failures_have_places_of_their_own_in_the_sample() -> None:
    record = Record(redact_secrets)
    for n in range(1000):
        feed(record, 7 + n / 2000)
    feed(record, 7.9, fail=True)
    record(MessageDropped(7.9, "lamp", "late", 3, "why"))
    assert [row["text"] for row in record.rows(0, None)[0][-2:]] == ["timeout, sent: null", "late why"]


def test_the_memory_of_the_record_is_bounded() -> None:
    record = Record(redact_secrets)
    for second in range(SECONDS * 2):
        for _ in range(TURNS_A_SECOND):
            record(TurnStarted(second, "lamp", turn_at(second), {}))
            record(MessageDropped(second, f"lamp {second}", "late", 3))
    told = record.told()
    rows, _ = record.rows(0, None)
    assert (len(rows), len(told["seconds"]), len(told["drops"])) == (MAX_ROWS, SECONDS, MAX_DROPS)
    assert len(record._followed) == MAX_FOLLOWED
    assert told["drops"][0]["port"] == f"lamp {SECONDS * 2 - 1}"


def test_who_looks_too_seldom_is_told_how_many_rows_are_gone() -> None:
    record = Record(redact_secrets)
    for second in range(100):
        for _ in range(20):
            feed(record, second)
    rows, missed = record.rows(100, None)
    assert (len(rows), missed) == (MAX_ROWS, 4000 - MAX_ROWS - 100)
    assert record.rows(4000, None) == ([], 0)
    assert record.rows(0, "another") == ([], 0)


# -- a look ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "silent", "lost", "text"),
    [
        (0, 9.0, None, "it has not left this side"),
        (1, 9.0, None, "asked once, and the peer has said nothing since"),
        (3, 0.5, None, "asked 3 times; the peer last spoke 0.5 s ago"),
        (1, 9.0, ("reset", 1.0), "the port has no link: reset"),
    ],
)
def test_it_says_why_a_turn_waits(sent: int, silent: float, lost: tuple[str, float] | None, text: str) -> None:
    assert why(Waiting(1, 0, {}, 2.0, 3, sent, 5.0), silent, lost).startswith(text)


@asynccontextmanager
async def crowd(count: int, ends: list[str]) -> AsyncIterator[SessionManager]:
    """A manager with so many turns that wait for a deaf peer, one a millisecond."""
    here, _there = memory_pair(10_000)
    manager = SessionManager(session_timeout=600, on_session_overflow="refuse")

    async def ask(port: Port, n: int) -> None:
        try:
            await port.request({"n": n, "password": "hunter2"})
        except SessionCancelError:
            ends.append(f"cancelled {n}")

    async with manager.port("deaf", here) as port, trio.open_nursery() as nursery:
        for n in range(count):
            nursery.start_soon(ask, port, n)
            await trio.sleep(0.001)
        yield manager
        nursery.cancel_scope.cancel()


async def test_of_many_turns_that_wait_the_oldest_are_shown_with_since_when_and_why(autojump_clock: MockClock) -> None:
    async with crowd(MAX_WAITING + 10, []) as manager:
        await trio.sleep(5)
        looker = Looker(manager, redact_secrets)
        seen = looker.answer({"do": "look"})
        assert (seen["waiting_total"], len(seen["waiting"]), seen["waiting_left_out"]) == (
            MAX_WAITING + 10,
            MAX_WAITING,
            10,
        )
        first = seen["waiting"][0]
        assert (first["port"], first["payload"]) == ("deaf", '{"n":0,"password":"[redacted]"}')
        assert first["why"] == "asked once, and the peer has said nothing since"
        assert first["seconds"] == pytest.approx(6.01)
        assert [port["name"] for port in seen["ports"]] == ["deaf"]
        msgspec.json.encode(seen)
        text = "\n".join(watch.lines(seen))
        assert "1010 turns waiting" in text
        assert "deaf: 1010 turns, the oldest in session " in text
        assert 'the peer has said nothing since: {"n":0,"password":"[redacted]"}' in text


async def test_turns_that_wait_long_are_logged_with_how_many_since_when_and_why(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with crowd(1000, []) as manager, trio.open_nursery() as nursery:
        nursery.start_soon(partial(inspector.log_waiting, manager, after=20, every=15))
        await trio.sleep(31)
        nursery.cancel_scope.cancel()
    (record,) = caplog.records
    fields = {name: getattr(record, name) for name in ("event_name", "port", "waiting")}
    assert fields == {"event_name": "turns_waiting", "port": "deaf", "waiting": 1000}
    since = r"since \d\d:\d\d:\d\d \(31\.0 s\)"
    text = rf"port 'deaf': 1000 turns wait for an answer, the oldest \(session 1\) {since}: asked once, and the peer .*"
    assert re.fullmatch(text, record.getMessage())


async def test_of_many_ports_that_wait_some_are_named_and_the_others_counted(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    manager = SessionManager(session_timeout=600)

    async def wait(n: int) -> None:
        here, _there = memory_pair()
        async with manager.port(f"deaf {n}", here) as port:
            await port.request({})

    async with trio.open_nursery() as nursery:
        for n in range(13):
            nursery.start_soon(wait, n)
        nursery.start_soon(partial(inspector.log_waiting, manager, after=5, every=10))
        await trio.sleep(11)
        nursery.cancel_scope.cancel()
    assert len(caplog.records) == 11
    assert caplog.records[-1].getMessage() == "turns wait at 3 more ports"


@pytest.mark.parametrize(("times", "error"), [({"every": 0}, ValueError), ({"after": "5"}, TypeError)])
async def test_times_that_are_none_are_refused(times: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(times))):
        await inspector.log_waiting(SessionManager(), **times)


async def test_a_turn_is_cancelled_once_and_no_other_in_its_place(autojump_clock: MockClock) -> None:
    ends: list[str] = []
    async with crowd(3, ends) as manager:
        looker = Looker(manager, redact_secrets)
        shown_turn = looker.answer({"do": "look"})["waiting"][1]
        named = {name: shown_turn[name] for name in ("port", "number", "started")}
        ask = {"do": "cancel", **named, "session": shown_turn["sid"]}
        assert looker.answer(ask | {"started": ask["started"] + 0.001}) == {"cancelled": False}
        assert looker.answer(ask | {"port": "none"}) == {"cancelled": False}
        await trio.sleep(1)
        assert looker.answer(ask) == {"cancelled": True}
        await trio.sleep(1)
        assert ends == ["cancelled 1"]
        assert looker.answer(ask) == {"cancelled": False}


@pytest.mark.parametrize(
    "question", [None, {}, {"do": "sing"}, {"do": "look", "since": "x"}, {"do": "look", "port": 3}, {"do": "cancel"}]
)
async def test_a_question_that_is_none_is_told_what_is_right(question: Any) -> None:
    assert "ask {" in Looker(SessionManager(), redact_secrets).answer(question)["error"]


async def test_of_more_ports_than_a_look_has_the_rest_is_counted(autojump_clock: MockClock) -> None:
    manager = SessionManager()
    async with trio.open_nursery() as nursery:

        async def hold(name: str) -> None:
            async with manager.port(name, memory_pair()[0]) as port:
                await port.wait_closed()

        for n in range(MAX_PORTS + 5):
            nursery.start_soon(hold, f"port {n}")
        await trio.testing.wait_all_tasks_blocked()
        seen = Looker(manager, redact_secrets).answer({"do": "look"})
        assert (seen["ports_total"], len(seen["ports"]), seen["ports_left_out"]) == (MAX_PORTS + 5, MAX_PORTS, 5)
        nursery.cancel_scope.cancel()


# -- who gets in -------------------------------------------------------------------------------------------------------


async def get(port: int, path: str, headers: str = "") -> str:
    """The whole answer to a request."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{headers}\r\n".encode())
        return b"".join([part async for part in stream]).decode()


async def test_the_page_is_given_to_those_alone_who_have_the_token() -> None:
    with trio.fail_after(20):
        async with inspector.serve(SessionManager(), token=TOKEN) as page:
            path = page.url.removeprefix(f"http://127.0.0.1:{page.port}")
            answer = await get(page.port, path)
            assert answer.startswith("HTTP/1.1 200 ")
            assert "<title>psession watch</title>" in answer
            assert "script-src 'sha256-" in answer
            assert "Referrer-Policy: no-referrer" in answer
            for wrong in ("/", "/?token=", "/?token=a+token", "/?token=%C3%A9", "/?x=1"):
                assert (await get(page.port, wrong)).startswith("HTTP/1.1 403 ")
            assert (await get(page.port, path.replace("/", "/other", 1))).startswith("HTTP/1.1 404 ")


async def test_a_page_from_somewhere_else_may_not_watch_and_a_program_may() -> None:
    with trio.fail_after(20):
        async with inspector.serve(SessionManager(), token=TOKEN) as page:
            url = page.url.replace("http", "ws", 1)
            for origin in ("http://evil.example", f"https://127.0.0.1:{page.port}", "null"):
                with pytest.raises(HandshakeError, match="somewhere else"):
                    await enter(open_websocket(url, headers=[("Origin", origin)]))
            with pytest.raises(HandshakeError, match="token"):
                await enter(open_websocket(url[:-1]))
            await enter(open_websocket(url, headers=[("Origin", f"http://127.0.0.1:{page.port}")]))
            await enter(open_websocket(url))


async def enter(opening: Any) -> None:
    async with opening:
        pass


async def test_a_short_token_is_refused_and_one_that_is_made_is_long_and_new() -> None:
    with pytest.raises(ValueError, match="16 characters or more"):
        await enter(inspector.serve(SessionManager(), token="short"))
    async with inspector.serve(SessionManager()) as one, inspector.serve(SessionManager()) as another:
        assert len(one.token) >= 16
        assert one.token != another.token
        assert one.token not in repr(one)


async def test_it_listens_on_loopback_and_who_watches_does_not_show() -> None:
    manager = SessionManager()
    with trio.fail_after(20):
        async with inspector.serve(manager) as page:
            assert page.url.startswith(f"http://127.0.0.1:{page.port}/?token=")
            async with (
                open_websocket(page.url.replace("http", "ws", 1)) as channel,
                SessionManager().port("viewer", channel) as viewer,
            ):
                seen = await viewer.request({"do": "look"})
                assert (seen["ports_total"], seen["rows"], seen["seconds"]) == (0, [], [])
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", page.port), 1)


async def test_leaving_the_block_ends_the_listening_to_the_manager() -> None:
    manager = SessionManager()
    async with inspector.serve(manager):
        pass
    here, there = memory_pair()
    async with manager.port("a", here), manager.port("b", there, on_request=lambda question: question) as _:
        assert await manager.ports["a"].request({"n": 1}) == {"n": 1}


# -- the command -------------------------------------------------------------------------------------------------------


def address_of(url: str) -> Address:
    return Address.parse(url.replace("http", "ws", 1))


async def test_the_terminal_shows_a_look(capsys: pytest.CaptureFixture[str]) -> None:
    with trio.fail_after(20):
        async with crowd(20, []) as manager, inspector.serve(manager) as page:
            assert await watch.run(address_of(page.url), every=1, once=True) == Exit.OK
    said = capsys.readouterr().out
    assert "1 ports, 20 turns waiting" in said
    assert "ports whose turns wait, the oldest first (20 turns): 1" in said
    assert "hunter2" not in said


def look(turns: dict[str, int], now: float = 100.0) -> dict[str, Any]:
    """What a program answers to a look, with so many turns that wait at each port."""
    port = {"label": "", "state": "open", "why": "", "sessions": 1, "silent": None}
    waiting = {"label": "", "payload": "{}" * 60, "why": "asked once, and the peer has said nothing since"}
    of_port = [
        {"port": name, "sid": n, "started": now - 50 + n, **waiting} for name in turns for n in range(turns[name])
    ]
    return {
        "now": now,
        "wall": 0.0,
        "seconds": [],
        "ports": [{"name": name, "waiting": count, **port} for name, count in turns.items()],
        "ports_total": len(turns),
        "waiting": sorted(of_port, key=lambda turn: turn["started"]),
        "waiting_total": sum(turns.values()),
        "drops": [],
        "closed": [],
    }


def test_turns_that_wait_are_one_row_a_port_with_its_count_and_its_oldest() -> None:
    shown = list(watch.lines(look({"deaf": 50, "lamp": 1})))
    start = shown.index("ports whose turns wait, the oldest first (51 turns): 2")
    deaf, lamp = shown[start + 1 : start + 3]
    assert re.match(r"  deaf: 50 turns, the oldest in session 0 since \d\d:\d\d:\d\d \(50\.0 s\), asked once", deaf)
    assert re.match(r"  lamp, session 0: since \d\d:\d\d:\d\d \(50\.0 s\), asked once", lamp)


@pytest.mark.parametrize(("columns", "rows"), [(80, 29), (60, 23), (40, 7), (20, 3)])
def test_a_look_fits_the_terminal(columns: int, rows: int) -> None:
    seen = look({f"device {n}" + "\N{CJK UNIFIED IDEOGRAPH-71C8}" * 30: 3 for n in range(40)})
    shown = watch.fitting(seen, columns, rows)
    assert len(shown) <= rows
    assert max(len(line) + line.count("\N{CJK UNIFIED IDEOGRAPH-71C8}") for line in shown) <= columns
    assert "40 ports, 120 turns waiting"[: columns - 13] in shown[0]
    assert any("..." in line for line in shown)
    whole = watch.fitting(seen)
    assert (len(whole), len([line for line in whole if line.startswith("  device")])) == (26, 20)


async def test_columns_are_kept_where_the_environment_says_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(20):
        async with crowd(20, []) as manager, inspector.serve(manager) as page:
            for columns in ("60", ""):
                monkeypatch.setenv("COLUMNS", columns)
                await watch.run(address_of(page.url), every=1, once=True)
                longest = max(map(len, capsys.readouterr().out.splitlines()))
                assert longest == 60 if columns else longest > 80


async def test_the_page_can_be_served_elsewhere_with_a_token_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with trio.fail_after(20):
        async with crowd(2, []) as manager, inspector.serve(manager) as page, trio.open_nursery() as nursery:
            nursery.start_soon(watch.serve, address_of(page.url), "127.0.0.1", 0)
            while not (url := capsys.readouterr().out.strip()):  # noqa: ASYNC110 - what is printed sets no event
                await trio.sleep(0.01)
            assert page.token not in url
            assert await watch.run(address_of(url), every=1, once=True) == Exit.OK
            nursery.cancel_scope.cancel()
    assert "2 turns waiting" in capsys.readouterr().out


async def test_a_wrong_token_and_a_program_that_is_gone_are_told_without_the_token() -> None:
    with trio.fail_after(20):
        async with inspector.serve(SessionManager(), token=TOKEN) as page:
            address = address_of(page.url)
            wrong = address_of(page.url.replace("token=", "token=x"))
            with pytest.raises(Problem, match="it wants its token; give the whole URL") as caught:
                await watch.run(wrong, every=1, once=True)
        assert caught.value.code == Exit.CONNECTION
        with pytest.raises(Problem, match=r"cannot connect to 127\.0\.0\.1 port") as caught:
            await watch.run(address, every=1, once=True)
        assert TOKEN.replace(" ", "%20") not in str(caught.value)


@pytest.mark.parametrize(
    ("deed", "why"),
    [
        ("closes", "the peer closed the channel"),
        ("echoes", "what answers there is something else"),
        ("is deaf", "no reply"),
    ],
)
async def test_a_server_that_is_no_inspector_is_told_to_be_none(
    deed: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handle(channel: Any) -> None:
        async for message in channel:
            if deed == "closes":
                return
            if deed == "echoes":
                await channel.send(message)

    monkeypatch.setattr(watch, "WITHIN", 0.2)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve_websocket, handle, "127.0.0.1", 0)
            for run in (
                partial(watch.run, every=1, once=True),
                lambda address: watch.serve(address, "127.0.0.1", 0),
            ):
                with pytest.raises(
                    Problem, match=rf"^no inspector at 127\.0\.0\.1 port {server.port}: {why}"
                ) as caught:
                    await run(Address.parse(f"ws://127.0.0.1:{server.port}"))
                assert caught.value.code == Exit.CONNECTION
            nursery.cancel_scope.cancel()


async def test_a_program_that_ends_ends_the_watching() -> None:
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            failures: list[Problem] = []

            async def look(run: Any) -> None:
                try:
                    await run()
                except Problem as problem:
                    failures.append(problem)

            async with inspector.serve(SessionManager()) as page:
                nursery.start_soon(look, partial(watch.run, address_of(page.url), every=0.05, once=False))
                nursery.start_soon(look, partial(watch.serve, address_of(page.url), "127.0.0.1", 0))
                await trio.sleep(0.3)
        assert [failure.code for failure in failures] == [Exit.CONNECTION] * 2
