"""The benchmarks start and count right. Nothing here is timed, and no peer need be installed."""

from __future__ import annotations

import gc
import importlib
import os
import re
import select
import sys
import time
import tomllib
from itertools import chain
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
    assert "| 33333.3 | 2.00 of other |" in printed


def test_a_floor_is_met_missed_or_not_measured(module: Callable[[str], Any]) -> None:
    """Each floor is judged by its own two figures."""
    peers = module("peers")
    figures = {"tcp@1": [95.0], "bare@1": [100.0], "tcp@64": [200.0], "aiorpcx@64": [100.0]}
    results = {(result["mine"], result["other"]): result["met"] for result in peers.floors(figures, figures)}
    assert results["tcp@1", "bare@1"] is True
    assert results["tcp@64", "aiorpcx@64"] is False
    assert results["tcp@64", "bare@64"] is None
    assert "MISSED" in peers.floor_table(peers.floors(figures, figures))


def test_every_contestant_has_its_module(module: Callable[[str], Any]) -> None:
    """And every floor its contestants."""
    contestants, peers = module("contestants").CONTESTANTS, module("peers")
    for contestant in contestants.values():
        assert (BENCHMARKS / "contestants" / f"{contestant.module}.py").is_file()
        assert contestant.wire in {"WebSocket", "TCP", "memory"}
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
    picture = ElementTree.fromstring(charts.bar_chart("title", [charts.Bars("panel", bars)], ["a note"]))
    assert len(picture.findall("{*}rect")) == 2
    assert {"a < b & c", "2", "a note"} <= {text.text for text in picture.findall("{*}text")}


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


async def test_turns_are_a_multiple_of_those_at_once(
    module: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the last ones would be counted for more than they were."""
    harness, seconds, asked = module("harness"), [0.0], list[int]()
    monkeypatch.setattr(harness, "time", SimpleNamespace(perf_counter=lambda: seconds[0]))

    async def work(turns: int) -> None:
        asked.append(turns)
        seconds[0] += turns * 1e-3

    assert await harness.measure(work, 10.0, 1000) == pytest.approx(1000)
    assert asked[0] == 1000
    assert {turns % 1000 for turns in asked} == {0}


async def test_the_processor_time_of_another_process_is_its_own(module: Callable[[str], Any]) -> None:
    """It is what the process says of itself."""
    harness = module("harness")
    mine = time.process_time()
    assert mine <= harness.cpu_seconds(os.getpid()) <= time.process_time()


# -- open loops --------------------------------------------------------------------------------------------------------


async def test_what_is_due_while_all_are_under_way_waits_in_line_and_its_time_counts_from_then(
    module: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """Two at once, each of 10 s; three are due in the first two seconds."""
    open_loop = module("open_loop")
    monkeypatch.setattr(open_loop, "time", SimpleNamespace(monotonic=trio.current_time))

    async def ask(_: object) -> None:
        await trio.sleep(10)

    arrivals = open_loop.Arrivals([ask, ask])
    async with trio.open_nursery() as nursery:
        await arrivals.run(
            iter([0.0, 1.0, 2.0]), lambda ask, due: nursery.start_soon(arrivals.ask, ask, due), trio.sleep_until
        )
        assert trio.current_time() == 2.0
    assert arrivals.took == [10.0, 10.0, 18.0]


def test_a_schedule_is_the_same_for_all_and_has_its_rate(
    module: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moments do not depend on when they are used."""
    open_loop = module("open_loop")
    monkeypatch.setattr(open_loop, "time", SimpleNamespace(monotonic=lambda: 5.0))
    moments = list(open_loop.schedule(1000, 20))
    assert moments == list(open_loop.schedule(1000, 20)) == sorted(moments)
    assert len(moments) == pytest.approx(20_000, rel=0.03)
    assert 5 < moments[0] < moments[-1] < 25.01


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such a timer")
async def test_a_moment_that_is_over_wakes_at_once(module: Callable[[str], Any]) -> None:
    """The timer's file is readable then, and not before it was set."""
    with module("open_loop").timer() as (file, wake_at):
        assert select.select([file], [], [], 0)[0] == []
        wake_at(time.monotonic() + 1000)
        assert select.select([file], [], [], 0)[0] == []
        wake_at(time.monotonic() - 1)
        await trio.lowlevel.wait_readable(file)


# -- contests ----------------------------------------------------------------------------------------------------------


async def test_who_lacks_something_is_left_out_with_a_line_that_says_so(
    module: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the others are measured."""
    (tmp_path / "uvloop.py").write_text("raise ImportError('no uvloop here')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    contest = module("contest").Contest(
        [module("contest").Entry(name, "speed", (1, 2)) for name in ("limit", "tcp-plain")]
    )
    await contest.run(1, 0.01, 0.0)
    assert contest.skipped == {"limit": "no uvloop here"}
    assert contest.found.keys() == {"tcp-plain@1", "tcp-plain@2"}
    assert all(figure > 0 for figures in contest.found.values() for (figure,) in figures.values())
    assert "without the limit: asyncio.Protocol, uvloop, TCP: no uvloop here\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "what", "number"), [("tcp-async", "crowd", 3), ("websocket-keep", "opened", 100), ("tcp", "bytes", 1000)]
)
async def test_each_kind_of_measurement_gives_its_figures(
    module: Callable[[str], Any], name: str, what: str, number: int
) -> None:
    """Of both ends, and with the collector tuned."""
    pytest.importorskip("websockets")
    contest = module("contest").Contest([module("contest").Entry(name, what, (number,), module("tuning").TUNED)])
    await contest.run(1, 0.01, 0.0)
    assert contest.skipped == {}
    figures = {"rate"} if what == "bytes" else {"p50", "p99", "most"} | ({"rate"} if what == "crowd" else set())
    assert contest.found[f"{name}+tune_gc()@{number}"].keys() == figures | {"client", "server"}


def found(contest: Any, **figures: float) -> Any:
    """The same in all that a contest has entries for."""
    for entry in contest.entries:
        for number in entry.numbers:
            contest.found[f"{entry.key}@{number}"] = {what: [figure] for what, figure in figures.items()}
    return contest


def test_the_tables_of_peers_have_a_line_for_each(module: Callable[[str], Any]) -> None:
    """Twice as fast is 2.00, with half the processor time in brackets; who was skipped says why."""
    peers, contestants = module("peers"), module("contestants").CONTESTANTS
    contest = found(module("contest").Contest(peers.entries(list(contestants))), rate=100.0, client=20.0, server=5.0)
    contest.found["websocket-plain@64"] = {"rate": [200.0], "client": [8.0], "server": [4.5]}
    contest.skipped["nats"] = "no broker"
    for count in (1, 64):
        del contest.found[f"nats@{count}"]
    speeds = peers.speed_table(contest).splitlines()
    assert "| psession request, plain on_request, WebSocket | 100 | 20 + 5.0 | 200 | 8.0 + 4.5 |" in speeds
    assert "| nats-py request(), a broker between, TCP | skipped: no broker |  |  |  |" in speeds
    assert len(speeds) == 2 + sum(not one.one_way and bool(one.in_flight) for one in contestants.values())
    ratios = peers.ratio_table(contest)
    assert "| picows by hand, uvloop, WebSocket | 1.00 (1.00) | 1.00 (1.00) | 1.00 (1.00) | 2.00 (2.00) |" in ratios
    assert "nats" not in ratios
    assert "| round trips | 1.00 |" in peers.few_table(contest)
    assert peers.exact_table(contest).count("1.00 (1.00)") == 4
    assert "| psession post, TCP | 100 | 20 + 5.0 | 1.00 |" in peers.one_way_table(contest)
    texts = [text.text or "" for text in ElementTree.fromstring(peers.picture(contest)).findall("{*}text")]
    assert not any("post" in text for text in texts)  # one way: no round trip
    assert {"WebSocket, 64 in flight", "TCP, 1 in flight", "200  (12 µs)"} <= set(texts)
    assert any("bought by waiting awake. A send over a WebSocket takes 25 µs" in text for text in texts)


def test_the_tables_of_loads_have_a_line_for_each(module: Callable[[str], Any]) -> None:
    """Whatever was not measured is a dash."""
    loads = module("loads")
    rows = {}
    for name, table in loads.TABLES.items():
        contest = module("contest").Contest(table.entries(False))
        assert "nan" not in table.text(contest)
        found(contest, rate=100.0, client=20.0, server=5.0, p50=50.0, p99=5000.0, most=20_000.0)
        rows[name] = table.text(contest).splitlines()[2:]
    processor = "20 + 5.0 | 20 + 5.0 |"
    assert rows["latency"][0] == "| psession request, plain on_request |" + " 50 / 5,000 |" * 3 + f" {processor}"
    assert rows["connections"][0].endswith("TCP | 100 | 5 | 20 + 5.0 | 1.00 | 1.00 |")
    assert rows["sizes"][0].count("100 (20 + 5.0)") == 3
    assert [row.split(" | ")[0] for row in rows["collector"]] == [f"| {way}" for way in loads.TUNED_WAYS]
    assert rows["collector"][1].count("0.1 / 5.0 / 20") == 3


def test_every_way_to_tune_sets_what_its_name_says(module: Callable[[str], Any]) -> None:
    """Of those with thresholds in their names."""
    before = gc.get_threshold()
    try:
        for name, tune in module("tuning").TUNINGS.items():
            tune()
            thresholds = re.findall(r"\d+", name)
            assert not thresholds or gc.get_threshold() == tuple(map(int, thresholds))
    finally:
        gc.set_threshold(*before)  # what was frozen stays so, as tests/conftest.py has it


# -- the page ----------------------------------------------------------------------------------------------------------


def test_what_was_measured_takes_the_place_of_what_stood_there(module: Callable[[str], Any]) -> None:
    """And of nothing else."""
    pytest.importorskip("trio_websocket")
    put = module("report").put
    page = "a\n<!-- measured: one -->\nold\n<!-- measured -->\nb\n<!-- measured: two -->\nold\n<!-- measured -->\n"
    assert put(page, "one", "new") == page.replace("old", "new", 1)
    assert put(put(page, "two", "new"), "two", "old") == page
    for wrong in ("", page.replace("one", "two"), "<!-- measured: two -->"):
        with pytest.raises(ValueError, match="needs one '<!-- measured: two -->' with '<!-- measured -->' behind it"):
            put(wrong, "two", "new")


def test_the_page_has_a_place_for_each_section(module: Callable[[str], Any]) -> None:
    """And none for what nobody measures."""
    pytest.importorskip("trio_websocket")
    report = module("report")
    page = (BENCHMARKS.parent / "docs" / "performance.md").read_text()
    for section in report.SECTIONS:
        assert "new figures" in report.put(page, section, "new figures")
    assert set(re.findall("<!-- measured: (.*) -->", page)) == report.SECTIONS.keys()
    assert report.EFFORT.keys() <= report.SECTIONS.keys()


def test_the_dependencies_of_the_contestants_are_in_their_group(module: Callable[[str], Any]) -> None:
    """Those that psession or its extras do not bring."""
    project = tomllib.loads((BENCHMARKS.parent / "pyproject.toml").read_text())
    asked = [
        *project["dependency-groups"]["bench"],
        *project["project"]["dependencies"],
        *chain(*project["project"]["optional-dependencies"].values()),
    ]
    names = {re.split(r"[^\w-]", requirement)[0] for requirement in asked} | {"psession"}
    contestants = module("contestants").CONTESTANTS.values()
    assert {one.package for one in contestants} | {one.loop for one in contestants} <= names | {"asyncio"}


def test_a_chain_is_held_against_the_slower_of_its_hops_in_the_same_round(
    module: Callable[[str], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """A machine that is twice as slow in one round, for all, changes nothing."""
    fleet = module("fleet")
    found = {
        "nats": [(1000.0, {"service": 20.0, "gateway": 20.0}), (500.0, {"service": 40.0, "gateway": 40.0})],
        "websocket": [(800.0, {"gateway": 30.0, "devices": 20.0}), (400.0, {"gateway": 60.0, "devices": 40.0})],
        "fleet-1": [
            (400.0, {"service": 20.0, "broker": 10.0, "gateway": 50.0, "devices": 20.0}),
            (200.0, {"service": 40.0, "broker": 20.0, "gateway": 100.0, "devices": 40.0}),
        ],
        "fleet-2": [(1.0, {"gateway": 105.0}), (1.0, {"gateway": 210.0})],
    }
    fleet.report(found)
    out = capsys.readouterr().out
    assert "rate: 0.50\n" in out
    assert "by the processor time of all: 0.50\n" in out
    assert "with a core for each: 0.60\n" in out
    assert "the chain, 2 gateways beside 1: processor time 1.05, of the gateways 2.10 (at most 1.1)\n" in out


def test_the_soak_sees_what_is_untrue(module: Callable[[str], Any]) -> None:
    """Run twice, run though it was not sent, answered though it was never run: each is told."""
    soak = module("soak")
    tally = soak.Tally()
    tally.ran(0, 0)
    tally.was_answered(0, 0)
    tally.has_failed(0, 1, "NatsNoRespondersError", "not_sent")
    tally.has_failed(0, 2, "NatsDisconnectedError", "sent")
    tally.ran(0, 2)
    assert (tally.answered, tally.untrue) == (1, [])
    tally.ran(0, 2)
    tally.ran(0, 1)
    tally.was_answered(0, 3)
    tally.has_failed(0, 3, "NatsError", None)
    tally.ran(1, 0)
    tally.has_failed(1, 0, "NatsError", "not_sent")
    assert [text.split(", ")[-1].removeprefix("and ") for text in tally.untrue] == [
        "or after a later one",
        "or after a later one",
        "was not sent",
        "never run",
        "request 3 of asker 0 failed as None",
        "was run",
    ]


def test_the_soak_knows_flat_memory_from_a_leak(module: Callable[[str], Any]) -> None:
    """Of memory and of objects."""
    soak = module("soak")
    first = soak.Look("warm", 100, 40_000, 30_000)
    assert soak.growth([first, soak.Look("the end", 1000, 41_000, 31_000)]) == []
    assert soak.growth([first, soak.Look("the end", 1000, 50_000, 31_000)]) == ["memory grew from 40,000 to 50,000 KiB"]
    assert len(soak.growth([first, soak.Look("the end", 1000, 50_000, 60_000)])) == 2
