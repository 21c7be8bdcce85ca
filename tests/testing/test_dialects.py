"""`check_dialect` accepts the dialects there are and the one of the documents, and refuses each mistake."""

from __future__ import annotations

import ast
import re
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from psession import SessionManager
from psession.channels import memory_pair
from psession.dialects import Answer, Cdp, Dap, GraphqlWs, JsonRpc, Lsp, Mcp, Question, TurnDialect
from psession.testing import check_dialect

if TYPE_CHECKING:
    from trio.testing import MockClock

CALL = {"method": "m", "params": {"a": 1}}


class Counting(TurnDialect):
    """A dialect without a fault; each test below gives it one."""

    def begin(self) -> None:
        self.ids = count(1)

    def new_id(self) -> Any:
        return next(self.ids)

    def ask(self, payload: Any, id: Any) -> Any:
        return {"id": id, "ask": payload}

    def answer(self, id: Any, payload: Any) -> Any:
        return {"id": id, "answer": payload}

    def read(self, message: Any) -> Any:
        if "ask" in message:
            return Question(message["id"], message["ask"])
        return Answer(message["id"], message["answer"])


def check(dialect: TurnDialect) -> None:
    check_dialect(dialect, {"n": 1}, both_ways=True)


@pytest.mark.parametrize("dialect", [JsonRpc(), Lsp()], ids=lambda dialect: type(dialect).__name__)
def test_json_rpc_keeps_the_contract_both_ways(dialect: TurnDialect) -> None:
    check_dialect(dialect, CALL, both_ways=True)


def test_the_others_keep_it() -> None:
    check(Counting())
    check_dialect(Dap(), {"command": "threads", "arguments": {}}, both_ways=True)
    check_dialect(
        Mcp(),
        CALL,
        answer=lambda asked: {"jsonrpc": "2.0", "id": asked["id"], "result": {}},
        failure=lambda asked: {"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -1, "message": "no"}},
        event={"jsonrpc": "2.0", "method": "notifications/message"},
    )
    check_dialect(
        Cdp("target"),
        {"method": "Page.enable"},
        answer=lambda asked: {"id": asked["id"], "result": {}, "sessionId": "target"},
        failure=lambda asked: {"id": asked["id"], "error": {"code": -1, "message": "no"}, "sessionId": "target"},
        event={"method": "Page.loadEventFired", "params": {}, "sessionId": "target"},
    )


def test_graphql_keeps_it_once_it_is_initiated() -> None:
    class Initiated(GraphqlWs):
        def begin(self) -> None:
            super().begin()
            self._is_initiated = True

    check_dialect(
        Initiated(),
        {"query": "{ a }"},
        answer=lambda asked: {"type": "next", "id": asked["id"], "payload": {"data": {}}},
        failure=lambda asked: {"type": "error", "id": asked["id"], "payload": [{"message": "no"}]},
        event={"type": "ping"},
    )


def blocks() -> list[str]:
    """The programs in docs/dialects.md."""
    text = (Path(__file__).parents[2] / "docs" / "dialects.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


async def test_the_first_program_of_the_documents_asks_a_server(autojump_clock: MockClock) -> None:
    here, there = memory_pair()
    names: dict[str, Any] = {"channel": here}
    async with SessionManager(dialect=JsonRpc()).port("s", there, on_request=lambda message: sum(message["params"])):
        await eval(compile(blocks()[0], "dialects.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    assert names["total"] == 3


def test_the_example_of_the_documents_keeps_it() -> None:
    names: dict[str, Any] = {}
    for block in blocks()[1:]:
        exec(compile(block, "dialects.md", "exec"), names)
    names["test_qmp"]()


class Twice(Counting):
    def new_id(self) -> Any:
        return 1


class WithoutHash(Counting):
    def new_id(self) -> Any:
        return [next(self.ids)]


class Changing(Counting):
    def ask(self, payload: Any, id: Any) -> Any:
        payload["id"] = id
        return payload


class Sharing(Counting):
    def __init__(self) -> None:
        self.open: list[Any] = []


class Mixing(Counting):
    def read(self, message: Any) -> Any:
        word = super().read(message)
        return Answer(word.id + 1, word.payload) if type(word) is Answer else word


class Wordless(Counting):
    def read(self, message: Any) -> Any:
        return [message]


class Losing(Counting):
    def read(self, message: Any) -> Any:
        word = super().read(message)
        return Question(word.id, {}) if type(word) is Question else word


@pytest.mark.parametrize(
    ("dialect", "text"),
    [
        (Twice(), "gave 1 twice"),
        (WithoutHash(), "what has a hash"),
        (Changing(), "changed its payload"),
        (Sharing(), "two links share 'open'"),
        (Mixing(), "the answer to 1 is read as"),
        (Wordless(), "returned"),
        (Losing(), "is read as {}"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_mistake_is_said(dialect: TurnDialect, text: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(text)):
        check(dialect)
