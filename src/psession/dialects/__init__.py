"""Dialects: how a protocol writes headers beside payloads, and reads them.

`Classic` is the wire of PSession 1.0, `Exact` the one that numbers its turns. Either answers the other's questions.
"""

from psession.dialects.psession import Classic, Exact
from psession.protocol.dialect import Dialect, ExactFields

__all__ = ["Classic", "Dialect", "Exact", "ExactFields"]
