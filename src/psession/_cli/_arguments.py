"""The command line. A mistake there is told in one line that says what is right."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any, NoReturn

from psession._cli._address import FORM, Address
from psession._cli._console import complain
from psession._cli._nats import (
    DEFAULT_FLEET,
    DEFAULT_SERVER,
    NATS_FORM,
    NATS_SCHEMES,
    SERVERS_VARIABLE,
    NatsAddress,
    checked_server,
)
from psession._cli._problem import Exit
from psession._cli._wires import WIRES
from psession._version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from psession._cli._wires import Wire

MOST_AT_ONCE = 65535
"""As many sessions as a port may have open."""

MOST_DEVICES = 1_000_000
"""More files than that a process has nowhere by default."""

COMMANDS = {
    "demo": "see it work: six devices, one server, over real sockets; or a fleet",
    "echo": "a peer that answers each message with itself",
    "call": "send requests and print the replies",
    "watch": "see what the ports of a running program do",
    "gateway": "where the devices of a fleet connect, over NATS",
    "fleet": "see which devices and gateways of a fleet are where",
    "completion": "print what completes these commands in a shell",
}

SHELLS = ("bash", "zsh", "fish")

EXIT_CODES = """exit status:
  0    done: the reply is on standard output
  1    something else: the peer answered with an error, a library is missing, standard output is closed
  2    wrong arguments, or MESSAGE is too large
  3    no reply in time
  4    no connection, or it was lost
  5    MESSAGE is no JSON object
  130  Ctrl-C
With --lines: 0 if all were answered, else that of the first that was not.
"""


class Parser(argparse.ArgumentParser):
    """A parser that complains in one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """Complain, say what is right, and leave with status 2."""
        about, found, rest = message.partition("argument ")
        if found and not about:
            complain(f"{rest} (see {self.prog} --help)")
        else:
            complain(f"{message}; {' '.join(self.format_usage().split())}")
        raise SystemExit(Exit.USAGE)

    @property
    def arguments(self) -> Sequence[argparse.Action]:
        """Everything that it takes; argparse has no public list of it."""
        return self._actions


def make_parser() -> tuple[Parser, Mapping[str, Parser]]:
    """Make the parser, and those of the commands by their names."""
    parser = Parser(prog="psession", description="Request/reply sessions over one channel.", epilog=EXIT_CODES)
    parser.add_argument("--version", action="version", version=f"psession {__version__}", help="show the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    made = {name: commands.add_parser(name, help=text) for name, text in COMMANDS.items()}
    made["call"].epilog = EXIT_CODES
    _add_demo(made["demo"])
    _add_echo(made["echo"])
    _add_call(made["call"])
    _add_watch(made["watch"])
    _add_gateway(made["gateway"])
    _add_fleet(made["fleet"])
    _add_completion(made["completion"])
    return parser, made


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments: ``command``, and those of that command.

    Raises:
        SystemExit: They are wrong, and the user was told; or help was asked for.
    """
    parser, commands = make_parser()
    arguments, unknown = parser.parse_known_args(argv)
    if arguments.command is None:
        parser.error(f"give a command: {', '.join(COMMANDS)}")
    command = commands[arguments.command]
    if unknown:
        command.error(f"unrecognized arguments: {' '.join(unknown)}")
    if (check := CHECKS.get(arguments.command)) is not None:
        wrong = check(arguments)
        if wrong is not None:
            command.error(f"argument {wrong}")
    return arguments


def _add_completion(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Print a script that completes these commands, made from what they take. It goes where the shell finds it:\n"
        '  bash   eval "$(psession completion bash)" in ~/.bashrc\n'
        '  zsh    eval "$(psession completion zsh)" in ~/.zshrc, after compinit\n'
        "  fish   psession completion fish > ~/.config/fish/completions/psession.fish"
    )
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish")


def _add_demo(parser: argparse.ArgumentParser) -> None:
    text = "a fleet instead: a nats-server, three gateways, 300 devices; one gateway is killed"
    parser.add_argument("--fleet", action="store_true", help=text)


def _add_gateway(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Listen for devices of a fleet, print the URL, and serve each on its own subject of NATS.\n"
        "A device says who it is by the header Authorization: Bearer TOKEN of its handshake, or by ?token=TOKEN.\n"
        "SIGTERM and Ctrl-C end it when turns under way are over, or at once when they come a second time."
    )
    add = parser.add_argument
    add("--listen", metavar="URL", type=_gate, required=True, help="ws://HOST:PORT or wss://HOST:PORT, port 0: any")
    _add_nats(parser)
    add("--fleet", metavar="NAME", type=_name, default=DEFAULT_FLEET, help=f"the fleet's name ({DEFAULT_FLEET})")
    add("--name", metavar="NAME", type=_name, help="the gateway's name, for people (its id)")
    help = (
        "lines of TOKEN NAME, or sha256:DIGEST NAME; without it the path is the name, on the loopback interface alone"
    )
    add("--tokens", metavar="FILE", help=f"{help}; SIGHUP reads it anew")
    add("--drain", metavar="S", type=_seconds, default=10.0, help="seconds that a drain may take (10)")
    add(
        "--resume",
        metavar="S",
        type=_seconds,
        default=30.0,
        help="seconds that a device may be away (30)",
    )
    add("--max-devices", metavar="N", type=_many, default=10_000, help="devices at once (10000)")
    add("--certfile", metavar="FILE", help="for wss://: the certificate, in PEM")
    add("--keyfile", metavar="FILE", help="its key, where that is not in the same file")


def _add_fleet(parser: argparse.ArgumentParser) -> None:
    parser.description = "Print the gateways of a fleet and the devices that each has."
    _add_nats(parser)
    add = parser.add_argument
    add("--fleet", metavar="NAME", type=_name, default=DEFAULT_FLEET, help=f"the fleet's name ({DEFAULT_FLEET})")
    add("--watch", action="store_true", help="then what changes, as it happens, until Ctrl-C")


def _add_nats(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    help = f"a server of the broker's; may be repeated, for a cluster (${SERVERS_VARIABLE}, else {DEFAULT_SERVER})"
    add("--nats", metavar="SERVER", type=_server, action="append", help=help)
    _add_nats_user(add)
    add("--cafile", metavar="FILE", help="for tls:// of the broker's: whom to trust, in PEM")


def _add_nats_user(add: Callable[..., argparse.Action]) -> None:
    add("--creds", metavar="FILE", help="for NATS: who this is, a file with a JWT and a seed")
    add("--inbox", metavar="PREFIX", type=_name, help="for NATS: what subjects for answers begin with (_INBOX)")


def _add_echo(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Listen, print the URL, and answer each message with the message itself, its number included.\n"
        "SIGTERM ends it with status 0 when its exact sessions are over, or at once when it comes a second time.\n"
        "Ctrl-C ends it at once with status 130."
    )
    add = parser.add_argument
    add("url", metavar="URL", type=_listening, help=f"{FORM}; port 0 takes a free one")
    add(
        "--drain",
        metavar="S",
        type=_seconds,
        default=5.0,
        help="seconds that exact sessions may go on after SIGTERM (5)",
    )
    add("--certfile", metavar="FILE", help="for wss:// and tls://: the certificate, in PEM")
    add("--keyfile", metavar="FILE", help="its key, where that is not in the same file")


def _add_call(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Send MESSAGE to the peer at URL and print its reply, one line of JSON.\n"
        "With --lines there are as many messages as lines on standard input, and a summary on standard error."
    )
    add = parser.add_argument
    add("url", metavar="URL", type=_called, help=f"{FORM}; {NATS_FORM}")
    add("message", metavar="MESSAGE", help="a JSON object, or - to read one from standard input")
    add(
        "--timeout",
        metavar="S",
        type=_seconds,
        default=5.0,
        help="seconds for the connection, and for each attempt (5)",
    )
    add("--retry-count", metavar="N", type=_count, default=0, help="attempts after the first (0)")
    add("--retry-interval", metavar="S", type=_seconds, default=1.0, help="seconds between two attempts (1)")
    wire = parser.add_argument_group("protocol")
    add = wire.add_argument
    dialects = ", ".join(WIRES)
    either = wire.add_mutually_exclusive_group()
    either.add_argument("--dialect", metavar="NAME", choices=WIRES, help=f"{dialects} (classic; for NATS exact)")
    short = "short for --dialect exact"
    either.add_argument("--exact", dest="dialect", action="store_const", const="exact", help=short)
    add("--sid-name", metavar="NAME", type=_name, help="the field for the session's number (sid)")
    add("--stream", action="store_true", help="print every reply to MESSAGE, until the peer says it was the last")
    connection = parser.add_argument_group("connection")
    add = connection.add_argument
    add("--cafile", metavar="FILE", help="for wss:// and tls://: whom to trust, in PEM, instead of this machine's own")
    add("--insecure", action="store_true", help="trust any certificate, and any name in it")
    add("--header", metavar="NAME: VALUE", type=_header, action="append", help="for WebSockets; may be repeated")
    add("--subprotocol", metavar="NAME", action="append", help="for WebSockets; may be repeated, the best first")
    broker = parser.add_argument_group("nats://")
    add = broker.add_argument
    add("--fleet", metavar="NAME", type=_name, help=f"for device.NAME: the fleet's name ({DEFAULT_FLEET})")
    add("--wait", metavar="S", type=_seconds, help="for device.NAME: seconds to wait for a device that is nowhere (0)")
    _add_nats_user(add)
    many = parser.add_argument_group("many messages")
    add = many.add_argument
    add("--lines", action="store_true", help="MESSAGE is -, and each line of standard input is one")
    add("--rate", metavar="N", type=_rate, help="messages a second (as many as can be)")
    add("--concurrency", metavar="N", type=_number, help="how many may wait for their reply at a time (1)")


def _add_watch(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Show what the ports of a running program do: who waits, since when and why, rates, and drops.\n"
        "The program serves this by psession.inspector.serve(manager), and prints the URL."
    )
    add = parser.add_argument
    add("url", metavar="URL", type=_watched, help="the URL that the program printed, its token included")
    add("--every", metavar="S", type=_period, help="seconds from one look to the next (1)")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--terminal", action="store_true", help="show it in this terminal; so it is without --listen")
    either.add_argument("--once", action="store_true", help="show it once, and leave")
    either.add_argument(
        "--listen", metavar="HOST:PORT", type=_place, help="serve the page here instead, and print its URL"
    )


def _wrong_watch(given: argparse.Namespace) -> str | None:
    """Return what does not go together in the arguments of ``watch``."""
    if given.every is not None and (given.once or given.listen):
        return f"--every: it is for the terminal, not for --{'once' if given.once else 'listen'}"
    return None


def _wrong_echo(given: argparse.Namespace) -> str | None:
    """Return what does not go together in the arguments of ``echo``."""
    if given.url.is_secure and given.certfile is None:
        return f"URL: {given.url.scheme}:// needs a certificate; give --certfile FILE, and --keyfile FILE"
    if not given.url.is_secure and (given.certfile or given.keyfile):
        return f"--{'certfile' if given.certfile else 'keyfile'}: it is for wss:// and tls://, not for {given.url}"
    return None


def _wrong_call(given: argparse.Namespace) -> str | None:
    """Return what does not go together in the arguments of ``call``."""
    if (wrong := _wrong_nats_call(given)) is not None:
        return wrong
    wire = WIRES[given.dialect]
    if not given.url.is_secure and (given.cafile or given.insecure):
        return f"--{'cafile' if given.cafile else 'insecure'}: it is for wss:// and tls://, not for {given.url}"
    if given.cafile and given.insecure:
        return "--insecure: it trusts anybody, so --cafile says nothing; give one of the two"
    if not given.url.is_websocket and (given.header or given.subprotocol):
        return f"--{'header' if given.header else 'subprotocol'}: it is for ws:// and wss://, not for {given.url}"
    if given.sid_name and not wire.has_sid:
        return f"--sid-name: {given.dialect} has no such field; it is for {_those(lambda other: other.has_sid)}"
    if given.stream and not wire.streams:
        return f"--stream: {given.dialect} has one reply to a message; give {_those(lambda other: other.streams)}"
    if given.lines and given.message != "-":
        return "--lines: the messages come from standard input; give - for MESSAGE"
    if not given.lines and (given.rate or given.concurrency):
        return f"--{'rate' if given.rate else 'concurrency'}: it is for many messages; give --lines, and - for MESSAGE"
    return None


def _wrong_nats_call(given: argparse.Namespace) -> str | None:
    """Return what does not go together with NATS, or without; and choose the dialect where none is given."""
    is_nats = isinstance(given.url, NatsAddress)
    given.dialect = given.dialect or ("exact" if is_nats else "classic")
    if not is_nats:
        only = [name for name in ("fleet", "wait", "creds", "inbox") if getattr(given, name) is not None]
        return f"--{only[0]}: it is for nats://, not for {given.url}" if only else None
    if given.dialect != "exact":
        return f"--dialect: over NATS sessions are exact; leave {given.dialect} out"
    if given.url.device is None and (given.fleet is not None or given.wait is not None):
        option = "fleet" if given.fleet is not None else "wait"
        return f"--{option}: it is for a device, such as {given.url.scheme}://{given.url.where}/device.lamp"
    if given.url.device is not None and given.sid_name:
        return "--sid-name: gateways and devices have agreed on theirs"
    return None


def _wrong_gateway(given: argparse.Namespace) -> str | None:
    """Return what does not go together in the arguments of ``gateway``."""
    if given.listen.is_secure and given.certfile is None:
        return "--listen: wss:// needs a certificate; give --certfile FILE, and --keyfile FILE"
    if not given.listen.is_secure and (given.certfile or given.keyfile):
        return f"--{'certfile' if given.certfile else 'keyfile'}: it is for wss://, not for {given.listen}"
    return None


CHECKS: Mapping[str, Callable[[argparse.Namespace], str | None]] = {
    "echo": _wrong_echo,
    "call": _wrong_call,
    "watch": _wrong_watch,
    "gateway": _wrong_gateway,
}


def _those(has: Callable[[Wire], bool]) -> str:
    return " or ".join(f"--dialect {name}" for name, wire in WIRES.items() if has(wire))


def _listening(text: str) -> Address:
    address = _address(text)
    if address.is_websocket and address.path != "/":
        where = f"{address.scheme}://HOST:PORT"
        raise argparse.ArgumentTypeError(f"{text!r} has a path; echo answers on every path, give {where}")
    return address


def _calling(text: str) -> Address:
    address = _address(text)
    if address.port == 0 and address.scheme != "unix":
        raise argparse.ArgumentTypeError(f"{text!r}: nobody listens on port 0; give the peer's port, 1 to 65535")
    return address


def _called(text: str) -> Address | NatsAddress:
    if text.partition("://")[0] not in NATS_SCHEMES:
        return _calling(text)
    try:
        return NatsAddress.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _gate(text: str) -> Address:
    address = _address(text)
    if not address.is_websocket or address.path != "/":
        raise argparse.ArgumentTypeError(f"give ws://HOST:PORT or wss://HOST:PORT, not {text!r}")
    return address


def _server(text: str) -> str:
    try:
        return checked_server(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _many(text: str) -> int:
    if not 1 <= (number := _count(text)) <= MOST_DEVICES:
        raise argparse.ArgumentTypeError(f"give 1 to {MOST_DEVICES}, not {text}")
    return number


def _watched(text: str) -> Address:
    scheme, colon, rest = text.partition("://")
    if scheme not in ("http", "ws") or not colon:
        raise argparse.ArgumentTypeError(f"give http://HOST:PORT/?token=TOKEN, as the program printed it, not {text!r}")
    return _calling(f"ws://{rest}")


def _place(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and int(port) <= 65535):
        raise argparse.ArgumentTypeError(f"give HOST:PORT, such as 127.0.0.1:8765, not {text!r}")
    return host.strip("[]"), int(port)


def _period(text: str) -> float:
    seconds = _number_or_nan(text)
    if not 0.1 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"give 0.1 or more seconds, such as 2.5, not {text!r}")
    return seconds


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(text: str) -> float:
    seconds = _number_or_nan(text)
    if not seconds >= 0:
        raise argparse.ArgumentTypeError(f"give 0 or more seconds, such as 2.5, not {text!r}")
    return seconds


def _number_or_nan(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise argparse.ArgumentTypeError(f"give a whole number, 0 or more, not {text!r}")
    return int(text)


def _number(text: str) -> int:
    if not 1 <= (number := _count(text)) <= MOST_AT_ONCE:
        raise argparse.ArgumentTypeError(f"give 1 to {MOST_AT_ONCE}, not {text}")
    return number


def _rate(text: str) -> float:
    rate = _number_or_nan(text)
    if not 0 < rate < math.inf:
        raise argparse.ArgumentTypeError(f"give messages a second, such as 100 or 0.5, not {text!r}")
    return rate


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not (name.strip() and colon):
        raise argparse.ArgumentTypeError(f"give 'NAME: VALUE', such as 'Authorization: Bearer abc', not {text!r}")
    return name.strip(), value.strip()


def _name(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("give the name of a field, such as sid")
    return text
