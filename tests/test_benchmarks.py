"""The benchmarks start and count right. Nothing here is timed, and no peer need be installed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest
import trio

from psession import SessionRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def module() -> Iterator[Callable[[str], Any]]:
    """Import a module of the benchmarks, which are scripts and no package; afterwards it is gone again."""
    before = set(sys.modules)
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module
    sys.path.remove(str(BENCHMARKS))
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


async def test_measuring_gives_round_trips_a_second(
    module: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A work of 10 µs a turn does 100,000 a second, whatever the first ones took."""
    harness, seconds = module("harness"), [0.0]
    monkeypatch.setattr(harness, "time", SimpleNamespace(perf_counter=lambda: seconds[0]))

    async def work(turns: int) -> None:
        seconds[0] += turns * 10e-6

    assert await harness.measure(work, 1.0) == pytest.approx(100_000)
    assert await harness.rounds({"one": work}, 2, 0.1) == {"one": pytest.approx([100_000] * 2)}


def test_a_ratio_is_taken_round_by_round(module: Callable[[str], Any]) -> None:
    """A slow spell that meets both does not count; the ratio of the medians would be 1."""
    harness = module("harness")
    figures = {"mine": [20.0, 200.0, 30.0], "other": [10.0, 100.0, 30.0]}
    assert harness.ratio(figures, "mine", "other") == 2.0
    printed = harness.table(figures, {"mine": "other"})
    assert "2.00 of other" in printed
    assert "33333.3" in printed


def test_a_floor_is_met_missed_or_not_measured(module: Callable[[str], Any]) -> None:
    """Each floor is judged by its own two figures."""
    peers = module("peers")
    figures = {"tcp@1": [95.0], "bare@1": [100.0], "tcp@64": [200.0], "aiorpcx@64": [100.0]}
    results = {(result["mine"], result["other"]): result["met"] for result in peers.floors(figures, figures)}
    assert results["tcp@1", "bare@1"] is True
    assert results["tcp@64", "aiorpcx@64"] is False
    assert results["tcp@64", "bare@64"] is None
    assert "MISSED" in peers.floor_table(peers.floors(figures, figures))


def test_what_goes_one_way_has_a_table_of_its_own_and_no_bar(module: Callable[[str], Any]) -> None:
    """Its CPU is that of the end which has more to do, and a message is no round trip."""
    peers = module("peers")
    contest = peers.Contest(["tcp", "stream", "posts"])
    contest.figures = {"tcp@1": [27_000.0], "tcp@64": [99_000.0], "stream@1": [190_000.0]}
    contest.cpu = {"tcp@1": [36.0], "tcp@64": [10.0], "stream@1": [5.24]}
    contest.skipped = {"posts": "no time"}
    round_trips, one_way = peers.speed_tables(contest)
    assert "190,000" not in round_trips
    assert [line.split()[-2:] for line in one_way.splitlines()[1:]] == [["190,000", "5.2"], ["no", "time"]]
    assert len(peers.speed_tables(peers.Contest(["stream"]))) == 1
    bars = ElementTree.fromstring(peers.picture(contest)).findall("{*}rect")
    assert len(bars) == 2


def test_every_contestant_has_its_module(module: Callable[[str], Any]) -> None:
    """And every floor its contestants."""
    contestants, peers = module("contestants").CONTESTANTS, module("peers")
    for contestant in contestants.values():
        assert (BENCHMARKS / "contestants" / f"{contestant.module}.py").is_file()
    for floor in peers.FLOORS:
        for key in (floor.mine, floor.other):
            name, in_flight = key.split("@")
            assert int(in_flight) in contestants[name].in_flight


def test_the_tables_of_scale_judge_the_last_count_by_the_first(module: Callable[[str], Any]) -> None:
    """1.05 times the cost is met where 1.1 is allowed, 1.2 times is not."""
    scale = module("scale")
    results = {
        scale.COSTS[0].what: {"1": [10.0, 20.0], "65535": [10.5, 21.0]},
        scale.COSTS[1].what: {"1": [10.0], "65535": [12.0]},
        scale.SIZES[0].what: {"after a turn": [2900.0]},
    }
    met, missed = scale.cost_table(results).splitlines()[1:]
    assert "x 1.05 at most 1.1: met" in met
    assert "x 1.20 at most 1.1: MISSED" in missed
    assert "2,900 bytes  at most 3000: met" in scale.size_table(results)
    ElementTree.fromstring(scale.picture(results))


def test_the_pictures_are_well_formed(module: Callable[[str], Any]) -> None:
    """Labels are escaped, and every bar is drawn."""
    charts = module("charts")
    bars = [charts.Bar("a < b & c", 2.0, True), charts.Bar("d", 1.0)]
    picture = ElementTree.fromstring(charts.bar_chart("title", [charts.Bars("panel", bars)]))
    assert len(picture.findall("{*}rect")) == 2
    assert "a < b & c" in [text.text for text in picture.findall("{*}text")]


async def test_the_servers_of_core_start(module: Callable[[str], Any]) -> None:
    """Each prints the TCP port that it listens on, and is gone afterwards."""
    pytest.importorskip("trio_websocket")
    harness = module("harness")

    async def start(kind: str) -> None:
        async with harness.server("core.py", kind) as port:
            await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream("127.0.0.1", port)

    async with trio.open_nursery() as nursery:
        for kind in ("bare", "sessions", "websocket"):
            nursery.start_soon(start, kind)


def test_the_handlers_written_by_hand_answer_as_the_service_does(module: Callable[[str], Any]) -> None:
    """Each message that is timed has the same answer in every way; the checked one refuses what the service does."""
    service = module("service")
    for message in service.MESSAGES.values():
        answers = [way(message) for way in service.WAYS.values()]
        assert answers == answers[:1] * 3
        wrong: list[dict[str, Any]] = [{**message, "more": 1}, {**message, "command": "no"}]
        wrong += [{**message, name: True} for name in message if name != "command"]
        for payload in wrong:
            codes = set()
            for way in (service.service, service.checked):
                with pytest.raises(SessionRefusedError) as caught:
                    way(payload)
                codes.add(caught.value.code)
            assert len(codes) == 1


async def test_what_is_not_there_is_skipped_with_its_reason(module: Callable[[str], Any]) -> None:
    """A server that says so is no failure."""
    harness = module("harness")
    with pytest.raises(harness.Skipped, match="no such broker"):
        harness._unless_skipped(b"skip: no such broker\n")
