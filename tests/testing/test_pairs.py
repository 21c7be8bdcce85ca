"""Two ports that talk to each other: what travels between them."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest

from psession import Exact, MessageError
from psession.testing import port_pair


async def test_without_a_codec_the_very_objects_travel() -> None:
    kind = object()
    async with port_pair(dialect=Exact(), far={"on_request": lambda message: message}) as (near, _, _):
        assert await near.request({"x": kind, "y": (1, 2)}) == {"x": kind, "y": (1, 2)}


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_with_a_codec_a_payload_arrives_as_it_does_on_a_wire_or_not_at_all(
    codec: Literal["json", "msgpack"],
) -> None:
    async with port_pair(codec=codec, far={"on_request": lambda message: message}) as (near, _, link):
        assert await near.request({"y": (1, 2), "s": {3}}) == {"y": [1, 2], "s": [3]}
        for payload in ({"x": object()}, {"x": math.nan}):
            with pytest.raises(MessageError, match=r"^port 'far', session \d: "):
                await near.request(payload)
        assert link.log[0].message == {"y": (1, 2), "s": {3}, "sid": 1}


async def test_the_faults_of_the_network_are_as_without_a_codec(autojump_clock: object) -> None:
    far: Any = {"on_request": lambda message: {"twice": 2 * message["n"]}}
    async with port_pair(codec="json", seed=7, drop=0.3, duplicate=0.3, delay=(0, 2), far=far) as (near, _, link):
        for n in range(20):
            assert await near.request({"n": n}, timeout=1, retry_count=99) == {"twice": 2 * n}
        assert link.statistics()["send"].dropped > 0


async def test_another_codec_is_refused() -> None:
    with pytest.raises(ValueError, match="codec must be 'json' or 'msgpack', not 'xml'; leave it out"):
        async with port_pair(codec="xml"):  # type: ignore[typeddict-item]
            pass
