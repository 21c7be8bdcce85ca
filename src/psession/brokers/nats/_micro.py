"""A `psession.Service` as a micro service of NATS: endpoints, and the answers to PING, INFO and STATS (ADR-32)."""

from __future__ import annotations

import inspect
import re
import secrets
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
import trio

from psession.brokers.nats._subjects import subject_bytes
from psession.dialects.nats import NatsRequests
from psession.errors import SessionRefusedError
from psession.service import Service
from psession.shell.manager import SessionManager

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Mapping
    from contextlib import AbstractAsyncContextManager

    from psession.brokers.nats._requests import RequestChannel
    from psession.brokers.nats._subscription import Subscription
    from psession.brokers.nats._wire import NatsMessage

DEFAULT_QUEUE: Final = "q"
"""The queue group of micro services, as in the clients of NATS's own makers."""

_NAME: Final = re.compile(r"[A-Za-z0-9_-]+")
_NUMBER: Final = r"(0|[1-9]\d*)"
_PART: Final = r"(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)"
_VERSION: Final = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(-{_PART}(\.{_PART})*)?(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?", re.ASCII
)
"""As the published schemas of the answers have it: tools that check them show no service at all beside a wrong one."""

_TYPES: Final = {verb: f"io.nats.micro.v1.{verb.lower()}_response" for verb in ("PING", "INFO", "STATS")}


class MicroRoad(Protocol):
    """A client, as far as a micro service needs it."""

    def requests(
        self, subject: str, *, serves: bool = False, queue: str | None = None
    ) -> AbstractAsyncContextManager[RequestChannel]:
        """Open a channel of plain requests."""
        ...

    def subscribe(self, subject: str) -> AbstractAsyncContextManager[Subscription]:
        """Subscribe to a subject."""
        ...

    async def respond(self, message: NatsMessage, data: bytes = b"") -> None:
        """Answer a message."""
        ...


class Endpoint(msgspec.Struct):
    """The counters of one method, in the words of ADR-32; times are nanoseconds."""

    name: str
    subject: str
    queue_group: str
    num_requests: int = 0
    num_errors: int = 0
    last_error: str = ""
    processing_time: int = 0
    average_processing_time: int = 0

    def count(self, started: float, error: str = "") -> None:
        """Take note of a request that is answered."""
        self.num_requests += 1
        self.processing_time += int((time.perf_counter() - started) * 1e9)
        self.average_processing_time = self.processing_time // self.num_requests
        if error:
            self.num_errors += 1
            self.last_error = error


class NatsService:
    """A micro service that runs; ``await nursery.start(partial(nats.micro, service, ...))`` gives it.

    Attributes:
        name: Its name.
        id: The number of this very process's service.
        endpoints: What is counted of each method.
    """

    def __init__(
        self,
        road: MicroRoad,
        service: Service,
        name: str,
        version: str,
        description: str,
        metadata: Mapping[str, str],
        queue: str,
        manager: SessionManager | None,
    ) -> None:
        if not isinstance(service, Service):
            raise TypeError(f"a micro service is made of a psession.Service, not {service!r}")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"the name of a micro service has letters, digits, '-' and '_', not {name!r}")
        if not isinstance(version, str) or not _VERSION.fullmatch(version):
            raise ValueError(f"the version of a micro service is such as '1.0.0' (semver), not {version!r}")
        if not isinstance(description, str):
            raise TypeError(f"the description of a micro service is a text, not {description!r}")
        if not all(isinstance(text, str) for pair in metadata.items() for text in pair):
            raise TypeError(f"the metadata of a micro service are texts by their names, not {metadata!r:.100}")
        self.name = name
        self.id: str = secrets.token_hex(11)
        self._road = road
        self._service = service
        self._version = version
        self._description = description
        self._metadata = dict(metadata)
        self._queue = queue
        self._manager = manager or SessionManager()
        self._started = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        self._methods: dict[str, Any] = service.describe()["methods"]
        self.endpoints: dict[str, Endpoint] = {
            method: Endpoint(method, f"{name}.{method}", queue) for method in self._methods
        }
        for endpoint in self.endpoints.values():
            if not _NAME.fullmatch(endpoint.name):
                raise ValueError(
                    f"the name of an endpoint has letters, digits, '-' and '_', not {endpoint.name!r}: give the method "
                    "another, service.method('name')"
                )
            subject_bytes(endpoint.subject)

    async def run(self, task_status: trio.TaskStatus[NatsService]) -> None:
        """Answer until cancelled, or until the client is drained or closed."""
        road = self._road
        async with AsyncExitStack() as stack:
            subscriptions = []
            for verb in _TYPES:
                for subject in (verb, f"{verb}.{self.name}", f"{verb}.{self.name}.{self.id}"):
                    subscription = await stack.enter_async_context(road.subscribe(f"$SRV.{subject}"))
                    subscriptions.append((verb, subscription))
            channel = await stack.enter_async_context(road.requests(f"{self.name}.*", serves=True, queue=self._queue))
            port = await stack.enter_async_context(
                self._manager.port(
                    f"micro service {self.name} {self.id}",
                    channel,
                    dialect=NatsRequests(by_subject=True),
                    on_request=self._call,
                )
            )
            nursery = await stack.enter_async_context(trio.open_nursery(strict_exception_groups=True))
            for verb, subscription in subscriptions:
                nursery.start_soon(self._tell, verb, subscription)
            task_status.started(self)
            await port.wait_closed()

    async def _tell(self, verb: str, subscription: Subscription) -> None:
        async for message in subscription:
            if message.reply:
                await self._road.respond(message, msgspec.json.encode(self.said(verb)))

    def said(self, verb: str) -> dict[str, Any]:
        """Return the answer to ``"PING"``, ``"INFO"`` or ``"STATS"``."""
        said: dict[str, Any] = {
            "type": _TYPES[verb],
            "name": self.name,
            "id": self.id,
            "version": self._version,
            "metadata": self._metadata,
        }
        if verb == "INFO":
            said["description"] = self._description
            said["endpoints"] = [self._shown(endpoint) for endpoint in self.endpoints.values()]
        elif verb == "STATS":
            said["started"] = self._started
            said["endpoints"] = [msgspec.to_builtins(endpoint) for endpoint in self.endpoints.values()]
        return said

    def _shown(self, endpoint: Endpoint) -> dict[str, Any]:
        method = self._methods[endpoint.name]
        schemas = {name: msgspec.json.encode(method[name]).decode() for name in ("arguments", "result")}
        return {
            "name": endpoint.name,
            "subject": endpoint.subject,
            "queue_group": endpoint.queue_group,
            "metadata": {"description": method["description"], **schemas},
        }

    def _call(self, payload: Any) -> Any:
        """Call the method that the subject names, and count it."""
        started = time.perf_counter()
        endpoint = self.endpoints.get(payload["method"])
        try:
            result = self._service.call(payload["method"], payload["arguments"])
        except Exception as error:
            if endpoint is not None:
                endpoint.count(started, _shown_error(error))
            raise
        assert endpoint is not None
        if inspect.isasyncgen(result):
            return self._collect(result, endpoint, started)
        if inspect.isawaitable(result):
            return self._wait_for(result, endpoint, started)
        endpoint.count(started)
        return result

    async def _wait_for(self, result: Awaitable[Any], endpoint: Endpoint, started: float) -> Any:
        try:
            value = await result
        except Exception as error:
            endpoint.count(started, _shown_error(error))
            raise
        endpoint.count(started)
        return value

    async def _collect(self, parts: AsyncIterator[Any], endpoint: Endpoint, started: float) -> Any:
        """A micro service has one answer, so that of a method with many is their list."""
        return await self._wait_for(_all_of(parts), endpoint, started)


async def _all_of(parts: AsyncIterator[Any]) -> list[Any]:
    return [part async for part in parts]


def _shown_error(error: Exception) -> str:
    if isinstance(error, SessionRefusedError):
        return f"{error.code or 'refused'}: {error.why}"
    return type(error).__name__
