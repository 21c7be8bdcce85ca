"""Topics, and the packets of MQTT 5: any split of bytes, damaged bytes, lengths that lie."""

from __future__ import annotations

from contextlib import suppress

import mqtt5
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psession import MalformedMessageError
from psession.brokers.mqtt import MqttProtocolError, token
from psession.brokers.mqtt import _packets as packets
from psession.brokers.mqtt._packets import Parser
from psession.brokers.mqtt._server import read_url
from psession.brokers.mqtt._topics import check_filter, check_group, check_topic, is_topic_name, matches

SURE = mqtt5.QoS.AT_LEAST_ONCE
LONG = 1 << 20


def everything() -> list[bytes]:
    """One of each that a broker may send."""
    properties = [("name", "wörd"), ("other", "x")]
    return [
        mqtt5.ConnAckPacket(session_present=True, reason_str="schön", user_properties=properties).write(),
        mqtt5.PublishPacket("a/b", b"data").write(),
        mqtt5.PublishPacket("ä/b", bytes(300), qos=SURE, packet_id=258, retain=True).write(),
        mqtt5.PublishPacket(
            "a",
            b"",
            qos=SURE,
            packet_id=1,
            response_topic="answers/ü",
            correlation_data=b"\xff\x00",
            content_type="text",
            message_expiry_interval=300,
            payload_format_indicator=1,
            subscription_ids=[5, 200_000_000],
            user_properties=properties,
        ).write(),
        mqtt5.PubAckPacket(7).write(),
        mqtt5.PubAckPacket(
            7, reason_code=mqtt5.PubAckReasonCode.NOT_AUTHORIZED, reason_str="nö", user_properties=properties
        ).write(),
        mqtt5.SubAckPacket(8, [mqtt5.SubAckReasonCode.NOT_AUTHORIZED], reason_str="nö").write(),
        mqtt5.UnsubAckPacket(9, [mqtt5.UnsubAckReasonCode.SUCCESS], user_properties=properties).write(),
        mqtt5.PingRespPacket().write(),
        mqtt5.DisconnectPacket(
            reason_code=mqtt5.DisconnectReasonCode.SERVER_MOVED, server_reference="där", reason_str="gone"
        ).write(),
        mqtt5.DisconnectPacket().write(),
    ]


EVERYTHING = everything()


@given(st.lists(st.sampled_from(EVERYTHING), max_size=8), st.lists(st.integers(1, 40)))
def test_packets_survive_any_cut(frames: list[bytes], cuts: list[int]) -> None:
    data = b"".join(frames)
    parser, got = Parser(LONG), []
    for cut in [*cuts, len(data)]:
        got += parser.feed(data[:cut])
        data = data[cut:]
    assert [repr(one) for one in got] == [repr(mqtt5.read(memoryview(frame))[0]) for frame in frames]
    assert parser.kept_bytes == 0


@given(st.sampled_from(EVERYTHING), st.data())
def test_damaged_packets_are_read_or_refused_and_nothing_else(frame: bytes, data: st.DataObject) -> None:
    damaged = bytearray(frame)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    parser = Parser(LONG)
    with suppress(MqttProtocolError):
        parser.feed(bytes(damaged))
    assert parser.kept_bytes <= len(damaged)


@given(st.binary(max_size=60))
def test_noise_is_read_or_refused_and_nothing_else(noise: bytes) -> None:
    for kind in (0x20, 0x30, 0x32, 0x40, 0x90, 0xB0, 0xD0, 0xE0, 0xF0):
        with suppress(MqttProtocolError):
            Parser(LONG).feed(bytes([kind, len(noise)]) + noise)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x00\x00", "type 0"),
        (b"\x10\x00", "type 1"),
        (b"\x50\x02\x00\x01", "type 5"),
        (b"\x62\x02\x00\x01", "type 6"),
        (b"\x82\x02\x00\x01", "type 8"),
        (b"\xc0\x00", "type 12"),
        (b"\x30\xff\xff\xff\xff\x01", "more than four bytes"),
        (b"\x30\xff\xff\x40", "max_packet_bytes"),
        (b"\x20\x02\x00\x01", "does not speak MQTT 5"),
        (b"\x34\x06\x00\x01a\x00\x01\x00", "QoS 2"),
        (b"\x36\x06\x00\x01a\x00\x01\x00", "QoS 3"),
        (b"\x30\x04\x00\x01#\x00", "the topic '#'"),
        (b"\x30\x05\x00\x02+\x00\x00", "topic"),
        (b"\x30\x05\x00\x02a\x00\x00", "topic"),
        (b"\x30\x03\x00\x00\x00", "topic"),
        (b"\x32\x06\x00\x01a\x00\x00\x00", "packet id is 0"),
        (b"\x30\x04\x00\x01\xff\x00", "utf-8"),
        (b"\x30\x06\x00\x09a\x00\x00\x00", "within its topic"),
        (b"\x30\x00", "within its topic"),
        (b"\x30\x07\x00\x01a\x7f\x03\x00\x00", "properties"),
        (b"\x30\x09\x00\x01a\x05\x03\x00\x02\xff\xff", "utf-8"),
        (b"\x30\x08\x00\x01a\x04\x03\x00\xff\x61", "property"),
        (b"\x40\x08\x00\x01\x00\x04\x1f\x00\x01\xff", "utf-8"),
        (b"\xb0\x10\x00\xab\x0b&\x00\x04name\x00\x05wor\xb6r", "utf-8|behind its end"),
        (b"\x30\x0c\x00\x01a\x04\x03\x00\x05ab\xff\xff\xff", "utf-8|behind its end"),
        (b"\x40\x03\x00\x01\x55", "PubAckReasonCode"),
        (b"\x40\x01\x00", "PUBACK"),
        (b"\xd0\x01\x00", "PINGRESP"),
        (b"\xe0\x05\x00\x03\x1c\x00\x05", "DISCONNECT"),
    ],
)
def test_what_is_no_packet_for_a_client_is_refused(data: bytes, text: str) -> None:
    with pytest.raises(MqttProtocolError, match=text):
        Parser(100_000).feed(data)


def test_a_packet_that_is_too_long_is_refused_by_its_length_before_it_comes() -> None:
    parser = Parser(1000)
    with pytest.raises(MqttProtocolError, match="max_packet_bytes is 1000"):
        parser.feed(b"\x30\xe9\x07")
    assert parser.kept_bytes == 0


def test_a_length_that_has_not_all_come_is_waited_for() -> None:
    parser = Parser(LONG)
    frame = mqtt5.PublishPacket("a", bytes(300)).write()
    assert parser.feed(frame[:1]) == parser.feed(frame[1:2]) == parser.feed(frame[2:100]) == []
    assert parser.kept_bytes == 100
    (packet,) = parser.feed(frame[100:])
    assert isinstance(packet, mqtt5.PublishPacket)
    assert len(packet.payload) == 300


@given(
    st.text(st.characters(codec="ascii", exclude_characters="#+$\0"), min_size=1, max_size=300), st.integers(1, 65535)
)
def test_a_message_has_its_packet_id_where_it_belongs(topic: str, packet_id: int) -> None:
    frame = packets.publish(topic, b"payload", 1, correlation_data=b"12")
    read, _ = mqtt5.read(memoryview(packets.again(packets.numbered(frame, packet_id))))
    assert isinstance(read, mqtt5.PublishPacket)
    assert (read.topic, read.payload, read.packet_id, read.duplicate) == (topic, b"payload", packet_id, True)
    assert packets.correlation_of(frame) == b"12"


@pytest.mark.parametrize(
    "more", [{"user_properties": [("a", "\ud800")]}, {"content_type": "a\0"}, {"user_properties": [("a" * 70000, "")]}]
)
def test_what_has_no_form_is_no_message(more: dict[str, object]) -> None:
    with pytest.raises(MalformedMessageError):
        packets.publish("a", b"", **more)  # type: ignore[arg-type]


# -- topics ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", ["a", "a/b", "/a", "a/", "Größe/x y", "a/$b", "x" * 65535])
def test_these_are_topics(topic: str) -> None:
    check_topic(topic)


@pytest.mark.parametrize(
    ("topic", "text"),
    [
        ("", "empty"),
        ("a/+", "wildcard"),
        ("a#", "wildcard"),
        ("$SYS/x", "broker's own"),
        ("a\0", "NUL"),
        ("a\n", "brokers may refuse"),
        ("\ud800", "brokers may refuse|UTF-8"),
        ("ä" * 40000, "80000 bytes"),
    ],
)
def test_these_are_none(topic: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        check_topic(topic)
    with pytest.raises(TypeError):
        check_topic(topic.encode(errors="replace"))  # type: ignore[arg-type]


@pytest.mark.parametrize("pattern", ["+", "#", "a/+/b", "a/#", "$SYS/#", "/+"])
def test_these_are_filters(pattern: str) -> None:
    check_filter(pattern)


@pytest.mark.parametrize("pattern", ["a+", "+a/b", "#/a", "a/#/b", "a#", "", "$share/g/a", "$share"])
def test_these_are_no_filters(pattern: str) -> None:
    with pytest.raises(ValueError, match="topic filter"):
        check_filter(pattern)


@pytest.mark.parametrize("group", ["", "a/b", "+", "a#", "a\0"])
def test_these_are_no_groups(group: str) -> None:
    with pytest.raises(ValueError, match="group"):
        check_group(group)


@pytest.mark.parametrize(
    ("pattern", "topic", "is_one"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/c", False),
        ("a/+", "a/c", True),
        ("a/+", "a/c/d", False),
        ("a/+", "a", False),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("#", "a", True),
        ("#", "$SYS/a", False),
        ("+/a", "$SYS/a", False),
        ("$SYS/#", "$SYS/a", True),
        ("+", "/a", False),
        ("/+", "/a", True),
        ("a/b/+", "a/b", False),
    ],
)
def test_which_topics_a_filter_stands_for(pattern: str, topic: str, is_one: bool) -> None:
    assert matches(pattern, topic) is is_one


@given(st.text(min_size=1, max_size=50), st.text(min_size=1, max_size=50))
def test_a_token_is_one_level_and_no_two_names_have_the_same(one: str, two: str) -> None:
    made = token(one)
    check_topic(made)
    assert is_topic_name(made)
    assert not set(made) & set("/+#$\0")
    assert (made == token(two)) is (one == two)


def test_what_is_no_token() -> None:
    with pytest.raises(ValueError, match="empty"):
        token("")
    with pytest.raises(ValueError, match="bytes as a token"):
        token("/" * 30000)
    with pytest.raises(TypeError):
        token(b"a")  # type: ignore[arg-type]


# -- URLs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("mqtt://h", "mqtt://h:1883"),
        ("h:5", "mqtt://h:5"),
        ("mqtts://h", "mqtts://h:8883"),
        ("mqtt://u:p%40@[::1]:7", "mqtt://[::1]:7"),
    ],
)
def test_a_url_says_where_the_broker_is(url: str, shown: str) -> None:
    server = read_url(url)
    assert (server.url, repr(server)) == (shown, shown)
    if "@" in url:
        assert (server.user, server.password) == ("u", "p@")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("", "not the URL"),
        ("mqtt://a b", "not the URL"),
        ("http://h", "begins with mqtt://"),
        ("ws://h", "over WebSocket"),
        ("mqtt://h/x", "nothing behind"),
        ("mqtt://h:0", "from 1 to 65535"),
        ("mqtt://u:secret@h:99999", "from 1 to 65535"),
        ("mqtt://", "no host"),
    ],
)
def test_what_is_no_url_is_said_without_its_password(url: str, text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        read_url(url)
    assert "secret" not in str(caught.value)


def test_a_url_is_text() -> None:
    with pytest.raises(TypeError, match="must be a str"):
        read_url(5)  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.text(alphabet="abc/", min_size=1), st.binary(max_size=300), st.booleans()), min_size=1))
def test_what_was_joined_goes_to_another_topic_each_as_it_was(messages: list[tuple[str, bytes, bool]]) -> None:
    frames = [packets.publish(topic, payload, int(sure)) for topic, payload, sure in messages]
    written = packets.readdressed(b"".join(frames), b"elsewhere")
    assert written == b"".join(packets.publish("elsewhere", payload, int(sure)) for _, payload, sure in messages)
