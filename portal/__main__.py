"""Serves the portal: `python -m portal --config FILE [--host H --port N | --fd N] [--workers N]`.

The only place where the portal's parts are put together. TLS ends at the proxy in front, whose
number stands in the configuration.
"""

import argparse
import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from pydantic import SecretStr

from clients.http import Wire
from clients.platform import PlatformClient, PlatformPaths
from clients.twilio import TwilioClient
from ledger import Ledger
from ledger.clock import OffsetClock, wall_clock
from portal.app import create_app
from portal.config import PortalConfig, load_config
from portal.metrics import Metrics, serve_metrics
from portal.server import Leaving, Server
from portal.workers import EXIT_MISCONFIGURED, Workers, end_with_parent
from recovery.errors import Misconfigured, RecoveryError, Unreachable
from recovery.redaction import guard_logs

_MOST_WORKERS = 64

log = logging.getLogger("portal")


async def serve(
    config: PortalConfig,
    listening: socket.socket,
    *,
    metrics: Metrics,
    drain_seconds: float = 0.0,
    serving: Callable[[], None] = lambda: None,
) -> None:
    """Returns when the process was told to end and requests in flight are done; calls `serving`
    once it serves."""
    clock = OffsetClock(config.clock_offset_file) if config.clock_offset_file else wall_clock
    ledger = Ledger(
        config.ledger.url.get_secret_value(),
        key=config.ledger.key.get_secret_value().encode(),
        clock=clock,
        actor="portal",
    )
    leaving = Leaving()
    async with AsyncExitStack() as stack:
        stack.callback(ledger.close)
        await _look_at(ledger)
        app = create_app(
            config.portal,
            ledger=ledger,
            platform=PlatformClient(
                await stack.enter_async_context(_platform_wire(config)),
                PlatformPaths.of(config.platform.paths),
            ),
            sms=await _sms(config, stack),
            clock=clock,
            metrics=metrics,
            leaving=leaving,
        )
        server = Server(app, leaving, drain_seconds=drain_seconds)
        telling = asyncio.create_task(_tell(server, serving))
        await server.serve(sockets=[listening])
        telling.cancel()


async def _tell(server: Server, serving: Callable[[], None]) -> None:
    while not server.started:
        await asyncio.sleep(0.01)
    serving()


async def _look_at(ledger: Ledger) -> None:
    """A wrong ledger ends the start; one that does not answer yet does not: see /readyz."""
    try:
        await asyncio.to_thread(ledger.check)
    except Unreachable as error:
        log.warning("%s", error)


def _platform_wire(config: PortalConfig) -> Wire:
    platform = config.platform
    return Wire(
        "the platform",
        platform.base_url,
        headers={"Authorization": SecretStr(f"Bearer {platform.token.get_secret_value()}")},
        credential="token that may bind authenticators",
        ca_file=platform.ca_file,
        client_cert=platform.client_cert,
    )


async def _sms(config: PortalConfig, stack: AsyncExitStack) -> TwilioClient:
    sms = config.sms
    wire = Wire("Twilio", sms.base_url, ca_file=sms.ca_file, client_cert=sms.client_cert)
    return TwilioClient(
        sms.account_sid,
        (sms.user, sms.secret),
        await stack.enter_async_context(wire),
        messaging_service_sid=sms.messaging_service_sid,
        from_number=sms.from_number,
        status_callback=sms.status_callback,
    )


def _listening(host: str, port: int, fd: int | None) -> socket.socket:
    if fd is not None:
        return socket.socket(fileno=fd)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol must be named: without it asyncio leaves Nagle's delay on.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((host, port))
    listening.listen(2048)
    return listening


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m portal", description=__doc__)
    parser.add_argument("--config", default=os.environ.get("PORTAL_CONFIG"), type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", default=8080, type=int, help="0 takes a free one")
    parser.add_argument("--fd", type=int, help="an inherited listening socket instead")
    parser.add_argument("--workers", type=int, default=1, help="processes; one a core")
    parser.add_argument(
        "--drain", type=float, default=0.0, help="seconds to say 'not ready' before the end"
    )
    parser.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.config is None:
        parser.error("--config, or PORTAL_CONFIG in the environment")
    if not 1 <= chosen.workers <= _MOST_WORKERS:
        parser.error(f"--workers from 1 to {_MOST_WORKERS}")
    return chosen


def main() -> int:
    chosen = _arguments()
    guard_logs()
    logging.basicConfig(format="%(levelname)s %(name)s %(message)s")
    for name in ("portal", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        config = load_config(chosen.config)
        listening = _listening(chosen.host, chosen.port, chosen.fd)
    except (RecoveryError, OSError) as error:
        print(error, file=sys.stderr)
        return EXIT_MISCONFIGURED
    if chosen.ready_fd is None:
        print(f"listening on port {listening.getsockname()[1]}", flush=True)
    try:
        if chosen.workers > 1:
            return _supervise(chosen, config, listening)
        return _serve_alone(chosen, config, listening)
    except (Misconfigured, OSError) as error:
        print(error, file=sys.stderr)
        return EXIT_MISCONFIGURED


def _supervise(chosen: argparse.Namespace, config: PortalConfig, listening: socket.socket) -> int:
    one = ["--config", str(chosen.config), "--drain", str(chosen.drain)]
    metrics = (config.metrics.host, config.metrics.port) if config.metrics else None
    return Workers(one, chosen.workers, listening, metrics).run()


def _serve_alone(chosen: argparse.Namespace, config: PortalConfig, listening: socket.socket) -> int:
    metrics = Metrics()
    is_worker = chosen.ready_fd is not None
    if is_worker:
        end_with_parent(chosen.parent)
    elif config.metrics is not None:
        port = serve_metrics(config.metrics.host, config.metrics.port, folder=None, own=metrics)
        print(f"metrics on port {port}", flush=True)

    def serving() -> None:
        if is_worker:
            os.write(chosen.ready_fd, b"1")
            os.close(chosen.ready_fd)

    asyncio.run(
        serve(config, listening, metrics=metrics, drain_seconds=chosen.drain, serving=serving)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
