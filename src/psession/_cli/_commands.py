"""The commands, each from its arguments to the exit status."""

from __future__ import annotations

import signal
from functools import partial
from typing import TYPE_CHECKING

import trio

from psession import _interrupt
from psession._cli import _load, call, completion, demo, echo, fleet, fleet_demo, gateway, watch
from psession._cli._arguments import parse
from psession._cli._console import OutputLost, abandon_output, complain, quiet_logs
from psession._cli._nats import DEFAULT_FLEET, NatsAddress, NatsPlace, servers_of_environment
from psession._cli._nats_peer import NatsPeer
from psession._cli._problem import Exit, Problem
from psession._cli._url import check_library, client_tls, server_tls
from psession._cli._wires import WIRES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable, Sequence


def run(argv: Sequence[str] | None) -> int:
    """Run the command that `argv` asks for, and return its exit status. A failure is told in one line."""
    try:
        with quiet_logs():
            return _run(_command(parse(argv)))
    except SystemExit as leaving:  # argparse, after help or a complaint
        return leaving.code if isinstance(leaving.code, int) else Exit.OK
    except Problem as problem:
        complain(str(problem))
        return problem.code
    except OutputLost as error:
        abandon_output()
        if not isinstance(error.__cause__, BrokenPipeError):  # "| head" is no mistake
            complain(str(error))
        return Exit.FAILED


def _command(arguments: argparse.Namespace) -> Callable[[], Awaitable[Exit]]:
    """Return the command that the arguments ask for, after the checks that need no connection."""
    if arguments.command == "demo":
        check_library()
        if arguments.fleet:
            return fleet_demo.run
        return demo.run
    if arguments.command == "completion":
        return partial(completion.run, arguments.shell)
    if arguments.command == "fleet":
        return partial(fleet.run, _broker(arguments), arguments.fleet, watch=arguments.watch)
    if arguments.command == "gateway":
        return _gateway(arguments)
    address = arguments.url
    if isinstance(address, NatsAddress):
        return _call(_nats_peer(arguments, address), arguments)
    if address.is_websocket:
        check_library()
    if arguments.command == "watch":
        if arguments.listen is not None:
            return partial(watch.serve, address, *arguments.listen)
        return partial(watch.run, address, every=arguments.every or 1.0, once=arguments.once)
    if arguments.command == "echo":
        tls = server_tls(arguments.certfile, arguments.keyfile) if address.is_secure else None
        return partial(echo.run, address, drain=arguments.drain, tls=tls)
    return _call(_peer(arguments), arguments)


def _call(peer: call.AnyPeer, arguments: argparse.Namespace) -> Callable[[], Awaitable[Exit]]:
    if arguments.lines:
        return partial(_load.run, peer, rate=arguments.rate, concurrency=arguments.concurrency or 1)
    return partial(call.run, peer, call.read_message(arguments.message))


def _peer(arguments: argparse.Namespace) -> call.Peer:
    wire, address = WIRES[arguments.dialect], arguments.url
    return call.Peer(
        address=address,
        wire=wire,
        within=arguments.timeout,
        tls=client_tls(arguments.cafile, insecure=arguments.insecure) if address.is_secure else None,
        headers=arguments.header or (),
        subprotocols=arguments.subprotocol or (),
        stream=arguments.stream,
        options={
            "session_timeout": arguments.timeout,
            "retry_count": arguments.retry_count,
            "retry_interval": arguments.retry_interval,
            "dialect": wire.make(arguments.sid_name or "sid"),
            "on_session_overflow": "refuse",
        },
    )


def _nats_peer(arguments: argparse.Namespace, address: NatsAddress) -> NatsPeer:
    tls = client_tls(arguments.cafile, insecure=arguments.insecure) if address.is_secure else None
    return NatsPeer(
        address=address,
        broker=NatsPlace(servers=[address.server], credentials=arguments.creds, inbox=arguments.inbox, tls=tls),
        fleet=arguments.fleet or DEFAULT_FLEET,
        wait=arguments.wait or 0.0,
        within=arguments.timeout,
        stream=arguments.stream,
        options={
            "session_timeout": arguments.timeout,
            "retry_count": arguments.retry_count,
            "retry_interval": arguments.retry_interval,
            "dialect": WIRES["exact"].make(arguments.sid_name or "sid"),
            "on_session_overflow": "refuse",
        },
    )


def _broker(arguments: argparse.Namespace) -> NatsPlace:
    tls = client_tls(arguments.cafile, insecure=False) if arguments.cafile is not None else None
    servers = arguments.nats or servers_of_environment()
    return NatsPlace(servers=servers, credentials=arguments.creds, inbox=arguments.inbox, tls=tls)


def _gateway(arguments: argparse.Namespace) -> Callable[[], Awaitable[Exit]]:
    check_library()
    options = gateway.Options(
        fleet=arguments.fleet,
        name=arguments.name,
        tokens=arguments.tokens,
        drain=arguments.drain,
        resume=arguments.resume,
        max_devices=arguments.max_devices,
        tls=server_tls(arguments.certfile, arguments.keyfile) if arguments.listen.is_secure else None,
    )
    return partial(gateway.run, arguments.listen, _broker(arguments), options)


def _run(command: Callable[[], Awaitable[Exit]]) -> int:
    """Run a command under Trio. Of several errors at once, the one to tell comes out."""
    try:
        return trio.run(_until_interrupted, command)
    except BaseExceptionGroup as group:
        for kind in (KeyboardInterrupt, OutputLost, Problem):
            if (found := _first(group, kind)) is not None:
                raise found from found.__cause__
        raise


async def _until_interrupted(command: Callable[[], Awaitable[Exit]]) -> Exit:
    """Run a command, and cancel it as a whole at a Ctrl-C.

    Trio alone would raise `KeyboardInterrupt` in whatever task runs at that moment: in one of the demo's devices, whose
    end the other tasks would take for a broken connection, and complain about. A second Ctrl-C ends the process.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        return await command()
    status = Exit.INTERRUPTED
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def cancel_when_interrupted() -> None:
                await anext(signals)
                _interrupt.exit_from_now_on()
                nursery.cancel_scope.cancel()

            status = await command()
            nursery.cancel_scope.cancel()
    return status


def _first(error: BaseException, kind: type[BaseException]) -> BaseException | None:
    if isinstance(error, BaseExceptionGroup):
        return next((found for part in error.exceptions if (found := _first(part, kind)) is not None), None)
    return error if isinstance(error, kind) else None
