"""What `open_websocket` is told, and refuses before anything is sent."""

from __future__ import annotations

import ssl

import pytest
import trio

from psession.channels import WebSocketChannel, open_websocket

from .websocket_ends import serving, url


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("ws://127.0.0.1:1/a b", "' ' must be written as '%20'"),
        ("ws://127.0.0.1:1/a\x00b", r"'\\x00' must be written as '%00'"),
        ("ws://127.0.0.1:1/a\x0bb", r"'\\x0b' must be written as '%0B'"),
        ("ws://127.0.0.1:1/\r\nX-Forged: 1", r"'\\r' must be written as '%0D'"),
        ("ws://127.0.0.1:1/a\tb", r"'\\t' must be written as '%09'"),
        ("ws://user:hunter2@127.0.0.1:99999/", "Port out of range"),
        ("ws://user:hunter2@127.0.0.1:port/", "Port could not be cast"),
        ("http://user:hunter2@127.0.0.1/", "scheme isn't ws or wss"),
        ("wss://user:hunter2@127.0.0.1/#part", "fragment"),
        ("ws:///path", "hostname isn't provided"),
    ],
)
async def test_a_url_that_is_none_is_refused_and_no_password_is_in_the_error(given: str, error: str) -> None:
    with pytest.raises(ValueError, match=error) as caught:
        async with open_websocket(given):
            raise AssertionError
    assert "hunter2" not in str(caught.value)


async def test_an_ssl_context_for_a_plain_url_is_refused_without_the_password() -> None:
    with pytest.raises(ValueError, match=r"the URL is 'ws://\.\.\.@127\.0\.0\.1/'"):
        async with open_websocket("ws://user:hunter2@127.0.0.1/", ssl_context=ssl.create_default_context()):
            raise AssertionError


@pytest.mark.parametrize("origin", ["https://a\r\nX: 1", "example.org", "https://a b", "", "https://\x00"])
async def test_an_origin_that_is_none_is_refused_before_anything_is_sent(origin: str) -> None:
    with pytest.raises(ValueError, match=r"origin must be such as 'https://example\.org'"):
        async with open_websocket("ws://127.0.0.1:1/", origin=origin):
            raise AssertionError


@pytest.mark.parametrize("origin", ["null", "https://example.org", "https://example.org:8443", "http://[::1]:80"])
async def test_an_origin_reaches_the_server_as_it_is(origin: str) -> None:
    seen: list[str | None] = []

    async def handler(channel: WebSocketChannel) -> None:
        seen.append(channel.request.headers["Origin"])

    async with serving(handler) as server, open_websocket(url(server), origin=origin) as channel:
        with pytest.raises(trio.EndOfChannel):
            await channel.receive()
    assert seen == [origin]
