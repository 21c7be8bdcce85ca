"""Tools that test channels, dialects, and programs on bad channels. They need Trio alone, and no test framework."""

from psession.testing._clauses import MessageMaker, Pair
from psession.testing._faults import Delay, Directions
from psession.testing.contract import check_channel
from psession.testing.diagram import sequence_diagram
from psession.testing.dialects import check_dialect
from psession.testing.lossy import Direction, EventLog, LossyChannel, Moment, NetworkEvent, Tally, lossy
from psession.testing.pairs import PairOptions, PortPair, port_pair

__all__ = [
    "Delay",
    "Direction",
    "Directions",
    "EventLog",
    "LossyChannel",
    "MessageMaker",
    "Moment",
    "NetworkEvent",
    "Pair",
    "PairOptions",
    "PortPair",
    "Tally",
    "check_channel",
    "check_dialect",
    "lossy",
    "port_pair",
    "sequence_diagram",
]
