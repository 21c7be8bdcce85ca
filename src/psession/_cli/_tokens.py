"""The devices that a gateway lets in: a file of tokens. Pure but for reading it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from psession._cli._problem import Exit, Problem, reason

if TYPE_CHECKING:
    from collections.abc import Sequence

HASHED: Final = re.compile(r"sha256:([0-9A-Fa-f]{64})")

MAX_FILE_BYTES: Final = 256 * 1024 * 1024
"""Two million devices."""


class Tokens:
    """Whose each token is. Kept by their SHA-256 alone, and found by it, so that time tells nothing of one.

    Args:
        names: The name for each digest.
    """

    def __init__(self, names: dict[bytes, str]) -> None:
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    @classmethod
    def read(cls, path: str) -> Tokens:
        """Read a file with a line ``TOKEN NAME`` for each device; ``#`` begins a comment.

        TOKEN may be ``sha256:`` and the 64 hexadecimal digits of its SHA-256. NAME may have spaces.

        Raises:
            Problem: It cannot be read, or a line will not do; no token is in the text.
        """
        names: dict[bytes, str] = {}
        try:
            with Path(path).open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
            text = data.decode()
        except (OSError, UnicodeError) as error:
            raise Problem(f"--tokens {path}: {reason(error)}", Exit.USAGE) from error
        if len(data) > MAX_FILE_BYTES:
            raise Problem(f"--tokens {path}: more than {MAX_FILE_BYTES} bytes", Exit.USAGE)
        for number, line in enumerate(text.splitlines(), start=1):
            token, *rest = line.split(maxsplit=1)[:2] if line.strip() else ("#",)
            if token.startswith("#"):
                continue
            wrong = None
            hashed = HASHED.fullmatch(token)
            digest = bytes.fromhex(hashed[1]) if hashed else digest_of(token)
            if not rest:
                wrong = "give TOKEN NAME"
            elif token.startswith("sha256:") and not hashed:
                wrong = "sha256: is followed by 64 hexadecimal digits"
            elif digest in names:
                wrong = "its token stands above already"
            if wrong:
                raise Problem(f"--tokens {path}, line {number}: {wrong}", Exit.USAGE)
            names[digest] = rest[0].strip()
        return cls(names)

    def name_of(self, token: str) -> str | None:
        """Return whose a token is; ``None``: nobody's."""
        return self._names.get(digest_of(token))


def digest_of(token: str) -> bytes:
    """Return what is kept of a token."""
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()


def token_in(path: str, authorization: Sequence[str]) -> str | None:
    """Return the token of a request: of its header ``Authorization: Bearer``, else of ``?token=`` in its path."""
    if authorization:
        kind, _, token = authorization[0].partition(" ")
        return token.strip() if len(authorization) == 1 and kind.lower() == "bearer" else None
    return dict(parse_qsl(urlsplit(path).query)).get("token")


def name_in(path: str) -> str:
    """Return the name that a path is, without its first ``/`` and its query; ``""`` where it is none."""
    return unquote(urlsplit(path).path[1:])
