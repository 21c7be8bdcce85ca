"""``psession demo``: a control centre and six devices in one process, over real WebSockets."""

from __future__ import annotations

from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import trio

from psession import SessionError
from psession._cli import _devices, _scenes
from psession._cli._address import Address
from psession._cli._centre import Centre
from psession._cli._problem import Exit, Problem
from psession._cli._transcript import Transcript
from psession._cli._url import serve_url
from psession._version import __version__

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from psession import Statistics
    from psession._cli._url import Listening

HOST = "127.0.0.1"

PAUSE = 0.2
"""Seconds between two scenes."""

LONGEST = 9.0
"""The demo is given up after this many seconds; it takes four."""


async def run() -> Exit:
    """Play the scenes and show each message. The status is 1 if a scene does not come out as it should.

    Raises:
        OutputLost: Standard output has no reader.
        Problem: It cannot listen on the loopback interface, or nothing happens any more.
    """
    tasks = trio.lowlevel.current_statistics().tasks_living
    scope = trio.CancelScope(deadline=trio.current_time() + LONGEST)
    show = Transcript(scope)
    with scope:
        counted = await _play(show)
        _summary(show, counted, trio.lowlevel.current_statistics().tasks_living - tasks)
    if show.lost is not None:
        raise show.lost
    if scope.cancelled_caught:
        raise Problem(f"the demo did not come to its end in {LONGEST:g} s", Exit.FAILED)
    return Exit.FAILED if show.failed else Exit.OK


async def _play(show: Transcript) -> Statistics:
    """Play all scenes, and return the centre's counters after the last device has left."""
    doorbell = _devices.Doorbell()
    devices = [_devices.Lamp(), _devices.Sensor(), _devices.Oven(), _devices.Drone(), _devices.Meter(), doorbell]
    centre = Centre(show, len(devices))
    async with trio.open_nursery() as nursery:
        listening: Listening = await nursery.start(serve_url, centre.welcome, Address("ws", HOST))
        show.title(f"psession {__version__} · a control centre and its devices on {listening.address}")
        for device in devices:
            nursery.start_soon(device.run, listening.address)
        await centre.complete.wait()
        show.note(f"connected: {', '.join(sorted(centre.manager.ports))}")
        await _scenes_in_turn(centre, doorbell)
        # All say goodbye before the nursery is cancelled: that would end the tasks which read the answers.
        for device in devices:
            device.port.close()
        await centre.deserted.wait()
        nursery.cancel_scope.cancel()
    return centre.manager.statistics()


async def _scenes_in_turn(centre: Centre, doorbell: _devices.Doorbell) -> None:
    scenes: list[tuple[str, Callable[[Centre], Awaitable[None]]]] = [
        ("A dialogue: two turns in one session", _scenes.dialogue),
        ("A retry: the device sleeps through the first attempt", _scenes.retry),
        ("A timeout: an answer that comes too late is not taken for the next one", _scenes.timeout),
        ("A device that vanishes in the middle of a turn", _scenes.vanishing),
        (f"{_scenes.QUESTIONS} questions at once over one socket, answered in any order", _scenes.concurrency),
        ("The other way round: a device opens the session", partial(_scenes.ringing, doorbell=doorbell)),
    ]
    for number, (title, scene) in enumerate(scenes, start=1):
        await trio.sleep(PAUSE)
        centre.transcript.title(f"{number}  {title}")
        try:
            await scene(centre)
        except SessionError as error:
            centre.transcript.check(False, f"{type(error).__name__}: {error}")


def _summary(show: Transcript, counted: Statistics, tasks: int) -> None:
    came, sent = show.messages
    table = [
        [("messages out", sent), ("sessions opened", counted.opened), ("turns answered", counted.matched)],
        [("messages in", came), ("by a device", counted.accepted), ("timed out", counted.timed_out)],
        [("late replies", counted.late), ("still open", counted.open), ("cut off", counted.aborted)],
    ]
    show.title(f"What the centre counted in {show.elapsed:.1f} s")
    cells = [[f"{name:<16}{value:>5}" for name, value in row] for row in table]
    for row in [[cell] for cell in chain(*cells)] if show.narrow else cells:
        show.line("  ", "      ".join(row))
    show.check(not (counted.open or tasks), f"left behind: {counted.open} sessions, {tasks} tasks")
    show.title("Try it yourself")
    show.line("  psession echo ws://127.0.0.1:8080")
    show.line("  psession call ws://127.0.0.1:8080 '{\"q\":1}'", ("      in another terminal", "dim"))
