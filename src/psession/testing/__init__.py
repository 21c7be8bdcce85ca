"""Tools to test channels, and programs on bad ones; they need Trio alone, and no test framework."""

from psession.testing.contract import check_channel
from psession.testing.diagram import sequence_diagram
from psession.testing.lossy import Fate, FateLog, LossyChannel, Moment, Tally, lossy

__all__ = ["Fate", "FateLog", "LossyChannel", "Moment", "Tally", "check_channel", "lossy", "sequence_diagram"]
