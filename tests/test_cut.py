"""Real TCP connections that are cut in the middle of messages: each turn is answered rightly or fails truthfully, and
none is run twice.

``PSESSION_CUT=100x1000`` makes it 100 seeds of 1000 turns instead of the suite's few.
"""

from __future__ import annotations

import os
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio

from psession import Exact, SessionManager
from psession.channels import lines, reconnecting

from .cutting import HERE, CuttingProxy
from .tables import assert_empty
from .test_terrible import Book

if TYPE_CHECKING:
    from psession import Port

SEEDS, TURNS = map(int, os.environ.get("PSESSION_CUT", "3x200").split("x"))

PATIENT: dict[str, Any] = {
    "dialect": Exact(),
    "session_timeout": 20,
    "session_id_rest": 1,
    "resume_within": 20,
}


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_over_tcp_that_is_cut_in_mid_message_both_sides_ask_and_no_turn_is_run_twice(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL", "psession")
    book = Book(pace=0.01)
    server = SessionManager(on_session=book.handle, session_ids=range(2, 600, 2), **PATIENT)
    client = SessionManager(on_session=book.handle, session_ids=range(1, 600, 2), **PATIENT)
    served: list[Port] = []
    there = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        async with server.accept(lines(stream), f"client {len(served)}") as port:
            if port not in served:
                served.append(port)
            there.set()
            await port.wait_closed()

    async def connect() -> trio.abc.Channel[Any]:
        return lines(await trio.open_tcp_stream(HERE, number))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host=HERE))
            proxy = CuttingProxy(listeners[0].socket.getsockname()[1], seed, 4000)
            number = await nursery.start(proxy.run)
            async with (
                reconnecting(connect, first_delay=0.001, max_delay=0.01) as channel,
                client.port("server", channel) as port,
            ):
                await port.request({"token": -1, "kind": "echo"})  # from its welcome on the client is known
                await there.wait()
                proxy.cutting = True
                proxy.cut()
                async with trio.open_nursery() as both:
                    both.start_soon(book.drive, port, 0, TURNS // 2, seed)
                    both.start_soon(book.drive, served[0], TURNS // 2, TURNS - TURNS // 2, seed)
                statistics = port.statistics()
                while [one for one in served if not one.closed] != served[:1]:  # noqa: ASYNC110 - sockets set no event
                    await trio.sleep(0.001)  # the others' first word was cut off: nobody waits for them
            nursery.cancel_scope.cancel()
    book.check(TURNS)
    assert proxy.cuts > TURNS / 50
    assert statistics.forgotten == 0
    assert statistics.resumed > TURNS / 100
    outcomes = Counter(book.outcomes.values())
    assert outcomes["answered"] > TURNS * 0.5
    assert outcomes["over"] == 0
    assert_empty(client, port)
    assert_empty(server, *served)
