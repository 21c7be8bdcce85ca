"""Every example runs as it stands, over real sockets, and says what it is there to show."""

import importlib.util
import re
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import trio
from trio_websocket import serve_websocket

EXAMPLES = Path(__file__).parent.parent / "examples"
LONGEST_FILE = 59
LONGEST_RUN = 10  # seconds; the slowest takes about one

SAYS = {
    "control_centre": [
        r"lamp +ok, session 1",
        r"lock +ok, session 1",
        r"heating +ok, session 1",
        r"garage +silent: 2 attempts in \d\.\d\d s",
        r"drone +gone, which was known after \d\.\d\d s",
        r"answers: 3, timeouts: 1, ports still open: 0",
    ],
    "event_bus": [r"doorbell: pressed", *(rf"{name}: ok \(session 1\)" for name in ("lamp", "oven", "heating"))],
    "login_dialogue": [
        r"  needPassword  -> hunter2\n  wrongPassword -> 123456\nsession 1: ok",
        r"  wrongPassword -> 2222\nsession 2: locked",
    ],
    "own_receive_loop": [
        r"session \d: the sum of \[1, 2\] is 3",
        r"session \d: the sum of \[3, 4, 5\] is 12",
        r"session \d: the sum of \[6\] is 6",
        r"no session's: {'news': 'a question came'}",
    ],
    "progress": [
        *(rf"good\.bin: {percent} %" for percent in (0, 25, 50, 75, 100)),
        r"broken\.bin: 0 %\nbroken\.bin: bad_file, the checksum is wrong",
        r"large\.bin: 0 %\nlarge\.bin: 25 %\n  device: nobody waits for it any more",
    ],
    "reconnecting_client": [
        r"  connecting\n  open\n20.5 degrees\n20.9 degrees\n  broken, EndOfChannel\(\)",
        r"  connecting\n  open\n21.4 degrees\n21.6 degrees\n  broken, EndOfChannel\(\)",
        r"21.5 degrees\n21.1 degrees\n  closed",
    ],
    "server_opens_sessions": [
        *(rf"the centre hears: {name} is well \(session 1\)" for name in ("lamp", "lock", "oven")),
        r"  the centre is asked 'is the centre there for oven\?' in session 2",
        r"  the centre is asked 'and still there for oven\?' in session 4",
    ],
    "socket_server": [
        *(rf"{{'hello': 'this is {name}, in no session'}}" for name in ("anna", "bert")),
        *(rf"{name}: getTime -> \d{{4}}-.+ \(session \d\)" for name in ("anna", "bert")),
        *(rf"{name}: makeTea -> unknown command \(session \d\)" for name in ("anna", "bert")),
    ],
    "websocket_client": [
        r"news: 2 devices are connected",
        r"devices: \['lamp-1', 'oven-7'\]",
        r"details: {'deviceId': 'lamp-1', 'watts': 9, 'on': True, 'sid': 1}",
    ],
    "websocket_server": [
        r"client: getStatus is processing",
        r"server: the client is listening, session 1",
        r"client: getStatus is completed 42 devices, all well",
    ],
}


def load(name: str) -> ModuleType:
    """An example as a fresh module, its `__main__` part not run."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", SAYS)
async def test_an_example_runs_to_its_end_and_says_what_it_should(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with trio.fail_after(LONGEST_RUN):
        await load(name).main()
    output = capsys.readouterr().out
    assert [line for line in SAYS[name] if not re.search(rf"^{line} *$", output, re.MULTILINE)] == []


async def test_the_websocket_client_talks_to_the_server_that_it_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    example = load("websocket_client")
    with trio.fail_after(LONGEST_RUN):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(partial(serve_websocket, example.serve_client, "127.0.0.1", 0, None))
            await example.main(f"ws://127.0.0.1:{server.port}")
            nursery.cancel_scope.cancel()
    assert "devices: ['lamp-1', 'oven-7']" in capsys.readouterr().out


def test_no_example_goes_untested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == SAYS.keys()


@pytest.mark.parametrize("name", SAYS)
def test_an_example_is_short_and_says_what_it_shows(name: str) -> None:
    assert load(name).__doc__
    assert len((EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE
