"""Who a client says it is: user and password, a token, or the seed of a key (nkey), alone or with a JWT.

https://docs.nats.io/using-nats/developer/connecting/creds. Seeds are Ed25519, which the package ``cryptography``
signs with (extra ``nats``); it is imported where a seed is used.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import os

_SEED: Final = 18 << 3
_KINDS: Final = {20 << 3: "U", 0: "A", 14 << 3: "O", 13 << 3: "N", 2 << 3: "C", 23 << 3: "X"}
"""The letters that public keys begin with, by their prefix byte: user, account, operator, server, cluster, curve."""

MAX_FILE_BYTES: Final = 1024 * 1024
"""How long a file of credentials or a seed may be: a JWT has a few kilobytes."""

_BLOCK: Final = re.compile(
    r"-----BEGIN NATS USER JWT-----\s*(?P<jwt>\S+)\s*-{3,}END NATS USER JWT-{3,}"
    r"|-----BEGIN USER NKEY SEED-----\s*(?P<seed>\S+)\s*-{3,}END USER NKEY SEED-{3,}"
)


class SeedError(ValueError):
    """A seed that is none. Its text never has any of the seed in it."""


@dataclass(frozen=True, slots=True, repr=False)
class Key:
    """A key of a user's.

    Attributes:
        public: The public key, as NATS writes it (``U...``).
        secret: The 32 bytes of the seed.
    """

    public: str
    secret: bytes

    @classmethod
    def from_seed(cls, text: str) -> Key:
        """Read a seed (``SU...``).

        Raises:
            SeedError: It is none.
            ImportError: ``cryptography`` is not installed.
        """
        text = text.strip()
        try:
            raw = base64.b32decode(text + "=" * (-len(text) % 8))
        except (binascii.Error, ValueError):
            raise SeedError("not a seed: it has characters that no base32 has; it begins with SU") from None
        if len(raw) != 36:
            raise SeedError(f"not a seed: {len(text)} characters; a seed has 58 and begins with SU")
        if _crc16(raw[:-2]) != int.from_bytes(raw[-2:], "little"):
            raise SeedError("not a seed: its checksum is wrong, so a character is missing or mistyped")
        kind = (raw[0] & 7) << 5 | raw[1] >> 3
        if raw[0] & 0xF8 != _SEED or kind not in _KINDS:
            raise SeedError("not a seed but another key, as a public one is: a seed begins with S, a user's with SU")
        secret = raw[2:34]
        public = bytes([kind]) + _private(secret).public_key().public_bytes_raw()
        return cls(base64.b32encode(public + _crc16(public).to_bytes(2, "little")).decode().rstrip("="), secret)

    def sign(self, nonce: str) -> str:
        """Return the signature of what a server challenges with."""
        signed: bytes = _private(self.secret).sign(nonce.encode())
        return base64.urlsafe_b64encode(signed).decode().rstrip("=")


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """The identity of a client, in the words of CONNECT.

    Attributes:
        user: A user's name.
        password: Its password.
        token: A token.
        jwt: What an operator has signed for a user.
        key: The user's key.
    """

    user: str | None = None
    password: str | None = None
    token: str | None = None
    jwt: str | None = None
    key: Key | None = None

    def fields(self, nonce: str) -> dict[str, Any]:
        """Return the fields of CONNECT.

        Args:
            nonce: What the server challenges with; ``""`` where it does not.
        """
        fields: dict[str, Any] = {}
        if self.user is not None:
            fields.update(user=self.user, **{"pass": self.password or ""})
        if self.token is not None:
            fields["auth_token"] = self.token
        if self.key is not None and nonce:
            fields["sig"] = self.key.sign(nonce)
            fields.update({"nkey": self.key.public} if self.jwt is None else {"jwt": self.jwt})
        return fields

    @property
    def said(self) -> str:
        """The part of it that is no secret, for an error."""
        if self.jwt is not None:
            return "the JWT and seed of the file of credentials"
        if self.key is not None:
            return f"the key {self.key.public}"
        if self.user is not None:
            return f"the user {self.user!r} and its password"
        return "the token" if self.token is not None else "no user, token or key"


def read_credentials(
    user: str | None,
    password: str | None,
    token: str | None,
    credentials: str | os.PathLike[str] | None,
    nkey_seed: str | os.PathLike[str] | None,
) -> Credentials:
    """Make one of the arguments of `open_nats`, the files read.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: Two ways are mixed, or a file has no credentials in it.
        OSError: A file cannot be read.
        ImportError: A seed needs ``cryptography``, which is not installed.
    """
    for name, value in (("user", user), ("password", password), ("token", token)):
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if password is not None and user is None:
        raise ValueError("password needs user as well; for a token alone give token=")
    named = {"user": user, "token": token, "credentials": credentials, "nkey_seed": nkey_seed}
    given = [name for name, value in named.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"one of {', '.join(named)} says who the client is, not {' and '.join(given)}")
    if credentials is not None:
        found = {}
        for block in _BLOCK.finditer(_file("credentials", credentials)):
            found.update({name: text for name, text in block.groupdict().items() if text is not None})
        if "jwt" not in found or "seed" not in found:
            raise ValueError(
                f"{str(credentials)!r} is no file of credentials: it needs a block NATS USER JWT and a block USER NKEY "
                "SEED, as `nsc generate creds` writes them"
            )
        return Credentials(jwt=found["jwt"], key=Key.from_seed(found["seed"]))
    if nkey_seed is not None:
        lines = [line.strip() for line in _file("nkey_seed", nkey_seed).splitlines()]
        seeds = [line for line in lines if line and not line.startswith(("#", "-"))]
        if len(seeds) != 1:
            raise ValueError(f"{str(nkey_seed)!r} must have one seed in it (SU...), not {len(seeds)}")
        return Credentials(key=Key.from_seed(seeds[0]))
    return Credentials(user=user, password=password, token=token)


def _file(name: str, path: str | os.PathLike[str]) -> str:
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except TypeError:
        raise TypeError(f"{name} must be the path of a file, not {type(path).__name__}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"{name}: {str(path)!r} is longer than {MAX_FILE_BYTES} bytes")
    return data.decode(errors="replace")


def _private(secret: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        raise ImportError("a seed or a file of credentials needs cryptography: pip install 'psession[nats]'") from error
    return Ed25519PrivateKey.from_private_bytes(secret)


def _crc16(data: bytes) -> int:
    return binascii.crc_hqx(data, 0)
