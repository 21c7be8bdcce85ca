"""docs/observing.md is true: its programs run, and its tables name every event and every record of the log."""

from __future__ import annotations

import ast
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import psession
from psession import SessionManager, hooks
from psession.channels import memory_pair

from .peers import settle

if TYPE_CHECKING:
    from trio.testing import MockClock

PAGE = Path(__file__).parent.parent / "docs" / "observing.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
SOURCES = [path for path in Path(psession.__file__).parent.rglob("*.py") if "_cli" not in path.parts]
NAMED_FIRST = {"once", "limited", "raised", "_log_failure"}
"""Methods that log, and whose first argument is the name of the record."""


def run(block: str) -> None:
    """Run a block as a program."""
    exec(compile(block, str(PAGE), "exec"), {"__name__": "__main__"})


def block_with(text: str) -> str:
    """The block that has this text."""
    (block,) = [block for block in BLOCKS if text in block]
    return block


def test_turns_that_wait_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    run(block_with("port.waiting"))
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\{'command': 'status'\} has waited 0\.0\d s, 1 of 1 attempts left", lines[0])
    assert lines[1] == "1 in all"


def test_outcomes_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    run(block_with("outcomes = Counter()"))
    assert capsys.readouterr().out == "Counter({'answered': 2})\n"


def test_the_page_is_served(capsys: pytest.CaptureFixture[str]) -> None:
    run(block_with("psession.inspector"))
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=\S{16,}\n", capsys.readouterr().out)


def test_two_spans_are_one_trace(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("opentelemetry.sdk")
    run(block_with("TracerProvider()"))
    assert capsys.readouterr().out == "status True\n"


def test_prometheus_is_served(capsys: pytest.CaptureFixture[str]) -> None:
    run(block_with("trio.serve_tcp"))
    out = capsys.readouterr().out
    assert out.startswith("HTTP/1.1 200 OK")
    assert "psession_ports 0\n" in out


async def test_the_log_is_json(autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("psession")
    before = list(log.handlers)
    run(block_with("class Json"))
    try:
        here, there = memory_pair()
        async with SessionManager().port("lamp", here):
            await there.send({"sid": 70_000})
            await settle()
    finally:
        for handler in set(log.handlers) - set(before):
            log.removeHandler(handler)
    line = capsys.readouterr().err
    assert line.startswith(
        '{"level": "WARNING", "event_name": "message_dropped", "port": "lamp", "label": "", "sid": 70000, '
        '"reason": "no_handler", '
    )


def test_every_block_of_the_page_is_run() -> None:
    assert len(BLOCKS) == 6


def test_the_table_of_events_has_each_kind() -> None:
    rows = TEXT.partition("## Events")[2].partition("## OpenTelemetry")[0]
    named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`[^|]*) \|", rows, re.MULTILINE))))
    assert named == {kind.__name__ for kind in hooks.EVENTS}


def names_of_records(tree: ast.Module) -> set[str]:
    """The names of the records that a module logs."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "event_name" and isinstance(value, ast.Constant):
                    names.add(str(value.value))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in NAMED_FIRST:
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant):
                names.add(str(first.value))
    return names


def calls_of_the_log(tree: ast.Module) -> list[ast.Call]:
    """The calls that write to the log."""
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "log"
        and node.func.attr in ("debug", "info", "warning", "error", "exception", "critical", "log")
    ]


PACKAGE = Path(psession.__file__).parent
TREES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}


def test_every_record_of_the_log_has_a_name() -> None:
    calls = [(name, call) for name, tree in TREES.items() for call in calls_of_the_log(tree)]
    assert len(calls) > 15
    unnamed = [f"{name}:{call.lineno}" for name, call in calls if "extra" not in {each.arg for each in call.keywords}]
    assert unnamed == []


def test_the_table_of_the_log_has_each_record_once() -> None:
    rows = TEXT.partition("## The log")[2]
    named: list[str] = []
    for cells in re.findall(r"^\| (`[^|]*) \|", rows, re.MULTILINE):
        named += re.findall(r"`(\w+)`", cells)
    named.remove("event_name")
    assert sorted(named) == sorted(set[str]().union(*map(names_of_records, TREES.values())))


async def test_a_record_says_what_it_is_about_in_fields_of_its_own(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(session: Any) -> None:
        raise ValueError("a fault")

    here, there = memory_pair()
    async with SessionManager().port("lamp", here, on_session=broken):
        for sid in range(1, 6):
            await there.send({"sid": sid})
        await settle()
    records = [record for record in caplog.records if record.levelno >= logging.ERROR]
    said = [[record.__dict__.get(name) for name in ("event_name", "port", "times")] for record in records]
    assert said == [*[["handler_raised", "lamp", None]] * 3, ["handler_raised", "lamp", 2]]
    assert {record.__dict__["sid"] for record in records[:3]} < {1, 2, 3, 4, 5}


async def test_structlog_takes_the_fields(autojump_clock: MockClock) -> None:
    structlog = pytest.importorskip("structlog")
    seen: list[dict[str, Any]] = []
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder()],
        processors=[lambda _, __, event: seen.append(dict(event)) or ""],
    )

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            formatter.format(record)

    handler, log = Handler(), logging.getLogger("psession")
    log.addHandler(handler)
    try:
        here, there = memory_pair()
        async with SessionManager().port("lamp", here):
            await there.send({"plain": 1})
            await settle()
    finally:
        log.removeHandler(handler)
    (event,) = seen
    assert event["event_name"] == "message_dropped"
    assert (event["port"], event["reason"]) == ("lamp", "unheard")
    assert event["event"].startswith("port 'lamp': message dropped (unheard): ")
