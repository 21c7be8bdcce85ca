"""What a bad network did can be read: in a terminal, and on a page."""

import inspect
import textwrap
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from psession.channels import memory_pair
from psession.testing import Moment, NetworkEvent, lossy, sequence_diagram


def event(
    number: int, direction: Any = "send", *, message: Any = "hello", arrives: Any = (), **what: Any
) -> NetworkEvent:
    arrived = [Moment(time, order) for time, order in arrives]
    return NetworkEvent(number, direction, message, arrived=arrived, **what)


LOG = [
    event(1, time=10.0, order=1, dropped=True),
    event(2, time=11.0, order=2, arrives=[(11.0, 3)]),
    event(1, "receive", message="hi", time=11.0, order=4, delayed_by=0.25, arrives=[(11.25, 5)]),
    event(3, time=11.5, order=6, duplicated=True, again_delayed_by=0.5, arrives=[(11.5, 7), (12.0, 8)]),
    event(4, time=12.0, order=9, reordered=2, arrives=[(12.0, 13)]),
    event(5, time=12.0, order=11, arrives=[(12.0, 12)]),
    event(2, "receive", time=12.5, order=14, dropped=True),
    event(3, "receive", time=12.5, order=15, arrives=[(12.5, 16)]),
    event(6, time=12.5, order=17, delayed_by=4.0),
    event(7, time=13.0, order=18, disconnected=True),
]


def test_the_text_shows_what_happened_to_each_message() -> None:
    assert sequence_diagram(LOG, left="client", right="server", label=str) == TEXT


TEXT = """\
 time  client           server
0.000  |-- #1 hello --x |  lost
1.000  |-- #2 hello --->|
1.000  |    ~-- #1 hi --|  delayed by 0.250 s
1.250  |<-- #1 hi --~   |  0.250 s later
1.500  |-- #3 hello --->|  sent twice
2.000  |~-- #3 hello -->|  again, 0.500 s later
2.000  |-- #4 hello --~ |  lets 2 go ahead
2.000  |-- #5 hello --->|
2.000  |~-- #4 hello -->|  overtaken
2.500  | x-- #2 hello --|  lost
2.500  |<--- #3 hello --|
2.500  |-- #6 hello --~ |  delayed by 4.000 s, not arrived
3.000  |-- #7 hello --# |  the link breaks"""


@pytest.mark.parametrize(("takes", "lines"), [(0.0, 1), (0.0004, 1), (0.0006, 2)])
def test_what_takes_less_than_is_shown_arrives_at_once(takes: float, lines: int) -> None:
    """By a real clock each message takes some microseconds, and a line that says 0.000 s later says nothing."""
    drawn = sequence_diagram([event(1, time=5.0, order=1, arrives=[(5.0 + takes, 2)])])
    assert len(drawn.splitlines()) == 1 + lines
    assert ("later" in drawn) is (lines == 2)


def test_the_example_in_the_documentation_is_what_it_draws() -> None:
    question, answer = {"sid": 1, "q": 1}, {"sid": 1, "a": 1}
    log = [
        event(1, message=question, time=0.0, order=1, dropped=True),
        event(2, message=question, time=1.0, order=2, arrives=[(1.0, 3)]),
        event(1, "receive", message=answer, time=1.0, order=4, delayed_by=0.25, arrives=[(1.25, 5)]),
    ]
    assert textwrap.indent(sequence_diagram(log), "    ") in (inspect.getdoc(sequence_diagram) or "")


def test_mermaid_shows_the_same() -> None:
    assert sequence_diagram(LOG, format="mermaid", label=str) == MERMAID


MERMAID = """\
sequenceDiagram
    participant L as here
    participant R as there
    L--xR: 0.000 #35;1 hello (lost)
    L->>R: 1.000 #35;2 hello
    Note over R: 1.000 #35;1 hi (delayed by 0.250 s)
    R-->>L: 1.250 #35;1 hi (0.250 s later)
    L->>R: 1.500 #35;3 hello (sent twice)
    L-->>R: 2.000 #35;3 hello (again, 0.500 s later)
    Note over L: 2.000 #35;4 hello (lets 2 go ahead)
    L->>R: 2.000 #35;5 hello
    L-->>R: 2.000 #35;4 hello (overtaken)
    R--xL: 2.500 #35;2 hello (lost)
    R->>L: 2.500 #35;3 hello
    Note over L: 2.500 #35;6 hello (delayed by 4.000 s, not arrived)
    L-xR: 3.000 #35;7 hello (the link breaks)
    Note over L,R: the link is broken"""


def test_the_start_may_be_any_moment() -> None:
    assert sequence_diagram(LOG[:1], start=0.0).splitlines()[1].startswith("10.000  |")


def test_an_empty_log_is_an_empty_diagram() -> None:
    assert sequence_diagram([]) == "time  here     there"
    assert sequence_diagram([], format="mermaid").count("\n") == 2


def test_a_long_message_is_cut_off() -> None:
    (line,) = sequence_diagram(
        [event(1, message="x" * 1_000_000, dropped=True)], label=str, label_width=5
    ).splitlines()[1:]
    assert line == "0.000  |-- #1 xxxx… --x |  lost"


def test_what_cannot_be_printed_is_escaped() -> None:
    text = sequence_diagram([event(1, message="a\nb\x1b[2J\u2028")], label=str, left="l\n")
    assert "a\\nb\\x1b[2J\\u2028" in text
    assert len(text.splitlines()) == 2


def test_wide_characters_keep_the_columns_aligned() -> None:
    wide, plain = sequence_diagram(
        [event(1, message="漢字", arrives=[(0, 0)]), event(2, message="abcd", arrives=[(0, 0)])], label=str
    ).splitlines()[1:]
    assert wide.index(">|") + 2 == plain.index(">|")


@given(st.text(), st.integers(1, 70))
def test_every_line_of_the_text_is_one_line(message: str, width: int) -> None:
    text = sequence_diagram([event(1, message=message, dropped=True)], label=str, label_width=width)
    assert len(text.splitlines()) == 2


@given(st.text())
def test_nothing_in_a_message_is_mermaids(message: str) -> None:
    source = sequence_diagram([event(1, message=message, dropped=True)], format="mermaid", label=str, label_width=999)
    (line,) = source.splitlines()[3:]
    text = line.removeprefix("    L--xR: 0.000 ").removesuffix(" (lost)")
    assert not set(text) & set("%<>&$\\`")
    assert "style" not in text
    assert "classDef" not in text
    assert text.count("#") == text.count(";") >= 1


@pytest.mark.parametrize("wrong", [{"format": "svg"}, {"label_width": 0}])
def test_what_cannot_be_drawn_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        sequence_diagram([], **wrong)


async def test_the_log_of_a_channel_is_in_the_order_of_events(autojump_clock: trio.testing.MockClock) -> None:
    left, right = memory_pair()
    async with lossy(left, seed=1, delay=0.5) as link:
        await link.send("ask")
        await right.receive()
        await right.send("answer")
        await link.receive()
    arrows = [line.split("|")[1].strip() for line in sequence_diagram(link.log, label=str).splitlines()[1:]]
    assert arrows == ["-- #1 ask --~", "~-- #1 ask -->", "~-- #1 answer --", "<-- #1 answer --~"]
