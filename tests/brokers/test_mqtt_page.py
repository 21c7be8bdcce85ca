"""Every program of docs/mqtt.md runs as it stands, against a broker in memory."""

from __future__ import annotations

import ast
import inspect
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

import psession.brokers.mqtt
from psession import Exact, Session, SessionManager

from .mqtt_broker import a_broker

if TYPE_CHECKING:
    from trio.testing import MockClock

    from psession.brokers.mqtt import MqttChannel

PAGE = Path(__file__).parents[2] / "docs" / "mqtt.md"
PROGRAMS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


async def lamp(session: Session) -> None:
    """Say what the lamp is."""
    async for message in session:
        await session.post({"light": message["command"]})


async def serve(channel: MqttChannel) -> None:
    """Serve the ports of the programs that only ask."""
    manager = SessionManager(dialect=Exact(), resume_within=60)
    async with manager.accept(channel, on_session=lamp) as port:
        await port.wait_closed()


@pytest.mark.parametrize("code", PROGRAMS, ids=range(len(PROGRAMS)))
async def test_a_program_of_the_page_runs_to_its_end(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    names: dict[str, Any] = {"trio": trio}
    async with a_broker() as broker, trio.open_nursery() as nursery:
        open_mqtt = partial(psession.brokers.mqtt.open_mqtt, open_stream=broker.open_stream)
        async with open_mqtt() as mqtt:
            if "mqtt.serve(" not in code and "returning(" in code:
                await nursery.start(lambda task_status: mqtt.serve("lamp", serve, task_status=task_status))
            monkeypatch.setattr(psession.brokers.mqtt, "open_mqtt", open_mqtt)
            with trio.fail_after(60):
                result = eval(compile(code, "mqtt.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
                if inspect.iscoroutine(result):
                    await result
            nursery.cancel_scope.cancel()
    if "reply" in names:
        assert names["reply"].payload == b"on"
    if "answer" in names and not callable(names["answer"]):
        assert names["answer"] == {"light": "on"}


def test_the_page_has_programs() -> None:
    assert len(PROGRAMS) == 4
