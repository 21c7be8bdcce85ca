"""Every block of Python in the documents runs, and every name of psession's that they say is one.

The README's programs run in tests/test_readme.py, those of the tutorial and the recipes in tests/test_pages.py, those
of docs/testing.md in tests/testing/test_page.py. The guide shows pieces: each runs here as it stands, on virtual time,
in a scene that gives it what it has around it.
"""

from __future__ import annotations

import ast
import asyncio
import collections.abc
import datetime
import decimal
import enum
import importlib
import inspect
import json
import math
import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest
import trio
import trio.testing

import psession
import psession.asyncio
import psession.blocking
from psession import Exact, Port, Session, SessionManager, SessionRemoteError
from psession.channels import JsonCodec, MsgpackCodec, lines, memory_pair

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(page for page in DOCS.rglob("*.md"))]
ELSEWHERE = {
    "README.md": "tests/test_readme.py",
    "dialects.md": "tests/testing/test_dialects.py",
    "mqtt.md": "tests/brokers/test_broker_pages.py",
    "fleet.md": "tests/fleet/test_fleet_page.py",
    "nats.md": "tests/brokers/test_broker_pages.py",
    "observing.md": "tests/test_observing.py",
    "testing.md": "tests/testing/test_page.py",
    "tutorial.md": "tests/test_pages.py",
    **{f"howto/{page.name}": "tests/test_pages.py" for page in (DOCS / "howto").glob("*.md")},
    "howto/asyncio.md": "tests/foreign/test_web_frameworks.py",
}
"""Pages whose every block is a program or a test, and what runs them."""

LONGEST_RUN = 3600.0
"""Seconds on the clock that jumps: what takes longer waits for something that does not come."""

FENCE = re.compile(
    r"^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```[ ]*$|^#+ (?P<heading>[^\n]*)$", re.MULTILINE | re.DOTALL
)
INLINE = re.compile(r"`(psession(?:\.\w+)+)[(`]")


class Block(NamedTuple):
    """A block of Python: the page, the heading that it stands under, which one it is there, and where."""

    page: str
    section: str
    number: int
    line: int
    code: str

    def __str__(self) -> str:
        return f"{self.page} {self.line}"


def place_of(page: Path) -> str:
    """The path of a page among the documents."""
    return page.relative_to(DOCS if DOCS in page.parents else ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page."""
    text, section, blocks = page.read_text(encoding="utf-8"), "", list[Block]()
    for found in FENCE.finditer(text):
        if found["heading"] is not None:
            section = found["heading"]
        elif found["language"] == "python":
            number = 1 + sum(block.section == section for block in blocks)
            line = text.count("\n", 0, found.start()) + 2
            blocks.append(Block(place_of(page), section, number, line, found["code"]))
    return blocks


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
PIECES = [block for block in BLOCKS if block.page not in ELSEWHERE]


def guide_section(heading: str) -> str:
    """The text of the guide under a heading."""
    text = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def compiled(block: Block) -> Any:
    """The code of a block, which may await as if it stood in an async function."""
    padded = "\n" * (block.line - 1) + block.code
    return compile(padded, block.page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


# -- scenes ------------------------------------------------------------------------------------------------------------

Names = dict[str, Any]
SCENES: dict[tuple[str, int], Any] = {}


def scene(section: str, number: int = 1) -> Callable[[Callable[[Names], AsyncIterator[None]]], None]:
    """Make what follows the scene of a block: it gives the block its names, and afterwards sees what has come of it."""

    def keep(made: Callable[[Names], AsyncIterator[None]]) -> None:
        SCENES[section, number] = asynccontextmanager(made)

    return keep


def public_names() -> Names:
    """What a reader has imported who reads from the top."""
    modules = ["psession", "psession.channels"]
    names: Names = {"trio": trio, "msgspec": msgspec, "partial": partial, "itemgetter": itemgetter}
    names["AsyncIterator"] = collections.abc.AsyncIterator
    for module in map(importlib.import_module, modules):
        names.update({name: getattr(module, name) for name in module.__all__})
    return names


def said(names: Names) -> list[Any]:
    """Let the block print into a list."""
    printed: list[Any] = []
    names["print"] = lambda *things: printed.append(things[0] if len(things) == 1 else things)
    return printed


async def lamp(session: Session) -> None:
    """Answer each command with what it did."""
    async for message in session:
        await session.post({"light": "on", "did": message["command"]})


@asynccontextmanager
async def a_port(handler: Any, **options: Any) -> AsyncIterator[Port]:
    """A port whose peer has this handler."""
    here, there = memory_pair()
    manager = SessionManager(session_timeout=5, **options)
    async with manager.port("far", there, on_session=handler), manager.port("lamp", here) as port:
        yield port


@asynccontextmanager
async def a_server(names: Names, manager: SessionManager) -> AsyncIterator[None]:
    """Run the block's ``serve`` with a client that asks, and leaves."""
    yield
    for _ in range(2):
        here, there = memory_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(names["serve"], there)
            async with manager.port("server", here) as port:
                assert await port.request({"command": "status"}) == {"light": "on", "did": "status"}


@scene("Managers and ports", 1)
async def _(names: Names) -> AsyncIterator[None]:
    names["stream"], _far = trio.testing.memory_stream_pair()
    yield
    assert names["port"].closed
    assert names["port"].name == "lamp"


@scene("Managers and ports", 2)
async def _(names: Names) -> AsyncIterator[None]:
    names.update(manager=SessionManager(), handle=lamp)
    async with a_server(names, SessionManager()):
        yield


@scene("Payloads")
async def _(names: Names) -> AsyncIterator[None]:
    names["stream"], far = trio.testing.memory_stream_pair()
    names["manager"] = SessionManager(session_timeout=5)
    async with SessionManager(on_session=lamp).port("far", lines(far)):
        yield
    assert names["status"] == names["Status"](light="on")


class Status(msgspec.Struct):
    """What the blocks of "Payloads" call so."""

    light: str


@scene("Payloads", 2)
async def _(names: Names) -> AsyncIterator[None]:
    names["Status"] = Status
    async with a_port(lamp) as names["port"]:
        yield
    assert names["status"] == Status("on")


@scene("Payloads", 3)
async def _(names: Names) -> AsyncIterator[None]:
    names["Status"] = Status
    yield
    near, far = trio.testing.memory_stream_pair()
    manager = SessionManager()
    async with (
        manager.port("far", lines(far), on_session=lamp),
        manager.port("near", lines(near, codec=JsonCodec(type=Status))) as port,
    ):
        assert await names["light_of"](port) == "on"


@scene("Sessions")
async def _(names: Names) -> AsyncIterator[None]:
    async with a_port(lamp) as names["port"]:
        yield
        assert names["answer"]["did"] == "turnOnLight"
        assert names["reply"]["did"] == "queryStatus"
        assert list(names["port"].sessions.values()) == [names["session"]]


@scene("Sessions", 2)
async def _(names: Names) -> AsyncIterator[None]:
    async def three(session: Session) -> None:
        await session.receive()
        for number in range(3):
            await session.post({"n": number})

    async with a_port(three, dialect=Exact()) as port, port.session() as names["session"]:
        await names["session"].post({})
        yield
    assert names["message"] == {"n": 2}


@scene("Retries that grow, spread out, and stop")
async def _(names: Names) -> AsyncIterator[None]:
    async with a_port(lamp) as names["port"]:
        yield
    assert names["reply"]["did"] == "queryStatus"
    wait = names["careful"]
    assert [min(wait.max_interval, wait.interval * wait.backoff**k) for k in range(5)] == [0.5, 1, 2, 4, 8]


async def percents(session: Session) -> None:
    """Four replies to each question."""
    async for _ in session:
        for percent in (0, 50, 100):
            await session.post({"percent": percent})


@scene("Many replies", 1)
async def _(names: Names) -> AsyncIterator[None]:
    printed = said(names)
    async with a_port(percents, dialect=Exact()) as port, port.session() as names["session"]:
        yield
    assert printed == [0, 50, 100]


@scene("Many replies", 2)
async def _(names: Names) -> AsyncIterator[None]:
    yield
    async with (
        a_port(names["handle"], dialect=Exact()) as port,
        port.stream({"command": "update"}) as replies,
    ):
        assert [reply["percent"] async for reply in replies] == list(range(101))


@scene("One question, one answer")
async def _(names: Names) -> AsyncIterator[None]:
    here, there = memory_pair()
    answers: list[Any] = []

    async def ask() -> None:
        async with SessionManager(dialect=Exact()).port("lamp", here) as port:
            answers.append(await port.request({"command": "queryStatus"}))
            with pytest.raises(SessionRemoteError) as refused:
                await port.request({"command": "sing"})
            answers.append(refused.value.code)

    names.update(manager=SessionManager(), client_id="anna", channel=there)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        yield
    assert answers == [{"status": "ok"}, "refused.unknown"]


@scene("One question, one answer", 2)
async def _(names: Names) -> AsyncIterator[None]:
    yield
    here, there = memory_pair()
    async with (
        SessionManager().port("server", there, on_request=names["ticks"]),
        SessionManager(dialect=Exact()).port("lamp", here) as port,
        port.stream({"count": 3}) as replies,
    ):
        assert [part["tick"] async for part in replies] == [0, 1, 2]


@scene("Services", 1)
async def _(names: Names) -> AsyncIterator[None]:
    here, there = memory_pair()
    lines = [line for line in guide_section("Services").splitlines() if line.startswith("| `{")]
    rows = [[re.sub(r"^(`+) ?(.*?) ?\1$", r"\2", cell) for cell in line.strip("| ").split(" | ")] for line in lines]
    refused: list[list[str]] = []

    async def ask() -> None:
        async with SessionManager(dialect=Exact()).port("lamp", here) as port:
            assert await port.request({"command": "dim", "level": 40, "seconds": 1}) == names["Status"](40)
            for wrong, *_ in rows:
                with pytest.raises(SessionRemoteError) as caught:
                    await port.request(json.loads(wrong))
                refused.append([wrong, caught.value.code, caught.value.text])
            async with port.stream({"command": "count", "to": 2}) as replies:
                assert [reply async for reply in replies] == [{"result": 0}, {"result": 1}]

    names.update(manager=SessionManager(), client_id="anna", channel=there)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        yield
    assert refused == rows
    assert len(rows) == 5


@scene("Services", 2)
async def _(names: Names) -> AsyncIterator[None]:
    class Status(msgspec.Struct):
        level: int

    names.update(manager=SessionManager(), Status=Status)
    yield
    for level in (1, 2):
        here, there = memory_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(names["serve"], there)
            async with SessionManager().port("lamp", here) as port:
                assert await port.request({"command": "dim", "level": level}) == Status(level)


@scene("Services", 3)
async def _(names: Names) -> AsyncIterator[None]:
    printed = said(names)

    class Status(msgspec.Struct):
        level: int

    async def dim(level: int, seconds: float = 0.0) -> None:
        """Dim the lamp."""

    dim.__annotations__.update({"return": Status})
    names["lamp"] = psession.Service("command")
    names["lamp"].add(dim)
    yield
    (shown,) = re.findall(r"^```json\n(.*?)^```", guide_section("Services"), re.MULTILINE | re.DOTALL)
    assert printed == [json.loads(shown)]


@scene("Sessions that the peer opens")
async def _(names: Names) -> AsyncIterator[None]:
    printed = said(names)
    names["channel"], far = memory_pair()
    names.update(manager=SessionManager(), client_id="client 7")
    async with trio.open_nursery() as nursery:

        async def client() -> None:
            async with SessionManager(session_timeout=5).port("server", far) as port:
                assert await port.request({"command": "status"}) == {"status": "ok"}
                await port.post({"news": 1})

        nursery.start_soon(client)
        yield
    assert printed == [{"news": 1}]
    assert names["port"].name == "client 7"


@scene("Exact dialogues")
async def _(names: Names) -> AsyncIterator[None]:
    yield
    async with names["manager"].port("p", print) as port:
        port.stream({"command": "status"})  # which the classic wire refuses


@scene("Links that come back", 1)
async def _(names: Names) -> AsyncIterator[None]:
    manager, opened = SessionManager(dialect=Exact()), list[str]()

    async with trio.open_nursery() as nursery:

        @asynccontextmanager
        async def open_websocket(url: str) -> AsyncIterator[Any]:
            opened.append(url)
            here, there = memory_pair()
            nursery.start_soon(serve, there)
            async with here:
                yield here

        async def serve(channel: Any) -> None:
            async with manager.accept(channel, on_session=lamp, resume_within=30) as port:
                await port.wait_closed()

        names.update(manager=SessionManager(dialect=Exact()), url="ws://here", open_websocket=open_websocket)
        yield
        assert set(opened) == {"ws://here"}


@scene("Links that come back", 2)
async def _(names: Names) -> AsyncIterator[None]:
    names.update(manager=SessionManager(dialect=Exact()), handle=lamp)
    async with a_server(names, SessionManager(dialect=Exact(), resume_within=30)):
        yield


@scene("A receive loop of one's own")
async def _(names: Names) -> AsyncIterator[None]:
    printed = said(names)
    to_us, names["my_messages"] = trio.open_memory_channel[Any](2)
    names["send"] = lambda message: None
    await to_us.send({"news": 1})
    await to_us.send({"late": True, "sid": 7})
    await to_us.aclose()
    yield
    assert printed == [("no session's:", {"news": 1})]


@scene("One channel, many peers")
async def _(names: Names) -> AsyncIterator[None]:
    names["channel"], far = memory_pair()
    names.update(manager=SessionManager(), meet=lambda name, message: None)
    async with trio.open_nursery() as names["nursery"]:
        await far.send({"from": "oven", "hello": True})
        await far.aclose()
        yield
    assert names["port"].closed


@scene("TCP, TLS and Unix sockets")
async def _(names: Names) -> AsyncIterator[None]:
    printed, handlers = said(names), dict[int, Any]()
    tasks: trio.Nursery

    async def serve_tcp(handler: Any, port: int, *, task_status: Any, **options: Any) -> None:
        inspect.signature(psession.channels.serve_tcp).bind(handler, port, **options)
        handlers[port] = handler
        task_status.started()

    @asynccontextmanager
    async def open_tcp(host: str, port: int) -> AsyncIterator[Any]:
        here, there = memory_pair()
        tasks.start_soon(handlers[port], there)
        async with here:
            yield here

    names.update(manager=SessionManager(), handle=lamp, serve_tcp=serve_tcp, open_tcp=open_tcp)
    async with trio.open_nursery() as tasks:
        yield
    assert printed == [{"light": "on", "did": "queryStatus"}]


@scene("A child process")
async def _(names: Names) -> AsyncIterator[None]:
    started: list[Any] = []

    @asynccontextmanager
    async def process(command: list[str], **options: Any) -> AsyncIterator[Any]:  # no child runs on virtual time
        inspect.signature(psession.channels.process).bind(command, **options)
        started.append(command)
        here, _there = memory_pair()
        async with here:
            yield here

    names.update(manager=SessionManager(), process=process)
    yield
    assert started == [["pylsp"]]
    assert names["port"].closed


@scene("A framing of your own")
async def _(names: Names) -> AsyncIterator[None]:
    names["stream"], far = trio.testing.memory_stream_pair()
    yield
    await names["channel"].send({"a": "b c"})
    assert await far.receive_some() == b'11:{"a":"b c"},'
    await far.send_all(b'11:{"a":"b c"},2:{},2:{}')
    assert [await names["channel"].receive() for _ in range(2)] == [{"a": "b c"}, {}]
    await far.send_all(b"!")
    with pytest.raises(trio.BrokenResourceError, match="no comma behind a netstring"):
        await names["channel"].receive()


@scene("Links that break", 1)
async def _(names: Names) -> AsyncIterator[None]:
    printed, opened = said(names), list[str]()

    @asynccontextmanager
    async def open_websocket(url: str) -> AsyncIterator[Any]:
        opened.append(url)
        if len(opened) > 3:
            raise NotImplementedError  # a mistake in the program: it ends the channel, which goes on for ever otherwise
        here, there = memory_pair()
        await there.send({"news": len(opened)})
        await there.aclose()
        yield here

    names.update(url="ws://here", open_websocket=open_websocket)
    with pytest.raises(NotImplementedError):
        yield
    assert opened == ["ws://here"] * 4
    assert [state.state for state in printed][:3] == ["connecting", "open", "broken"]
    assert names["message"] == {"news": 3}


@scene("Links that break", 2)
async def _(names: Names) -> AsyncIterator[None]:
    near, far = trio.testing.memory_stream_pair()

    async def open_tcp_stream(host: str, port: int) -> trio.abc.Stream:
        assert (host, port) == ("lamp.example", 4000)
        return near

    class FakeTrio:
        """Trio, on a network of its own."""

    FakeTrio.open_tcp_stream = open_tcp_stream  # type: ignore[attr-defined]
    names.update(trio=FakeTrio, host="lamp.example", port=4000)
    yield
    channel = await names["connect"]()
    await lines(far).send({"hello": 1})
    assert await channel.receive() == {"hello": 1}


@scene("Other protocols' numbers: `Classic`")
async def _(names: Names) -> AsyncIterator[None]:
    yield
    async with names["manager"].port("p", print, on_session=lamp):
        pass


@scene("Hostile peers: budgets")
async def _(names: Names) -> AsyncIterator[None]:
    names["handler"] = lamp
    yield
    here, there = memory_pair()
    async with names["manager"].port("far", there), SessionManager().port("near", here) as port:
        assert await port.request({"command": "status"}) == {"light": "on", "did": "status"}


@scene("Hostile peers: budgets", 2)
async def _(names: Names) -> AsyncIterator[None]:
    names["handler"] = lamp
    yield
    manager, limits = names["manager"], names["budget"]
    assert (manager.budget is limits, limits.used, limits.absent, limits.given_up) == (True, 0, 0, 0)
    async with trio.open_nursery() as nursery:

        async def serve(channel: Any) -> None:
            async with manager.accept(channel) as port:
                await port.wait_closed()

        here, there = memory_pair()
        nursery.start_soon(serve, there)
        await here.send({"_new": True, "_life": 5})
        assert "_resume" in await here.receive()
        await here.aclose()
        await trio.sleep(1)
        assert limits.absent == 1
    assert (trio.current_time(), limits.absent, limits.given_up) == (30, 0, 0)


def in_a_thread(function: Callable[[], object]) -> None:
    """Run a function in a thread without a loop, while Trio and its clock stand still."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(function).result(60)


async def sleepy(session: Session) -> None:
    """A lamp that may sleep."""
    async for message in session:
        if message["command"] == "sleep":
            await trio.sleep_forever()
        await session.post({"light": "on", "did": message["command"]})


@asynccontextmanager
async def a_lamp_at(url: str) -> AsyncIterator[Any]:
    """What stands for `open_websocket`, where there is no network."""
    here, there = memory_pair()
    async with SessionManager(on_session=sleepy).port(url, there):
        yield here


@scene("From asyncio, from threads", 1)
async def _(names: Names) -> AsyncIterator[None]:
    printed, programs, run = said(names), list[Any](), asyncio.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psession.channels, "open_websocket", a_lamp_at)
        patch.setattr(asyncio, "run", programs.append)  # Trio runs in this thread
        yield
    (program,) = programs
    in_a_thread(lambda: run(program))
    assert printed == [{"light": "on", "did": "queryStatus"}, "given up"]


@scene("From asyncio, from threads", 2)
async def _(names: Names) -> AsyncIterator[None]:
    yield

    async def main() -> None:
        here, there = memory_pair()
        async with psession.asyncio.bridge() as bridged:
            serving = asyncio.create_task(names["serve_one"](bridged, there))
            async with bridged.open(SessionManager().port("lamp", here)) as port:
                assert await port.request({}) == {"light": "on"}
            await serving

    in_a_thread(lambda: asyncio.run(main()))


@scene("From asyncio, from threads", 3)
async def _(names: Names) -> AsyncIterator[None]:
    printed = said(names)
    yield
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psession.blocking, "open_websocket", a_lamp_at)
        in_a_thread(names["main"])
    assert printed == [{"light": "on", "did": "queryStatus"}, {"light": "on", "did": "turnOnLight"}]


# -- tests -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", PIECES, ids=str)
def test_a_piece_of_the_guide_runs_to_its_end(block: Block) -> None:
    names = public_names()

    async def run() -> None:
        with trio.fail_after(LONGEST_RUN):
            async with SCENES[block.section, block.number](names):
                result = eval(compiled(block), names)
                if inspect.iscoroutine(result):
                    await result

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))


class Level(enum.Enum):
    """A value of the table of payloads."""

    HIGH = "high"


FORMS: Names = {name: getattr(datetime, name) for name in ("UTC", "date", "datetime", "timedelta")} | {
    "Decimal": decimal.Decimal,
    "Level": Level,
    "Status": Status,
    "UUID": uuid.UUID,
    "inf": math.inf,
    "nan": math.nan,
}


def test_what_becomes_of_a_payload_on_its_way_is_what_the_table_says() -> None:
    table = [line.strip("| ").split(" | ") for line in guide_section("Payloads").splitlines() if line.startswith("| ")]
    heads, unchanged, *rows = table
    for codec, column in ((JsonCodec(), 1), (MsgpackCodec(), 2)):
        assert ("JSON", "MessagePack")[column - 1] in heads[column]
        for same in re.findall(r"`(.*?)`", unchanged[0]):
            assert codec.decode(codec.encode({"v": eval(same)})) == {"v": eval(same)}
        for row in rows:
            sent = [eval(text, FORMS) for text in re.findall(r"`(.*?)`", row[0]) if text not in ("Enum", '"high"')]
            for value in sent:
                if "MalformedMessageError" in row[column]:
                    with pytest.raises(psession.MalformedMessageError):
                        codec.encode({"v": value})
                    continue
                got = codec.decode(codec.encode({"v": value}))["v"]
                shown = re.findall(r"`(.*?)`", row[column])[0]
                assert (got, type(got)) == (eval(shown, FORMS), type(eval(shown, FORMS)))
                kind = dict[int, int] if isinstance(value, dict) else type(value)
                assert msgspec.convert(got, kind, str_keys=True) == value
    assert len(rows) >= 12


def test_every_block_has_somebody_who_runs_it() -> None:
    assert sorted(SCENES) == sorted((block.section, block.number) for block in PIECES)
    assert {block.page for block in BLOCKS} <= {"guide.md", *ELSEWHERE}
    assert all((ROOT / test).exists() for test in ELSEWHERE.values())
    assert len(PIECES) >= 17


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_compiles_and_imports_what_there_is(block: Block) -> None:
    compiled(block)
    for node in ast.walk(ast.parse(block.code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "psession":
            module = importlib.import_module(node.module or "")
            assert {alias.name for alias in node.names} <= set(module.__all__)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "psession":
            assert node.attr in psession.__all__


def resolved(dotted: str) -> Any:
    """What a dotted name stands for, or an error."""
    module, *rest = dotted.split(".")
    found = importlib.import_module(module)
    for step, name in enumerate(rest, 2):
        with suppress(ImportError):
            importlib.import_module(".".join(dotted.split(".")[:step]))
        found = getattr(found, name)
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=place_of)
def test_a_name_of_psessions_that_a_page_says_is_one(page: Path) -> None:
    """The changelog has names that are gone, on purpose."""
    for dotted in INLINE.findall(page.read_text(encoding="utf-8")):
        assert resolved(dotted) is not None
