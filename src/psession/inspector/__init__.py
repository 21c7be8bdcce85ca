"""A live page of what a manager's ports do, for a browser, and for ``psession watch URL`` in a terminal.

::

    async with inspector.serve(manager, 8765) as page:
        print(page.url)     # http://127.0.0.1:8765/?token=...
        ...

The page asks for what it shows over a WebSocket, through a port of psession's own, which is no port of `manager` and so
does not show itself. Nobody who does not have the token gets in, and payloads are redacted before they are kept.
"""

from psession.inspector._log import log_waiting
from psession.inspector._page import Inspector, serve
from psession.inspector._redaction import Redact, redact_secrets

__all__ = ["Inspector", "Redact", "log_waiting", "redact_secrets", "serve"]
