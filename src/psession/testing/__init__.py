"""Tools that test channels, and programs on bad ones. They need Trio alone, and no test framework."""

from psession.testing.contract import check_channel
from psession.testing.diagram import sequence_diagram
from psession.testing.lossy import EventLog, LossyChannel, Moment, NetworkEvent, Tally, lossy

__all__ = ["EventLog", "LossyChannel", "Moment", "NetworkEvent", "Tally", "check_channel", "lossy", "sequence_diagram"]
