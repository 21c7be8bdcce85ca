"""A manager's statistics as Prometheus reads them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
import trio

from psession import SessionManager, SessionTimeoutError, prometheus
from psession.channels import memory_pair
from psession.protocol.counters import NAMES
from psession.shell.manager import PortsView

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_every_statistic_is_there_and_prometheus_reads_it(autojump_clock: MockClock) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    here, there = memory_pair()
    manager = SessionManager()
    async with manager.port("server", there, on_request=lambda _: {}), manager.port("client", here) as port:
        await port.request({})
        await port.post({"plain": 1})
        await trio.sleep(2)
        text = prometheus.text(manager)
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["psession_ports",] == 2
    assert samples["psession_matched_total",] == 1
    assert samples["psession_messages_dropped_total", "unheard"] == 1
    assert samples["psession_peer_silent_seconds",] == 2
    assert samples["psession_turn_seconds_bucket", "answered", "0.0001"] == 1
    assert samples["psession_turn_seconds_bucket", "answered", "+Inf"] == 1
    assert samples["psession_turn_seconds_count", "answered"] == 1
    told = "\n".join(name for name, *_ in samples) + "\n".join(label for _, *labels in samples for label in labels)
    for name in NAMES:
        assert name.removeprefix("bytes_") in told or name in ("open", "incoming", "resting", "queued_bytes", "waiting")


async def test_the_ports_are_told_apart_where_that_is_wanted_whatever_they_are_called(
    autojump_clock: MockClock,
) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    here, _ = memory_pair()
    manager = SessionManager()
    name = 'a "port"\\ of\ntwo lines'
    async with manager.port(name, here) as port:
        with pytest.raises(SessionTimeoutError):
            await port.request({}, timeout=3)
        text = prometheus.text(manager, by_port=True)
    families = {family.name: family for family in parser.text_string_to_metric_families(text)}
    (sample,) = families["psession_timed_out"].samples
    assert (sample.labels, sample.value) == ({"port": name}, 1)
    sums = [sample for sample in families["psession_turn_seconds"].samples if sample.name.endswith("_sum")]
    assert [(sample.labels, sample.value) for sample in sums] == [({"port": name, "outcome": "timed_out"}, 3.0)]


async def test_a_port_that_is_left_while_others_are_read_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PortsView, "__iter__", lambda _: iter(["gone", "lamp"]))
    manager = SessionManager()
    async with manager.port("lamp", memory_pair()[0]):
        text = prometheus.text(manager, by_port=True)
    assert 'port="lamp"' in text
    assert "gone" not in text


async def test_a_thread_may_read_while_ports_come_and_go() -> None:
    manager = SessionManager()
    errors: list[Exception] = []
    is_over = threading.Event()

    def read() -> None:
        while not is_over.is_set():
            try:
                prometheus.text(manager, by_port=True)
                prometheus.text(manager)
            except Exception as error:
                errors.append(error)
                return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(100):
            here, there = memory_pair()
            server = manager.port(f"server {number}", there, on_request=lambda _: {})
            async with server, manager.port(f"client {number}", here) as port:
                await port.request({})
    finally:
        is_over.set()
        reader.join()
    assert errors == []
