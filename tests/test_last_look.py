"""Over a real socket: a reply that the kernel has when the deadline fires is the reply."""

from __future__ import annotations

import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from psession import SessionManager
from psession.channels import _wire, lines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def open_pair() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        near = await trio.open_tcp_stream(*listener.socket.getsockname())
        far = await listener.accept()
    async with near, far:
        yield near, far


async def test_replies_in_the_kernel_beat_a_deadline_that_passed_while_the_loop_stood_still() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    peers: list[trio.SocketStream] = []

    async def peer(stream: trio.SocketStream) -> None:
        peers.append(stream)
        async for _ in stream:
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, peer, listeners)
        stream = await trio.open_tcp_stream("127.0.0.1", listeners[0].socket.getsockname()[1])
        async with SessionManager().port("p", lines(stream), grace=0.1) as port:
            replies: list[Any] = []

            async def ask(n: int) -> None:
                replies.append((n, await port.request({"n": n}, timeout=0.05)))

            async with trio.open_nursery() as turns:
                for n in range(40):
                    turns.start_soon(ask, n)
                while port.statistics().sent < 40 or not peers:
                    await trio.lowlevel.checkpoint()
                # One write on the raw socket and no checkpoint after it: nobody here can have read it in time.
                answers = b"".join(json.dumps({"sid": sid}).encode() + b"\n" for sid in port.sessions)
                assert await peers[0].socket.send(answers) == len(answers)
                time.sleep(0.1)  # noqa: ASYNC251 - the loop stands still, which is what is tested
            assert len(replies) == 40
            assert port.statistics().timed_out == 0
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("what", ["request", "receive"])
async def test_what_lies_behind_long_messages_beats_a_deadline_that_passed_while_the_loop_stood_still(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_wire, "TOGETHER_SECONDS", 0)
    async with trio.open_nursery() as nursery, open_pair() as (near, far):
        channel = lines(near)
        async with SessionManager(inbox_limit=100).port("p", channel, grace=0.1) as port, port.session() as other:
            got: list[Any] = []

            async def ask() -> None:
                async with port.session() as session:
                    asking = (
                        session.send({"n": 1}, timeout=0.05) if what == "request" else session.receive(timeout=0.05)
                    )
                    got.append(await asking)

            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            (sid,) = set(port.sessions) - {other.sid}
            long = b'{"sid":%d,"text":"%s"}\n' % (other.sid, b"x" * 5000)
            data = long * 10 + b'{"sid":%d,"found":true}\n' % sid
            assert await far.socket.send(data) == len(data)
            time.sleep(0.1)  # noqa: ASYNC251 - the loop stands still, which is what is tested
            await trio.testing.wait_all_tasks_blocked()
            assert got == [{"found": True}]
            assert channel.weights == {}, "nothing of the long messages is kept beside them"
