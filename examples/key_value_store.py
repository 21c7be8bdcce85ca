"""Redis as the peer, RESP3 over TCP, its answers in order: python key_value_store.py [PORT]     by default 6379"""

import sys

import trio

from psession import SessionManager, SessionRemoteError, SessionTimeoutError
from psession.channels import Framing, open_tcp
from psession.dialects import Answer, Event, Failure, TurnDialect

Push, Wrong = type("Push", (list,), {}), type("Wrong", (str,), {})
KINDS = {"+": str, "-": Wrong, ":": int, "(": int, ",": float, "_": lambda said: None, "#": "t".__eq__, "$": str}
KINDS |= {"!": Wrong, "=": str, "*": list, "~": list, ">": Push}
KINDS |= {"%": lambda flat: dict(zip(flat[::2], flat[1::2], strict=True))}


def value(data, at):  # the value at a place, and the place behind it; EOFError: the place up to which more must come
    line = data.find(b"\r\n", at)
    if line < 0:
        raise EOFError(len(data) + 1)
    kind, said, end = chr(data[at]), data[at + 1 : line].decode(), line + 2
    if kind in "$!=":
        start, end = end, end + int(said) + 2
        if end > len(data):
            raise EOFError(end)
        said = data[start : end - 2].decode()
    elif kind in "*~>%":
        number, said = int(said) * (2 if kind == "%" else 1), []
        for _ in range(number):
            item, end = value(data, end)
            said.append(item)
    return KINDS[kind](said), end


class Resp(Framing):
    def frame(self, payload):
        return payload

    def cut(self, data, at):
        try:
            return data[at : (end := value(data, at)[1])], end
        except EOFError as more:
            return more.args[0]


class Words:
    def encode(self, message):
        words = [str(word).encode() for word in message]
        return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)

    def decode(self, data):
        return value(data, 0)[0]


class Redis(TurnDialect):
    in_order = True

    def new_id(self):
        return object()

    def ask(self, payload, id):
        return payload

    def read(self, message):
        id, asked = next(iter(self.asked.items()), (None, ("",)))
        if type(message) is Push and message[0] != asked[0].lower():  # SUBSCRIBE is answered by a push
            return Event(message)
        return Failure(id, *message.split(" ", 1)) if type(message) is Wrong else Answer(id, message)


async def main(port=6379):
    tell, news = trio.open_memory_channel(10)
    manager = SessionManager(dialect=Redis(), session_timeout=10, on_message=tell.send_nowait)
    channel = open_tcp("127.0.0.1", port, framing=Resp, codec=Words())
    async with channel as channel, manager.port("redis", channel) as redis:
        print(f"RESP{(await redis.request(['HELLO', 3]))['proto']}")
        print("SET:", await redis.request(["SET", "lamp", "on, äöü"]))
        print("GET:", await redis.request(["GET", "lamp"]), "and", await redis.request(["GET", "nothing"]))
        try:
            await redis.request(["INCR", "lamp"])
        except SessionRemoteError as error:
            print(f"INCR: {error.code}, {error.text}")
        await redis.request(["SUBSCRIBE", "doors"])
        print("heard by:", await redis.request(["PUBLISH", "doors", "the front door is open"]))
        print("news:", *(await news.receive())[1:])
        try:
            await redis.request(["BLPOP", "jobs", 1], timeout=0.2)
        except SessionTimeoutError:
            print("BLPOP: no job in 0.2 s; its answer will reach nobody")
        print("GET:", await redis.request(["GET", "lamp"]), "and late answers:", redis.statistics().late)


if __name__ == "__main__":
    trio.run(main, *map(int, sys.argv[1:]))
