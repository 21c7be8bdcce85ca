"""A program on paho-mqtt: answers "py/echo", asks and publishes what it is told."""

from __future__ import annotations

import os
import queue
import sys
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties


def properties(**fields: Any) -> Properties:
    """Those of a message."""
    made = Properties(PacketTypes.PUBLISH)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def main(port: int) -> None:
    """Until the standard input ends; each line there is done, and what came of it printed."""
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="paho", protocol=paho.MQTTv5)
    client.will_set("py/gone", b"paho is gone", qos=1, retain=False)
    answers: queue.Queue[Any] = queue.Queue()
    subscribed: queue.Queue[None] = queue.Queue()

    def came(client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        if message.topic == "py/answers":
            answers.put(message)
            return
        asked: Any = message.properties
        back = properties(CorrelationData=asked.CorrelationData, UserProperty=getattr(asked, "UserProperty", []))
        client.publish(asked.ResponseTopic, b"py " + message.payload, qos=1, properties=back)

    client.on_message = came
    client.on_subscribe = lambda *_: subscribed.put(None)
    client.connect("127.0.0.1", port)
    client.loop_start()
    for topic in ("py/answers", "py/echo", "$share/g/py/shared"):
        client.subscribe(topic, qos=1)
        subscribed.get(timeout=10)
    print("ready", flush=True)
    for line in sys.stdin:
        word, topic, data = line.rstrip("\n").split(" ", 2)
        if word == "ask":
            back = properties(ResponseTopic="py/answers", CorrelationData=b"\x00\xff77")
            client.publish(topic, data.encode(), qos=1, properties=back)
            message = answers.get(timeout=10)
            assert message.properties.CorrelationData == b"\x00\xff77"
            errors = " ".join(f"{name}={value}" for name, value in getattr(message.properties, "UserProperty", []))
            print(f"{message.payload.decode()} {errors}".strip(), flush=True)
        elif word == "die":
            os._exit(1)
        else:
            client.publish(topic, data.encode(), qos=1, retain=word == "retain").wait_for_publish(10)
            print("done", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
