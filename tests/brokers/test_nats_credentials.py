"""Seeds, files of credentials and URLs: what is read in them, what is wrong with others, and no secret told."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

import pytest

from psession.brokers.nats._credentials import Credentials, Key, SeedError, read_credentials
from psession.brokers.nats._servers import MAX_SERVERS, ServerPool, read_url

if TYPE_CHECKING:
    from pathlib import Path

USER, SEED = 20 << 3, 18 << 3


def encoded(prefix: bytes, raw: bytes) -> str:
    """A key as NATS writes it, after its own description."""
    data = prefix + raw
    return base64.b32encode(data + binascii.crc_hqx(data, 0).to_bytes(2, "little")).decode().rstrip("=")


def seed(kind: int = USER) -> str:
    """A seed of 32 zero bytes."""
    return encoded(bytes([SEED | kind >> 5, (kind & 31) << 3]), bytes(32))


def read(**given: Any) -> Credentials:
    """Credentials of these arguments alone."""
    names = ("user", "password", "token", "credentials", "nkey_seed")
    return read_credentials(*[given.get(name) for name in names])


def test_a_seed_has_a_public_key_and_signs() -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.from_private_bytes(bytes(32))
    key = Key.from_seed(f" {seed()}\n")
    assert key.public == encoded(bytes([USER]), private.public_key().public_bytes_raw())
    assert key.public.startswith("U")
    signed = key.sign("nonce")
    private.public_key().verify(base64.urlsafe_b64decode(signed + "=="), b"nonce")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has 58"),
        ("SU!", "base32"),
        ("SUAA", "has 58"),
        (seed()[:-1] + ("B" if seed()[-1] == "A" else "A"), "checksum"),
        (encoded(bytes([USER, 0]), bytes(32)), "begins with S"),
        (seed(1 << 3), "begins with S"),
    ],
)
def test_what_is_no_seed_is_said_without_it(text: str, why: str) -> None:
    with pytest.raises(SeedError, match=why) as caught:
        Key.from_seed(text)
    assert not text or text not in str(caught.value)


def test_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "me.creds"
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\nabc.def\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed()}\n------END USER NKEY SEED------\n"
    )
    found = read(credentials=path)
    assert found.fields("n")["jwt"] == "abc.def"
    assert set(found.fields("n")) == {"jwt", "sig"}
    assert found.fields("") == {}
    path.write_text(f"# a comment\n{seed()}\n")
    assert set(read(nkey_seed=str(path)).fields("n")) == {"nkey", "sig"}
    for wrong in ("", "# nothing\n", f"{seed()}\n{seed()}\n"):
        path.write_text(wrong)
        with pytest.raises(ValueError, match="one seed"):
            read(nkey_seed=path)
        with pytest.raises(ValueError, match="no file of credentials"):
            read(credentials=path)
    path.write_bytes(bytes(1024 * 1024 + 1))
    with pytest.raises(ValueError, match="longer than"):
        read(nkey_seed=path)
    with pytest.raises(FileNotFoundError):
        read(credentials=tmp_path / "none")
    with pytest.raises(TypeError, match="path of a file"):
        read(credentials=7)


def test_no_secret_is_shown() -> None:
    shown = read(user="me", password="secret")
    assert shown.fields("") == {"user": "me", "pass": "secret"}
    assert "secret" not in repr(shown) + repr(Key.from_seed(seed())) + shown.said


@pytest.mark.parametrize(
    ("url", "shown", "address"),
    [
        ("nats://host", "nats://host:4222", ("host", 4222)),
        ("host:7", "nats://host:7", ("host", 7)),
        ("host", "nats://host:4222", ("host", 4222)),
        ("tls://u:p@host:7/", "tls://host:7", ("host", 7)),
        ("nats://[::1]:7", "nats://[::1]:7", ("::1", 7)),
        ("nats://tok@10.0.0.1", "nats://10.0.0.1:4222", ("10.0.0.1", 4222)),
    ],
)
def test_urls_of_servers(url: str, shown: str, address: tuple[str, int]) -> None:
    server = read_url(url)
    assert (server.url, server.address, repr(server)) == (shown, address, shown)


def test_a_server_told_of_by_its_address_has_its_tellers_certificate_and_credentials() -> None:
    pool = ServerPool("tls://u:p@host", lambda: 0.5)
    (teller,) = pool.round()
    pool.learn(["10.0.0.2:4222", "other:4222", "[::1]:4222"], teller)
    told = {server.host: server for server in pool.round()}
    assert (told["10.0.0.2"].tls_name, told["::1"].tls_name, told["other"].tls_name) == ("host", "host", "other")
    assert all(server.tls and server.credentials is teller.credentials for server in told.values())
    assert pool.round(told["other"])[-1] is told["other"]
    pool.learn([f"10.0.1.{number}:4222" for number in range(250)] + [f"10.0.2.{n}:4222" for n in range(250)], teller)
    assert len(pool) <= MAX_SERVERS
    pool.learn([], teller)
    assert len(pool) <= MAX_SERVERS
    pool.learn(["10.0.0.9:4222"], teller)
    assert [server.host for server in pool.round()] == ["host", "10.0.0.9"]
