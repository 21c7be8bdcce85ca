"""The command ``psession``: ``demo``, ``echo``, ``call``, ``watch``, ``gateway``, ``fleet`` and ``completion``.

Nothing large is imported before `main` runs, since a Ctrl-C in the middle of it would end in a traceback.
"""

from __future__ import annotations

from psession import _interrupt

TYPE_CHECKING = False  # see `_interrupt`

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status. A failure is told in one line on standard error.

    Args:
        argv: The arguments after the command's name. ``None`` stands for those of the process, which is then about to
            end: a Ctrl-C after the command is ignored.
    """
    is_process = argv is None
    try:
        if is_process:
            _interrupt.exit_while_starting()
        from psession._cli._commands import run

        if is_process:
            _interrupt.raise_from_now_on()
        status = run(argv)
        if is_process:
            _interrupt.ignore_from_now_on()
    except KeyboardInterrupt:
        if is_process:
            _interrupt.ignore_from_now_on()
        return _interrupt.INTERRUPTED
    return status
