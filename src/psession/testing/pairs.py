"""Two ports that talk to each other in one program, over a network as good or as bad as a test wants it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from psession import PortOptions, SessionManager
from psession.channels import memory_pair
from psession.checks import no_option
from psession.testing.lossy import LossyChannel, lossy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Unpack

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
    here, there = memory_pair()
    async with (
        lossy(here, seed=seed, **faults) as link,
        SessionManager(**cast("PortOptions", both | far)).port("near", there) as far_port,
        SessionManager(**cast("PortOptions", both | near)).port("far", link) as near_port,
    ):
        yield PortPair(near_port, far_port, link)
