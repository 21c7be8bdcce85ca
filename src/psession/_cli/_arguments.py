"""The command line. A mistake there is told in one line that says what is right."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any, NoReturn

from psession._cli._address import FORM, Address
from psession._cli._console import complain
from psession._cli._problem import Exit
from psession._version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_CODES = """exit status:
  0    done: the reply is on standard output
  1    something else: a library is missing, standard output is closed
  2    wrong arguments, or MESSAGE is too large
  3    no reply in time
  4    no connection, or it was lost
  5    MESSAGE is no JSON object
  130  Ctrl-C
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


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments: ``command``, and those of that command.

    Raises:
        SystemExit: They are wrong, and the user was told; or help was asked for.
    """
    parser = Parser(prog="psession", description="Request/reply sessions over one channel.", epilog=EXIT_CODES)
    parser.add_argument("--version", action="version", version=f"psession {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    commands.add_parser("demo", help="see it work: six devices, one server, over real sockets")
    _add_echo(commands.add_parser("echo", help="a peer that answers each message with itself"))
    _add_call(commands.add_parser("call", help="send one request and print the reply", epilog=EXIT_CODES))
    arguments, unknown = parser.parse_known_args(argv)
    if arguments.command is None:
        parser.error("give a command: demo, echo or call")
    if unknown:
        commands.choices[arguments.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    return arguments


def _add_echo(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Listen, print the URL, and answer each message with the message itself, its number included.\n"
        "SIGTERM ends it with status 0 when its exact sessions are over, or at once when it comes a second time.\n"
        "Ctrl-C ends it at once with status 130."
    )
    parser.add_argument("url", metavar="URL", type=_listening, help=f"{FORM}; port 0 takes a free one")
    parser.add_argument(
        "--drain",
        metavar="S",
        type=_seconds,
        default=5.0,
        help="seconds that exact sessions may go on after SIGTERM (5)",
    )


def _add_call(parser: argparse.ArgumentParser) -> None:
    parser.description = "Send MESSAGE to the peer at URL and print its reply, one line of JSON."
    add = parser.add_argument
    add("url", metavar="URL", type=_calling, help=f"{FORM} (tcp: one line of JSON a message)")
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
    add("--sid-name", metavar="NAME", type=_name, default="sid", help="the field for the session's number (sid)")


def _listening(text: str) -> Address:
    address = _address(text)
    if address.path != "/":
        raise argparse.ArgumentTypeError(f"{text!r} has a path; echo answers on every path, give {FORM}")
    return address


def _calling(text: str) -> Address:
    address = _address(text)
    if address.port == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: nobody listens on port 0; give the peer's port, 1 to 65535")
    return address


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise argparse.ArgumentTypeError(f"give 0 or more seconds, such as 2.5, not {text!r}")
    return seconds


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise argparse.ArgumentTypeError(f"give a whole number, 0 or more, not {text!r}")
    return int(text)


def _name(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("give the name of a field, such as sid")
    return text
