"""Every program of docs/nats.md and docs/mqtt.md runs as it stands, against a broker in memory."""

from __future__ import annotations

import ast
import inspect
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import Exact, Session, SessionManager

from .sides import SIDES, Side

if TYPE_CHECKING:
    from trio.testing import MockClock

DOCS = Path(__file__).parents[2] / "docs"


def programs(side: Side) -> list[str]:
    """The programs of a broker's page."""
    page = (DOCS / f"{side.name}.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


async def lamp(session: Session) -> None:
    """Say what the lamp is."""
    async for message in session:
        await session.post({"light": message["command"]})


async def serve(channel: Any) -> None:
    """Serve the ports of the programs that only ask."""
    manager = SessionManager(dialect=Exact(), resume_within=60)
    async with manager.accept(channel, on_session=lamp) as port:
        await port.wait_closed()


PROGRAMS = [
    pytest.param(side, code, id=f"{side.name}-{number}")
    for side in (param.values[0] for param in SIDES)
    for number, code in enumerate(programs(side))
]


@pytest.mark.parametrize(("side", "code"), PROGRAMS)
async def test_a_program_of_the_page_runs_to_its_end(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, side: Side, code: str
) -> None:
    names: dict[str, Any] = {"trio": trio}
    opener = f"open_{side.name}"
    async with side.broker() as broker, trio.open_nursery() as nursery:
        opened = partial(getattr(side.module, opener), open_stream=broker.open_stream)
        async with opened() as client:
            if not re.search(r"\w+\.(serve|connect)\(", code) and "returning(" in code:
                await nursery.start(lambda task_status: client.serve("lamp", serve, task_status=task_status))
            monkeypatch.setattr(side.module, opener, opened)
            with trio.fail_after(60):
                result = eval(compile(code, f"{side.name}.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
                if inspect.iscoroutine(result):
                    await result
            nursery.cancel_scope.cancel()
    if "reply" in names:
        assert side.data(names["reply"]) in (b"on", b'{"level":4}')
    if "answer" in names and not callable(names["answer"]):
        assert names["answer"] == {"light": "on"}


def test_the_pages_have_programs() -> None:
    assert len(PROGRAMS) == 5 + 4
