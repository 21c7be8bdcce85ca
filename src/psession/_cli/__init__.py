"""The command ``psession``: ``demo``, ``echo`` and ``call``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from psession._cli import call, demo, echo
from psession._cli._arguments import parse
from psession._cli._console import OutputLost, abandon_output, complain, quiet_logs
from psession._cli._problem import Exit, Problem
from psession._cli._websocket import check_library

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable, Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; what goes wrong is told in one line on standard error.

    Args:
        argv: The arguments after the command's name; ``None``: those of the process.
    """
    try:
        with quiet_logs():
            return _run(_command(parse(argv)))
    except SystemExit as leaving:  # argparse, after help or a complaint
        return leaving.code if isinstance(leaving.code, int) else Exit.OK
    except Problem as problem:
        complain(str(problem))
        return problem.code
    except OutputLost as error:
        abandon_output()
        if not isinstance(error.__cause__, BrokenPipeError):  # "| head" is no mistake
            complain(str(error))
        return Exit.FAILED
    except KeyboardInterrupt:
        return Exit.INTERRUPTED


def _command(arguments: argparse.Namespace) -> Callable[[], Awaitable[Exit]]:
    """What the arguments ask for; what can be checked at once is checked here."""
    if arguments.command == "demo":
        check_library()
        return demo.run
    if arguments.url.scheme == "ws":
        check_library()
    if arguments.command == "echo":
        return partial(echo.run, arguments.url, drain=arguments.drain)
    return partial(
        call.run,
        arguments.url,
        call.read_message(arguments.message),
        within=arguments.timeout,
        options={
            "session_timeout": arguments.timeout,
            "retry_count": arguments.retry_count,
            "retry_interval": arguments.retry_interval,
            "session_id_name": arguments.sid_name,
        },
    )


def _run(command: Callable[[], Awaitable[Exit]]) -> int:
    """Run it under Trio. Of several errors at once, the one to tell comes out."""
    try:
        return trio.run(command)
    except BaseExceptionGroup as group:
        for kind in (KeyboardInterrupt, OutputLost, Problem):
            if (found := _first(group, kind)) is not None:
                raise found from None
        raise


def _first(error: BaseException, kind: type[BaseException]) -> BaseException | None:
    if isinstance(error, BaseExceptionGroup):
        return next((found for part in error.exceptions if (found := _first(part, kind)) is not None), None)
    return error if isinstance(error, kind) else None
