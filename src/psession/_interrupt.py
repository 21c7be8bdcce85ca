"""Ctrl-C before, during and after a command. Before it, this module is in force once it is imported.

It imports little, since Python shows a traceback until it is in force.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # as in `typing`, which takes longer to import than all else that is needed here

if TYPE_CHECKING:
    from typing import Final, NoReturn

INTERRUPTED: Final = 130
"""128 and the number of SIGINT, as shells have it."""


def is_the_command() -> bool:
    """Return True in a process that was started as ``psession`` or ``python -m psession``."""
    if sys.argv[:1] == ["-m"]:  # Python puts the path there when it has found the module
        following = zip(sys.orig_argv, sys.orig_argv[1:], strict=False)
        return any(flag[:1] == "-" and flag[-1:] == "m" and name == "psession" for flag, name in following)
    return os.path.basename("".join(sys.argv[:1])).removesuffix(".exe") == "psession"


def exit_while_starting() -> None:
    """Let a Ctrl-C end the process at once with status 130. It has done nothing yet that needs to be undone.

    An exception could come out anywhere, even in a callback of the import system, which prints and swallows it.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it was started to ignore a Ctrl-C
        exit_from_now_on()


def exit_from_now_on() -> None:
    """Let a Ctrl-C end the process at once with status 130, whatever it did before."""
    signal.signal(signal.SIGINT, _exit)


def raise_from_now_on() -> None:
    """Let a Ctrl-C raise `KeyboardInterrupt`, as Trio expects it, if `exit_while_starting` has changed that."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def ignore_from_now_on() -> None:
    """Let a Ctrl-C do nothing: the command is over, and only Python's own shutdown is left."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _exit(*_: object) -> NoReturn:
    os._exit(INTERRUPTED)


if is_the_command():
    exit_while_starting()
