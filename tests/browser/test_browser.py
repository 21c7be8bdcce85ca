"""A page in a real browser as the peer: as client, as device, in binary, at the limits, and however it leaves."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from psession import MessageTooLargeError, PortClosedError, Session

if TYPE_CHECKING:
    from psession.channels import WebSocketChannel

    from .conftest import OpenPage

pytestmark = pytest.mark.browser

CROWD = 200
LIMIT_BYTES = 1 << 20
SOON = 5  # seconds in which the death of a browser is known
PONG_BYTES = 2 + 4 + len(b"psession")


def answers(crowd: int = 1) -> dict[str, Any]:
    """A handler that adds up, and that says what it is told: no answer before a whole crowd has asked."""
    asked = 0
    all_there = trio.Event()

    async def answer(session: Session) -> None:
        nonlocal asked
        total = 0
        async for message in session:
            if "add" in message:
                total += message["add"]
                await session.post({"sum": total})
                continue
            asked += 1
            if asked == crowd:
                all_there.set()
            await all_there.wait()
            await session.post({"said": message["say"]})

    return {"on_session": answer}


# -- who asks ----------------------------------------------------------------------------------------------------------


async def test_a_page_gets_its_own_answer_in_each_of_its_sessions(open_page: OpenPage) -> None:
    """Ten turns in one, then a crowd of them at once, which the server answers only when all of them are there."""
    async with open_page("turns", port=answers(CROWD)) as page:
        assert await page.report() == {"turns": 10 + CROWD}
        _, port = await page.visitor()
        assert port.statistics().accepted == 1 + CROWD


async def test_a_page_answers_each_request_of_python(open_page: OpenPage) -> None:
    """The page answers the last of a crowd first, and nobody gets another's answer."""
    async with open_page("device") as page:
        _, port = await page.visitor()

        async def ask(n: int) -> None:
            assert (await port.request({"command": "hold", "value": n}))["value"] == f"held {n}"

        async with trio.open_nursery() as nursery:
            for n in range(CROWD):
                nursery.start_soon(ask, n)
        assert port.statistics().matched == CROWD


async def test_a_dialogue_with_a_page_goes_through_its_turns(open_page: OpenPage) -> None:
    async with open_page("device") as page:
        _, port = await page.visitor()
        async with port.session() as session:
            assert (await session.send({"command": "turnOnLight"}))["status"] == "needPassword"
            assert (await session.send({"password": "hunter2"}))["status"] == "wrongPassword"
            reply = await session.send({"password": "123456"})
            assert (reply["status"], reply["tries"]) == ("on", 2)


async def test_a_page_and_python_ask_each_other_over_one_socket(open_page: OpenPage) -> None:
    async with open_page("both", port=answers(CROWD)) as page:
        _, port = await page.visitor()

        async def ask(n: int) -> None:
            assert (await port.request({"value": n}))["echo"] == n

        async with trio.open_nursery() as nursery:
            for n in range(CROWD):
                nursery.start_soon(ask, n)
        assert await page.report() == {"asked": CROWD}
        statistics = port.statistics()
        assert (statistics.matched, statistics.accepted) == (CROWD, CROWD)


# -- what goes over it -------------------------------------------------------------------------------------------------


async def test_json_is_read_from_every_kind_of_frame_that_a_browser_sends(open_page: OpenPage) -> None:
    async with open_page("frames", port=answers()) as page:
        assert await page.report() == ["text", "buffer", "view", "blob"]


async def test_messagepack_goes_both_ways_in_binary_frames(open_page: OpenPage) -> None:
    async with open_page("binary", codec="msgpack", port=answers()) as page:
        channel, port = await page.visitor()
        assert (await port.request({"value": 300}))["echo"] == 300
        assert await page.report() == "all said"
        await channel.aclose()
        assert (await page.report())["code"] == 1000


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_a_message_may_be_as_long_as_the_limit_and_one_too_long_costs_its_own_connection(
    open_page: OpenPage, compression: Any
) -> None:
    limit = {"told": {"limit": LIMIT_BYTES}, "max_message_bytes": LIMIT_BYTES}
    async with open_page("sizes", **limit, port=answers(), compression=compression) as page:
        closed = await page.report()
        assert closed["code"] == 1009
        assert closed["wasClean"]
        (channel, port), (_, other) = await page.visitor(), await page.visitor()
        await port.wait_closed()
        with pytest.raises(PortClosedError) as caught:
            await port.request({})
        assert f"max_message_bytes is {LIMIT_BYTES}" in str(caught.value)
        assert channel.bytes_received > (1000 if compression else 2 * LIMIT_BYTES)
        assert not other.closed


async def test_a_message_too_long_is_not_sent_to_the_page_and_the_rest_goes_on(open_page: OpenPage) -> None:
    async with open_page("device", max_message_bytes=LIMIT_BYTES) as page:
        _, port = await page.visitor()
        with pytest.raises(MessageTooLargeError):
            await port.request({"value": "x" * LIMIT_BYTES})
        assert (await port.request({"value": "x" * (LIMIT_BYTES - 100)}))["echo"] == "x" * (LIMIT_BYTES - 100)


async def test_any_text_survives_and_what_is_no_text_costs_one_message(open_page: OpenPage) -> None:
    async with open_page("unicode", port=answers()) as page:
        assert len(await page.report()) == 11
        _, port = await page.visitor()
        assert port.statistics().malformed == 1


# -- how it ends -------------------------------------------------------------------------------------------------------


async def test_a_page_that_closes_says_why(open_page: OpenPage) -> None:
    async with open_page("close") as page:
        channel, port = await page.visitor()
        with pytest.raises(PortClosedError, match="code 4001: gone for a \N{SNOWMAN}") as caught:
            await port.request({"with": [4001, "gone for a \N{SNOWMAN}"]})
        assert isinstance(caught.value.__cause__, trio.BrokenResourceError)
        assert (channel.close_code, channel.close_reason) == (4001, "gone for a \N{SNOWMAN}")
        assert await page.report() == {"code": 4001, "reason": "gone for a \N{SNOWMAN}", "wasClean": True}


@pytest.mark.parametrize(("how", "code"), [([], 1005), ([1000], 1000)])
async def test_a_page_that_closes_without_a_complaint_ends_the_port_cleanly(
    open_page: OpenPage, how: list[int], code: int
) -> None:
    async with open_page("close") as page:
        channel, port = await page.visitor()
        with pytest.raises(PortClosedError) as caught:
            await port.request({"with": how})
        assert caught.value.__cause__ is None
        assert channel.close_code == code
        assert await page.report() == {"code": code, "reason": "", "wasClean": True}


async def test_a_user_who_goes_to_another_page_ends_the_port_cleanly(open_page: OpenPage) -> None:
    async with open_page("navigate") as page:
        channel, port = await page.visitor()
        with pytest.raises(PortClosedError) as caught:
            await port.request({})
        assert caught.value.__cause__ is None
        assert channel.close_code == 1001


@pytest.mark.parametrize("kind", [None, "renderer"], ids=["browser", "tab"])
async def test_whoever_waits_for_a_killed_browser_or_tab_learns_it_soon(open_page: OpenPage, kind: str | None) -> None:
    async with open_page("device") as page:
        channel, port = await page.visitor()
        with trio.fail_after(SOON):
            async with port.session() as session, trio.open_nursery() as nursery:
                assert (await session.send({"command": "turnOnLight"}))["status"] == "needPassword"

                async def ask(n: int) -> None:
                    with pytest.raises(PortClosedError):
                        await port.request({"command": "hold", "value": n})

                for n in range(CROWD - 1):  # one less than the page waits for
                    nursery.start_soon(ask, n)
                await trio.testing.wait_all_tasks_blocked()
                page.kill(kind)
        assert port.statistics().aborted == CROWD - 1
        assert channel.close_code in (None, 1001)


@pytest.mark.parametrize(("code", "reason"), [(4002, "back at nine \N{SNOWMAN}"), (1000, ""), (1001, "")])
async def test_a_page_is_told_why_the_server_closes(open_page: OpenPage, code: int, reason: str) -> None:
    async with open_page("device") as page:
        channel, port = await page.visitor()
        if code == 1000:
            port.close()
        elif code == 1001:
            page.stop_serving()
        else:
            await channel.aclose(code, reason)
        assert await page.report() == {"code": code, "reason": reason, "wasClean": True}
        assert channel.close_code == code


async def test_a_page_is_told_that_the_handler_failed(open_page: OpenPage) -> None:
    async def handler(channel: WebSocketChannel) -> None:
        raise RuntimeError("oops")

    async with open_page("device", handler=handler) as page:
        assert await page.report() == {"code": 1011, "reason": "", "wasClean": True}


async def test_a_silent_page_answers_pings_and_stays(open_page: OpenPage) -> None:
    async with open_page("device", ping_interval=0.01) as page:
        channel, port = await page.visitor()
        while channel.bytes_received < 10 * PONG_BYTES:  # noqa: ASYNC110 - the channel sets no event
            await trio.sleep(0.001)
        assert (await port.request({"value": 1}))["echo"] == 1


# -- what is agreed on -------------------------------------------------------------------------------------------------


async def test_a_page_of_a_foreign_origin_is_refused(open_page: OpenPage) -> None:
    ours = re.compile(r"http://127\.0\.0\.1:\d+")
    async with open_page("agree", origins=[ours], host="localhost") as page:
        assert await page.report() == {"code": 1006, "reason": "", "wasClean": False}
        assert re.fullmatch(r"http://localhost:\d+", str(*page.origins))
    async with open_page("agree", origins=[ours], port=answers()) as page:
        assert await page.report() == {"protocol": "", "extensions": ""}
        assert ours.fullmatch(str(*page.origins))


async def test_the_best_subprotocol_that_both_speak_is_agreed_on(open_page: OpenPage) -> None:
    spoken = {"subprotocols": ["v2.psession", "v1.psession"], "port": answers()}
    async with open_page("agree", **spoken, told={"protocol": ["v1.psession", "v2.psession", "other"]}) as page:
        assert (await page.report())["protocol"] == "v2.psession"
        assert (await page.visitor()).channel.subprotocol == "v2.psession"
    async with open_page("agree", **spoken, told={"protocol": ["other"]}) as page:
        assert (await page.report())["code"] == 1006


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_messages_are_compressed_where_the_server_allows_it(open_page: OpenPage, compression: Any) -> None:
    async with open_page("agree", compression=compression, port=answers()) as page:
        extensions = (await page.report())["extensions"].split(";")
        assert extensions[0] == ("permessage-deflate" if compression else "")
        channel, _ = await page.visitor()
        size = len("the same again and again " * 3000)
        for there_and_back in (channel.bytes_received, channel.bytes_sent):
            assert there_and_back < size / 100 if compression else there_and_back > size
