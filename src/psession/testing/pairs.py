"""Two ports that talk to each other in one program, over a network as good or as bad as a test wants it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast

from trio.testing import memory_stream_pair

from psession import PortOptions, SessionManager
from psession.channels import length_prefixed, lines, memory_pair
from psession.checks import no_option
from psession.testing.lossy import LossyChannel, lossy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Unpack

    import trio

    from psession import Port
    from psession.testing._faults import Delay, Directions

__all__ = ["PairOptions", "PortPair", "port_pair"]

FAULTS: Final = ("drop", "duplicate", "reorder", "delay", "disconnect", "directions")


class PairOptions(PortOptions, total=False):
    """The keyword arguments of `port_pair`: those of both ports, of one of them, and of `lossy`.

    Attributes:
        near: Options of the near port alone; they win over those of both.
        far: Options of the far port alone, such as its handler.
        seed: Decides what the network does to which message, as in `lossy`.
        drop: The probability that a message is lost; this and the others below as in `lossy`.
        duplicate: The probability that it arrives twice.
        reorder: The probability that it lets later ones go ahead.
        delay: Seconds that it is on its way, or ``(from, to)``.
        disconnect: The probability that the link breaks at it.
        codec: ``"json"`` or ``"msgpack"``: what is sent is encoded, and decoded at the other end, as on a socket. Left
            out: the very objects travel, also those that no wire has a form for.
        directions: ``"send"`` spoils only what the near port sends, ``"receive"`` only what it receives.
    """

    near: PortOptions
    far: PortOptions
    seed: int | str
    drop: float
    duplicate: float
    reorder: float
    delay: Delay
    disconnect: float
    directions: Directions
    codec: Literal["json", "msgpack"]


class PortPair(NamedTuple):
    """Two connected ports and the network between them.

    Attributes:
        near: The port of the test, most often.
        far: Its peer.
        link: The network, on the near side; ``link.log`` has each message.
    """

    near: Port
    far: Port
    link: LossyChannel


@asynccontextmanager
async def port_pair(**options: Unpack[PairOptions]) -> AsyncIterator[PortPair]:
    """Open two ports over a network in memory: ``async with port_pair(far={"on_request": lamp}) as (near, far, link)``.

    Without faults the network is a good one, which keeps a log all the same. On leaving, both ports are closed, the
    near one first. What the body raises comes out as it is, with a note that says how to make the network again.

    Args:
        options: See `PairOptions`.

    Raises:
        TypeError: There is no such option, or its value is of the wrong type.
        ValueError: A value is out of its range.
    """
    unknown = options.keys() - PairOptions.__annotations__.keys()
    if unknown:
        raise no_option(unknown, PairOptions.__annotations__)
    both: dict[str, Any] = dict(options)
    near, far, seed = both.pop("near", {}), both.pop("far", {}), both.pop("seed", 0)
    faults = {name: both.pop(name) for name in FAULTS if name in both}
    here, there = _ends(both.pop("codec", None))
    async with (
        lossy(here, seed=seed, **faults) as link,
        SessionManager(**cast("PortOptions", both | far)).port("near", there) as far_port,
        SessionManager(**cast("PortOptions", both | near)).port("far", link) as near_port,
    ):
        yield PortPair(near_port, far_port, link)


def _ends(codec: Literal["json", "msgpack"] | None) -> tuple[trio.abc.Channel[Any], trio.abc.Channel[Any]]:
    """Two channels that are connected in memory, by objects or by encoded messages."""
    if codec is None:
        return memory_pair()
    here, there = memory_stream_pair()
    if codec == "json":
        return lines(here), lines(there)
    if codec == "msgpack":
        return length_prefixed(here, codec=codec), length_prefixed(there, codec=codec)
    raise ValueError(f"codec must be 'json' or 'msgpack', not {codec!r}; leave it out for objects as they are")
