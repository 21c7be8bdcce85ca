"""Ports of TCP for servers that cannot say where they listen, or are killed and come back where they were."""

from __future__ import annotations

import os
import random
import socket
from itertools import cycle
from typing import Final

NEVER_GIVEN: Final = range(20_000, 32_000)
"""Ports below those that systems give by themselves: Linux gives from 32,768 on, others from 49,152 (RFC 6335)."""

_numbers = cycle(random.Random(os.getpid()).sample(NEVER_GIVEN, len(NEVER_GIVEN)))


def free_port() -> int:
    """A port that nobody listens on, nor will: the system gives it to no other socket, and this to no other test.

    Asked for any port, or for a connection's near end, the system may give one that was free a moment before; a
    server that comes later then does not start, or its clients reach somebody else.
    """
    for number in _numbers:
        try:
            with socket.create_server(("127.0.0.1", number)):
                return number
        except OSError:
            continue
    raise AssertionError("unreachable: the numbers begin again")
