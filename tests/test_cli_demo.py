"""`psession demo`, and the console that all commands write to."""

import io
import re
import signal
import sys
import time
from typing import Any

import pytest
import trio

from psession._cli import _scenes, demo, main
from psession._cli._console import in_colour, one_line, say
from psession._cli._problem import Exit
from psession._cli._transcript import LEAST, WIDTH, Transcript

from .commands import finish, start

Captured = pytest.CaptureFixture[str]
Played = tuple[int, str, str, float]


@pytest.fixture(scope="module")
def both() -> tuple[Played, Played]:
    """Exit status, output, complaints and seconds of a demo, and of one in fifty columns: at once, since each waits."""
    before = time.monotonic()
    wide = start("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "50")
        narrow = start("demo")
    try:
        return (*finish(wide), time.monotonic() - before), (*finish(narrow), time.monotonic() - before)
    finally:
        narrow.kill()


@pytest.fixture(scope="module")
def played(both: tuple[Played, Played]) -> Played:
    """The demo."""
    return both[0]


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


def test_the_demo_says_all_of_it_in_fifty_columns(both: tuple[Played, Played]) -> None:
    code, out, err, _ = both[1]
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 50
    assert "…" not in re.sub(r"#\d+ …|#1…#40", "", out)  # nothing is cut
    for line in (
        ' ←── lamp#1 {"status": "needPassword"}',
        "  turns answered     45",
        "  psession echo ws://127.0.0.1:8080",
    ):
        assert f"{line}\n" in out
    words = out.split()
    for text in (
        "a control centre and its devices on ws://127.0.0.1:",
        "too late: dropped",
        "✓ left behind: 0 sessions, 0 tasks",
    ):
        assert text in " ".join(words)


@pytest.mark.parametrize("columns", [1, 40, 50, 79])
async def test_a_line_of_a_narrow_terminal_is_wrapped_wherever_it_is_full(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    show = Transcript(trio.CancelScope())
    for used in range(90):
        show.line("x" * min(used, max(columns, LEAST)), ("  and some more words", "dim"), f" {'y' * used}")
        out = capsys.readouterr().out
        assert max(map(len, out.splitlines())) <= max(columns, LEAST)
        assert out.count("y") == used
        assert " and some more words " in f" {' '.join(out.split())} "


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
