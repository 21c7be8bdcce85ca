"""Tools to test channels with; they need Trio alone, and no test framework."""

from psession.testing.contract import check_channel

__all__ = ["check_channel"]
