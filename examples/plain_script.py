"""A script without a loop: it asks a device, listens to many replies, and Ctrl-C gives up what it waits for.

python plain_script.py [DEVICE]     ws://host:port, tcp://host:port or unix:///path
"""

import sys

from psession import Exact, SessionTimeoutError
from psession.blocking import open_port


def main(device="ws://127.0.0.1:8765"):
    with open_port(device, dialect=Exact()) as lamp:
        print(lamp.request({"command": "status"}, timeout=3))
        with lamp.session() as session:  # a dialogue
            print(session.send({"command": "dim", "level": 40}))
        try:
            with lamp.stream({"command": "watch"}, timeout=10) as replies:
                for reply in replies:
                    print(reply)
            lamp.request({"command": "sleep"}, timeout=0.2)
        except SessionTimeoutError as error:
            print(f"no answer in {error.waited:.1f} s")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        print("given up")
