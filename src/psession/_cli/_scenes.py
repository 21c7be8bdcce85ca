"""The scenes of the demo. Each checks what it shows as it happens."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from psession import PortClosedError, SessionError, SessionTimeoutError
from psession._cli._devices import PASSWORD

if TYPE_CHECKING:
    from psession._cli._centre import Centre
    from psession._cli._devices import Doorbell

QUESTIONS = 40


async def dialogue(centre: Centre) -> None:
    """Show a dialogue: two turns in one session."""
    port, show = centre.port("lamp"), centre.transcript
    async with port.session() as session:
        answer = await session.send({"command": "turnOnLight"})
        if answer["status"] == "needPassword":
            answer = await session.send({"password": PASSWORD})
        turns = port.statistics().matched
        on = turns == 2 and answer.get("light") == "on"
        show.check(on, f"{turns} turns of session {session.sid}, and the light is {answer.get('light')}")


async def retry(centre: Centre) -> None:
    """Show a retry: the device sleeps through the first attempt."""
    port, show = centre.port("sensor"), centre.transcript
    sent = port.statistics().sent
    answer = await port.request({"command": "humidity"}, timeout=0.3, retry_count=2, retry_interval=0.1)
    attempts = port.statistics().sent - sent
    show.check(attempts == 2 and "humidity" in answer, f"one turn, {attempts} attempts: the caller just got the answer")


async def timeout(centre: Centre) -> None:
    """Show a timeout: the first answer comes too late, and is not mistaken for the second."""
    port, show = centre.port("oven"), centre.transcript
    async with port.session(timeout=0.4) as session:
        try:
            await session.send({"command": "temperature"})
        except SessionTimeoutError as error:
            show.note(failure(error), "yellow")
        first = session.sid
        answer = await session.send({"command": "temperature"})
        late = port.statistics().late
        fresh = session.sid != first and answer["celsius"] == 180 and late == 1
        show.check(fresh, f"asked again as #{session.sid}: {answer['celsius']} degrees; late answers dropped: {late}")


async def vanishing(centre: Centre) -> None:
    """Show a device that vanishes in the middle of a turn."""
    show = centre.transcript
    try:
        await centre.port("drone").request({"command": "land"}, timeout=30)
    except PortClosedError as error:
        show.note(failure(error), "yellow")
        known = error.waited < 1
        show.check(known, f"known at once, {30 - error.waited:.0f} s before the timeout")
    else:
        show.check(False, "the drone answered")


async def concurrency(centre: Centre) -> None:
    """Show forty questions at once over one socket, answered in any order."""
    port, show = centre.port("meter"), centre.transcript
    right = 0

    async def ask(register: int) -> None:
        nonlocal right
        with suppress(SessionError):  # then it is not counted as right
            answer = await port.request({"command": "read", "register": register})
            right += answer["register"] == register

    started = trio.current_time()
    with show.together("meter", QUESTIONS):
        async with trio.open_nursery() as nursery:
            for register in range(QUESTIONS):
                nursery.start_soon(ask, register)
    took = trio.current_time() - started
    show.check(right == QUESTIONS, f"{right} of {QUESTIONS} answers reached their own question, in {took:.2f} s")


async def ringing(centre: Centre, doorbell: Doorbell) -> None:
    """Show the other direction: a device opens a session, and the centre asks back in it."""
    answer = await doorbell.press()
    centre.transcript.check(answer.get("door") == "open", f"the door is {answer.get('door')}")


def failure(error: SessionError) -> str:
    """Return an error in short: its type, its seconds and its attempts."""
    attempts = "1 attempt" if error.attempts == 1 else f"{error.attempts} attempts"
    return f"{type(error).__name__} after {error.waited:.2f} s and {attempts}"
