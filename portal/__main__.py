"""Serves the portal: `python -m portal --config FILE [--host H --port N | --fd N]`.

The only place where the portal's parts are put together. TLS ends at the proxy in front, whose
number stands in the configuration.
"""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import uvicorn
from pydantic import SecretStr

from clients.http import Wire
from clients.platform import PlatformClient, PlatformPaths
from clients.twilio import TwilioClient
from ledger import Ledger
from ledger.clock import OffsetClock, wall_clock
from portal.app import create_app
from portal.config import PortalConfig, load_config
from recovery.errors import Misconfigured, RecoveryError, Unreachable
from recovery.redaction import guard_logs

_HEADERS_AT_MOST = 16 * 1024
_CONNECTIONS = 1000
_GRACE_SECONDS = 10

log = logging.getLogger("portal")


class _Server(uvicorn.Server):
    """Ends when told to and lets the caller close its clients; uvicorn's own would raise the
    signal once more as soon as it has stopped serving."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


async def serve(config: PortalConfig, listening: socket.socket) -> None:
    """Returns when the process was told to end and requests in flight are done."""
    clock = OffsetClock(config.clock_offset_file) if config.clock_offset_file else wall_clock
    ledger = Ledger(
        config.ledger.url.get_secret_value(),
        key=config.ledger.key.get_secret_value().encode(),
        clock=clock,
        actor="portal",
    )
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
        )
        server = _Server(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="on",
                log_config=None,
                # Who opens which page when is nobody's business but the person's.
                access_log=False,
                server_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=_HEADERS_AT_MOST,
                limit_concurrency=_CONNECTIONS,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=_GRACE_SECONDS,
            )
        )
        await server.serve(sockets=[listening])


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


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m portal", description=__doc__)
    parser.add_argument("--config", default=os.environ.get("PORTAL_CONFIG"), type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", default=8080, type=int, help="0 takes a free one")
    parser.add_argument("--fd", type=int, help="an inherited listening socket instead")
    chosen = parser.parse_args()
    if chosen.config is None:
        parser.error("--config, or PORTAL_CONFIG in the environment")
    guard_logs()
    logging.basicConfig(format="%(levelname)s %(name)s %(message)s")
    for name in ("portal", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        config = load_config(chosen.config)
        listening = _listening(chosen.host, chosen.port, chosen.fd)
    except (RecoveryError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"listening on port {listening.getsockname()[1]}", flush=True)
    try:
        asyncio.run(serve(config, listening))
    except Misconfigured as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
