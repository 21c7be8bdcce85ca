"""A child process at the other end: messages over its pipes, its last words in the error, its end in bounded time."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import trio

from psession import checks
from psession.channels._base import DEFAULT_MAX_MESSAGE_BYTES
from psession.channels._framed import FramedChannel
from psession.channels._streams import StreamOptions
from psession.nursery import close_forcefully, open_quiet_nursery
from psession.protocol.bucket import Lines
from psession.text import printable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from psession.channels._streams import FramingMaker, FramingName
    from psession.channels.codecs import Codec, CodecName

DEFAULT_GRACE: Final = 5.0
"""Seconds for a child to end. `trio.run_process` waits as long between its two signals."""

DEFAULT_MAX_STDERR_BYTES: Final = 4096
"""Two tracebacks of twenty lines."""

LAST_WORDS_SECONDS: Final = 0.02
"""How long the standard error of a dead child is waited for: its end is there at once, unless another process holds the
pipe open."""

EXIT_SECONDS: Final = 1.0
"""How long a child that closed a pipe may take to end before that counts as closing alone. An interpreter takes some
milliseconds."""

MOST_LEFT_BYTES: Final = 1024 * 1024
"""What is read from the pipe of a dead child: as much as a pipe may hold (``/proc/sys/fs/pipe-max-size``). More is
another process's that holds it open."""

StderrChoice: TypeAlias = "Literal['pass', 'keep'] | Callable[[bytes], object]"
"""What becomes of the standard error of a child."""

log = logging.getLogger("psession")


class ProcessChannel(FramedChannel):
    """Messages over the standard input and output of a child process; `process` makes one.

    A child that ends with status 0 is the end of the channel, after all that it wrote. One that ends otherwise, or is
    killed, breaks it: the error has its status and the end of its standard error. Closing the channel closes the
    child's standard input, and leaves the rest to the block of `process`.

    Attributes:
        process: The `trio.Process`: its ``pid``, its ``returncode``, signals. Its streams are the channel's.
    """

    __slots__ = ("_child", "process")

    def __init__(self, child: _Child, options: StreamOptions) -> None:
        super().__init__(
            child,
            options.make_framing(),
            codec=options.codec,
            max_message_bytes=options.max_message_bytes,
            close_timeout=options.close_timeout,
        )
        self.process: trio.Process = child.process
        self._child = child

    @property
    def stderr(self) -> bytes:
        """The end of what the child has written to its standard error; nothing where that is passed on."""
        return bytes(self._child.stderr)


class _Child(trio.abc.Stream):
    """The pipes of a child as one stream, and the tasks around them.

    Attributes:
        process: The child.
        stderr: The end of its standard error.
    """

    def __init__(self, process: trio.Process, program: str, call: Callable[[bytes], object] | None, most: int) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self.stderr: bytearray = bytearray()
        self._stdin = process.stdin
        self._stdout = process.stdout
        self._name = f"{program!r} (process {process.pid})"
        self._call = call
        self._most_stderr = most
        self._lines = Lines(trio.current_time())
        self._is_closed = False
        self._is_gone = trio.Event()
        self._has_said_all = trio.Event()
        self._left_bytes = 0
        self._reading: trio.CancelScope | None = None
        self._writing: trio.CancelScope | None = None
        self._tasks = trio.CancelScope(shield=True)

    # -- the stream --------------------------------------------------------------------------------------------------

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write to the child's standard input.

        Raises:
            trio.BrokenResourceError: The child is gone, or closed its standard input.
            trio.ClosedResourceError: This side closed it.
        """
        cause: trio.BrokenResourceError | None = None
        if not self._is_gone.is_set():
            try:
                with trio.CancelScope() as self._writing:
                    await self._stdin.send_all(data)
                    return
            except trio.BrokenResourceError as error:
                cause = error
            finally:
                self._writing = None
        await self._wait_gone()
        raise trio.BrokenResourceError(self._ending() or f"{self._name} closed its standard input") from cause

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the child's standard input takes more."""
        await self._stdin.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Read from the child's standard output; nothing at its end, where the child ended with status 0 or goes on.

        Raises:
            trio.BrokenResourceError: The child ended with another status.
            trio.ClosedResourceError: This side closed the stream.
        """
        data = b""
        if self._is_gone.is_set() or self._is_closed:
            await trio.lowlevel.checkpoint()
        else:
            try:
                with trio.CancelScope() as self._reading:
                    data = bytes(await self._stdout.receive_some(max_bytes))
                    if not data:
                        await self._wait_gone()
            finally:
                self._reading = None
        if self._is_gone.is_set() and not (data or self._is_closed):
            data = self._read_left(max_bytes)
        if data:
            return data
        if self._is_closed:
            raise trio.ClosedResourceError("this side closed the pipes of the child")
        if self.process.returncode:
            raise trio.BrokenResourceError(self._ending())
        return b""

    def _read_left(self, max_bytes: int | None) -> bytes:
        """What a dead child left in its pipe, without waiting: another process may hold that open for ever."""
        descriptor: int = getattr(self._stdout, "fileno", lambda: -1)()
        if descriptor == -1 or self._left_bytes > MOST_LEFT_BYTES:
            return b""
        try:
            data = os.read(descriptor, max_bytes or 65536)
        except BlockingIOError:
            return b""
        self._left_bytes += len(data)
        return data

    async def _wait_gone(self) -> None:
        """Wait until the child is gone, or has shown that it goes on without the pipe that it closed."""
        with trio.move_on_after(EXIT_SECONDS):
            await self._is_gone.wait()

    def _ending(self) -> str:
        """How the child ended, with the end of its standard error; empty while it lives."""
        status = self.process.returncode
        if status is None:
            return ""
        how = f"ended with status {status}" if status >= 0 else f"was killed by {_signal_name(-status)}"
        said = self.stderr.decode(errors="replace").strip().splitlines()
        if not said:
            return f"{self._name} {how}"
        # Marked, so that no line of the child's looks like one of somebody else's log.
        return "\n  | ".join([f"{self._name} {how}; the end of its standard error:", *map(printable, said)])

    async def aclose(self) -> None:
        """Close the child's standard input; who reads or writes gets `trio.ClosedResourceError`."""
        self._is_closed = True
        if self._reading is not None:
            self._reading.cancel()
        await self._stdin.aclose()

    # -- beside it ---------------------------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Listen to the standard error, and watch for the end of the child. Shielded; ended by `end`."""
        with self._tasks:
            async with open_quiet_nursery() as nursery:
                nursery.start_soon(self._listen)
                await self.process.wait()
                with trio.move_on_after(LAST_WORDS_SECONDS):
                    await self._has_said_all.wait()
                self._is_gone.set()
                for scope in (self._reading, self._writing):
                    if scope is not None:
                        scope.cancel()

    async def _listen(self) -> None:
        if self.process.stderr is not None:
            async for data in self.process.stderr:
                self.stderr += data
                del self.stderr[: -self._most_stderr]
                self._tell(bytes(data))
        self._has_said_all.set()

    @trio.lowlevel.disable_ki_protection
    def _tell(self, data: bytes) -> None:
        if self._call is None:
            return
        try:
            self._call(data)
        except Exception:
            more = self._lines.take(trio.current_time())
            if more is not None:
                text = "the function that takes the standard error of %s failed%s"
                log.exception(text, self._name, more, extra={"event_name": "stderr_function_raised"})

    async def _drain(self) -> None:
        """Read what nobody wants any more, so that a child that is still writing comes to its end."""
        while self._reading is not None:  # it was cancelled, and ends in a pass or two
            await trio.lowlevel.checkpoint()
        async for _ in self._stdout:
            pass

    @trio.lowlevel.enable_ki_protection
    async def end(self, grace: float) -> None:
        """End the child in `grace` seconds, and leave nothing of it. Cancelled, the child is told to end at once."""
        try:
            await self._part(trio.current_time(), grace)
        finally:
            # Also where a second Ctrl-C came in between: the tasks are shielded, and nobody else would end them.
            self._tasks.cancel()
            if self.process.returncode is None:
                text = "%s was killed: it did not end in %g s (grace)"
                log.warning(text, self._name, grace, extra={"event_name": "child_killed"})
                self.process.kill()
            with trio.CancelScope(shield=True):  # what SIGKILL does not end at once is in the kernel's hands
                await self.process.wait()
            for stream in (self._stdin, self._stdout, self.process.stderr):
                if stream is not None:
                    await close_forcefully(stream)

    async def _part(self, start: float, grace: float) -> None:
        try:
            with trio.move_on_at(start + grace / 2):
                async with open_quiet_nursery() as nursery:
                    nursery.start_soon(self._drain)
                    await self.process.wait()
                    nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(deadline=start + grace, shield=True):
                self.process.terminate()
                await self.process.wait()


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def process(
    command: Sequence[str | bytes | os.PathLike[str] | os.PathLike[bytes]],
    *,
    framing: FramingName | FramingMaker = "lines",
    codec: Codec | CodecName = "json",
    stderr: StderrChoice = "pass",
    max_message_bytes: float = DEFAULT_MAX_MESSAGE_BYTES,
    max_stderr_bytes: int = DEFAULT_MAX_STDERR_BYTES,
    grace: float = DEFAULT_GRACE,
    **options: Any,
) -> AsyncIterator[ProcessChannel]:
    """``async with process(["lamp", "--stdio"]) as channel``: messages to and from a child process.

    They go to its standard input, and come from its standard output. When the child ends, whoever waits in the channel
    or in a port over it learns so at once. With status 0 that is `trio.EndOfChannel`, after all that it wrote;
    otherwise `trio.BrokenResourceError`, whose text has the status and the end of the standard error, where that is
    kept. A child that leaves its work to another process and ends is over for the channel.

    Leaving the block ends the child, in ``grace`` seconds: its standard input is closed, and what it still writes is
    read and dropped; after half of the time it gets SIGTERM, after all of it SIGKILL. Cancelled, it gets SIGTERM at
    once. Nothing of it is left, no zombie and no pipe. What the body raises comes out as it is.

    Args:
        command: The program and its arguments. For a shell: ``["sh", "-c", "..."]``.
        framing: ``"lines"``, ``"content_length"`` (language servers), ``"length_prefixed"``, or a class made from
            `Framing`.
        codec: ``"json"``, ``"msgpack"`` or a codec.
        stderr: What becomes of the child's standard error. ``"pass"``: it is this program's. ``"keep"``: its end is
            kept, for the error and ``channel.stderr``. A function: called with the bytes as they come, and the end is
            kept as well. It must not wait; what it raises is logged.
        max_message_bytes: How long an encoded message may be, either way; ``math.inf`` for no limit.
        max_stderr_bytes: How much of the standard error is kept.
        grace: Seconds that the child has to end when the block is left.
        options: More for `trio.lowlevel.open_process`, such as ``cwd`` and ``env``.

    Raises:
        OSError: The command cannot be started, such as a `FileNotFoundError`, which says what was not found.
        TypeError: The command is a text, or another argument is of the wrong type.
        ValueError: The command is empty, or another argument is out of its range.
    """
    if isinstance(command, str | bytes | os.PathLike):
        raise TypeError(f'command must be a list, such as ["lamp", "--stdio"], not {command!r}')
    if not command:
        raise ValueError('command must name a program, such as ["lamp", "--stdio"]')
    if stderr not in ("pass", "keep") and not callable(stderr):
        raise ValueError(f'stderr must be "pass", "keep" or a function, not {stderr!r}')
    checks.count("max_stderr_bytes", max_stderr_bytes)
    checks.seconds("grace", grace)
    stream_options = StreamOptions(
        framing=framing, codec=codec, max_message_bytes=max_message_bytes, close_timeout=grace
    )
    stream_options.check()
    child = await _start(command, stderr, max_stderr_bytes, options)
    async with open_quiet_nursery() as nursery:
        nursery.start_soon(child.run)
        try:
            async with ProcessChannel(child, stream_options) as channel:
                yield channel
        finally:
            await child.end(grace)


async def _start(command: Sequence[Any], stderr: StderrChoice, most: int, options: dict[str, Any]) -> _Child:
    program = printable(os.fsdecode(command[0]))
    try:
        started = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if stderr == "pass" else subprocess.PIPE,
            **options,
        )
    except OSError as error:
        raise type(error)(error.errno, f"cannot start {program!r}: {error.strerror}", error.filename) from error
    return _Child(started, program, stderr if callable(stderr) else None, most)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
