"""``python -m psession``: the same as the command ``psession``."""

import sys

from psession._cli import main

if __name__ == "__main__":
    sys.exit(main())
