"""`psession demo`, and the console that all commands write to."""

import io
import signal
import sys
import time
from typing import Any

import pytest
import trio

from psession._cli import _scenes, demo, main
from psession._cli._console import in_colour, one_line, say
from psession._cli._problem import Exit
from psession._cli._transcript import WIDTH, Transcript

from .commands import finish, start

Captured = pytest.CaptureFixture[str]
Played = tuple[int, str, str, float]


@pytest.fixture(scope="module")
def played() -> Played:
    """Exit status, output, complaints and seconds of one demo."""
    process = start("demo")
    before = time.monotonic()
    return *finish(process), time.monotonic() - before


def test_the_demo_succeeds_in_time(played: Played) -> None:
    code, _, err, took = played
    assert (code, err) == (0, "")
    assert took < 10


def test_the_demo_is_plain_text_of_short_lines_where_no_terminal_is(played: Played) -> None:
    _, out, _, _ = played
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= WIDTH


@pytest.mark.parametrize(
    "shown",
    [
        '←── lamp         #1   {"status": "needPassword"}',
        '──→ lamp         #1   {"password": "123456"}',
        "✓ one turn, 2 attempts",
        "SessionTimeoutError after 0.4",
        '←── oven         #1   {"celsius": 60}   too late: dropped',
        '←── oven         #2   {"celsius": 180}',
        "PortClosedError after 0.",
        "✓ 40 of 40 answers reached their own question",
        '←── doorbell #65536   {"event": "ring"}',
        "✓ left behind: 0 sessions, 0 tasks",
    ],
)
def test_the_demo_shows_each_of_its_scenes(shown: str, played: Played) -> None:
    assert shown in played[1]
    assert "✗" not in played[1]


def test_ctrl_c_in_the_demo_is_status_130() -> None:
    process = start("demo")
    assert process.stdout is not None
    assert any("turnOnLight" in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert (code, err) == (130, "")


def test_a_reader_that_leaves_ends_the_demo_quietly() -> None:
    process = start("demo")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    code, _, err = finish(process)
    assert (code, err) == (Exit.FAILED, "")


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A demo whose scenes are empty and follow at once."""

    async def nothing(*_: object, **__: object) -> None:
        pass

    for scene in ("dialogue", "retry", "timeout", "vanishing", "concurrency", "ringing"):
        monkeypatch.setattr(_scenes, scene, nothing)
    monkeypatch.setattr(demo, "PAUSE", 0)
    return monkeypatch


def test_a_demo_that_shows_something_else_says_so_and_fails(hurried: pytest.MonkeyPatch, capsys: Captured) -> None:
    async def broken(centre: Any) -> None:
        async with centre.port("lamp").session() as session:
            await session.send({"command": "explode"}, timeout=0)

    hurried.setattr(_scenes, "dialogue", broken)
    assert main(["demo"]) == Exit.FAILED
    assert "✗ SessionTimeoutError: " in capsys.readouterr().out


def test_a_demo_that_hangs_is_given_up(hurried: pytest.MonkeyPatch, capsys: Captured) -> None:
    async def endless(_: Any) -> None:
        await trio.sleep_forever()

    hurried.setattr(_scenes, "retry", endless)
    hurried.setattr(demo, "LONGEST", 0.3)
    assert main(["demo"]) == Exit.FAILED
    assert capsys.readouterr().err == "psession: the demo did not come to its end in 0.3 s\n"


def test_nothing_a_peer_says_reaches_the_terminal_as_more_than_text() -> None:
    assert one_line("a\n\x1b[31mü") == r"a\n\x1b[31mü"


@pytest.mark.parametrize(
    ("terminal", "environment", "coloured"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colour_is_for_terminals_that_want_it(
    terminal: bool, environment: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in ({"TERM": "xterm"} | environment).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout", io.StringIO())
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert in_colour() is coloured


async def test_the_transcript_makes_do_with_the_characters_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(output, encoding="ascii"))
    Transcript(trio.CancelScope()).message("lamp", {"sid": 1, "text": "grün" * 40}, out=True)
    say("ü")
    first, second = output.getvalue().decode().splitlines()
    assert first.startswith("   0.00 s  centre --> lamp         #1   {")
    assert first.endswith("~")
    assert second == r"\xfc"
