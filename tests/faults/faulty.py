"""A server that does one thing wrong, on a bare socket: what networks and broken servers do."""

import asyncio
import contextlib
import datetime
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from email.utils import format_datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Act = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
LONG = 30.0
HUGE = 65 * 1024 * 1024


async def whole_request(reader: asyncio.StreamReader) -> None:
    """Reads one request with its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.decode("latin-1").split("\r\n"):
        name, _, value = line.partition(":")
        if name.lower() == "content-length":
            await reader.readexactly(int(value))


def answers(
    status: int,
    body: bytes = b'{"errors":["injected"],"error":"injected"}',
    *headers: str,
    kind: str = "application/json",
    length: int | None = None,
) -> Act:
    """Takes the whole request, changes nothing, and answers."""

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await whole_request(reader)
        size = len(body) if length is None else length
        lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", f"Content-Length: {size}"]
        writer.write("\r\n".join([*lines, *headers, "Connection: close", "", ""]).encode() + body)
        await writer.drain()

    return act


async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes the request and never says a word."""
    await whole_request(reader)
    await asyncio.sleep(LONG)


async def drips(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers a byte at a time, for ever."""
    await whole_request(reader)
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4096\r\n\r\n"
    )
    for _ in range(int(LONG / 0.05)):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.05)


async def tears(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes the request and cuts the connection: whether it was done nobody knows."""
    await whole_request(reader)
    writer.transport.abort()


async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An answer without end."""
    await whole_request(reader)
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n[" % HUGE
    )
    for _ in range(HUGE // 2**20):
        writer.write(b"1," * 2**19)
        await writer.drain()


def at(seconds: float) -> str:
    now = datetime.datetime.now(datetime.UTC)
    return format_datetime(now + datetime.timedelta(seconds=seconds), usegmt=True)


JSON = b'{"data":'
FAULTS: dict[str, Act | None] = {
    "refused connection": None,
    "DNS failure": None,
    "TLS failure": answers(200),
    "hang": hangs,
    "slow drip": drips,
    "torn after the request": tears,
    "400": answers(400),
    "401": answers(401),
    "403": answers(403),
    "404": answers(404),
    "409": answers(409),
    "429": answers(429),
    "429, seconds": answers(429, b"{}", "Retry-After: 1"),
    "429, date": answers(429, b"{}", f"Retry-After: {at(1)}"),
    "500": answers(500),
    "503": answers(503),
    "503, seconds": answers(503, b"{}", "Retry-After: 1"),
    "invalid JSON": answers(200, b"{]}"),
    "truncated JSON": answers(200, JSON, length=len(JSON)),
    "cut body": answers(200, JSON, length=4096),
    "huge body": floods,
    "wrong content type": answers(200, b"<p>hello</p>", kind="text/html"),
    "redirect elsewhere": answers(302, b"", "Location: http://127.0.0.1:9/elsewhere"),
}
"""None: no server behind it at all."""


@asynccontextmanager
async def address(fault: str, folder: Path) -> AsyncIterator[str]:
    """A base URL at which this fault is met."""
    act = FAULTS[fault]
    if fault == "DNS failure":
        yield "https://no-such-host.invalid"
        return
    served: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        served.add(task)
        try:
            if act is not None:
                await act(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            served.discard(task)
            with contextlib.suppress(OSError):
                writer.close()

    secure = self_signed(folder) if fault == "TLS failure" else None
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=secure)
    port = server.sockets[0].getsockname()[1]
    if act is None:
        server.close()
    try:
        yield f"{'https' if secure else 'http'}://127.0.0.1:{port}"
    finally:
        server.close()
        for task in served:
            task.cancel()
        await asyncio.gather(*served, return_exceptions=True)


def self_signed(folder: Path) -> ssl.SSLContext:
    """A certificate that nobody trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = folder / "nobody.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context
