"""Home Assistant as the peer: log in, switch a lamp, hear what changes. Its own protocol over a WebSocket.

python home_assistant.py URL TOKEN [LAMP]     such as ws://homeassistant.local:8123/api/websocket, and light.kitchen
"""

import sys

import trio

from psession import SessionManager, SessionRemoteError
from psession.channels import open_websocket
from psession.dialects import Answer, Event, Failure, Part, TurnDialect


def is_subscription(payload):
    return payload["type"].startswith("subscribe_")


class HomeAssistant(TurnDialect):
    # The first request is the login. A subscription is a stream: its result is the first part, each event another.
    streams = True

    def begin(self):
        self.last, self.quits = 0, set()  # 0 is the login, which has no id on the wire; the others must rise

    def new_id(self):
        self.last += 1
        return self.last - 1

    def ask(self, payload, id):
        return payload if id == 0 else {**payload, "id": id}

    def quit(self, id, payload):
        if not is_subscription(payload):
            return None
        self.quits.add(own := self.new_id())
        return {"type": "unsubscribe_events", "subscription": id, "id": own}

    def read(self, message):
        match message["type"]:
            case "auth_ok":
                return Answer(0, message)
            case "auth_invalid":
                return Failure(0, "auth_invalid", message["message"], is_refusal=True)
            case "event":
                return Part(message["id"], message["event"])
            case "result" if message["id"] in self.quits:
                return self.quits.remove(message["id"]) or ()
            case "result" if not message["success"]:
                return Failure(message["id"], message["error"]["code"], message["error"]["message"])
            case "result" if is_subscription(self.asked.get(message["id"], {"type": ""})):
                return Part(message["id"], message["result"])
            case "result" | "pong":
                return Answer(message["id"], message.get("result"))
        return Event(message)


async def main(url, token, lamp="light.kitchen"):
    manager = SessionManager(dialect=HomeAssistant(), session_timeout=10, on_message=lambda message: None)
    async with open_websocket(url) as channel, manager.port("home", channel) as home:
        print("version:", (await home.request({"type": "auth", "access_token": token}))["ha_version"])
        states = await home.request({"type": "get_states"})
        print(f"{lamp}:", next(state["state"] for state in states if state["entity_id"] == lamp))
        async with home.stream({"type": "subscribe_events", "event_type": "state_changed"}) as events:
            await anext(events)  # subscribed
            switch = {"type": "call_service", "domain": "light", "service": "toggle", "target": {"entity_id": lamp}}
            await home.request(switch)
            async for event in events:
                if event["data"]["entity_id"] == lamp:
                    print(f"{lamp} is now:", event["data"]["new_state"]["state"])
                    break
        try:
            await home.request({**switch, "service": "sing"})
        except SessionRemoteError as error:
            print(f"sing: {error.code}, {error.text}")


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
