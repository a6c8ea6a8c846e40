"""Wire against servers that misbehave on purpose, each in one way."""

import asyncio
import gzip
import logging
import pickle
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import IPv4Address
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from httpx_aiohttp import AiohttpTransport
from pydantic import BaseModel, SecretStr

from clients.http import Timeouts, Wire, segment
from recovery.errors import (
    Conflict,
    Incomplete,
    Misconfigured,
    NotFound,
    RateLimited,
    RecoveryError,
    Refused,
    Unknown,
    Unreachable,
)

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
NOW = datetime(2026, 11, 3, 9, 0, tzinfo=UTC)
SHORT = Timeouts(
    connect=timedelta(seconds=0.3), read=timedelta(seconds=0.2), attempt=timedelta(seconds=0.5)
)


class Server:
    """Plays one behaviour per request, the last one for all that follow, and remembers."""

    def __init__(self, *behaviours: Behaviour) -> None:
        self._behaviours = list(behaviours)
        self.requests: list[bytes] = []
        self.connections = 0
        self.url = ""

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = 0
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                body = await reader.readexactly(length)
                self.requests.append(head + body)
                behaviour = self._behaviours[min(len(self.requests), len(self._behaviours)) - 1]
                await behaviour(reader, writer)
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


@asynccontextmanager
async def serving(
    *behaviours: Behaviour, tls: ssl.SSLContext | None = None, port: int = 0
) -> AsyncIterator[Server]:
    server = Server(*behaviours)
    listener = await asyncio.start_server(server.connected, "127.0.0.1", port, ssl=tls)
    scheme = "https" if tls else "http"
    server.url = f"{scheme}://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()


def answers(status: int, body: bytes = b"{}", **headers: str) -> Behaviour:
    async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        given = {"content-type": "application/json", "content-length": str(len(body))}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        writer.write(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + body)
        await writer.drain()

    return behave


async def hangs_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def resets(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def says_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read(1)


async def drips(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n")
    for _byte in range(900):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.05)


async def cuts(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(
        b'HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: 90\r\n\r\n{"a"'
    )
    await writer.drain()
    writer.close()


async def talks_nonsense(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.example ESMTP\r\n")
    await writer.drain()
    writer.close()


class Sleeper:
    """Records pauses instead of making them."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.pauses.append(seconds)


@pytest.fixture
def sleeper() -> Sleeper:
    return Sleeper()


def wire_to(url: str, sleeper: Sleeper, **settings: object) -> Wire:
    defaults: dict[str, object] = {
        "sleep": sleeper,
        "jitter": random.Random(1),
        "timeout": SHORT,
        "clock": lambda: NOW,
    }
    return Wire("the test server", url, **{**defaults, **settings})  # type: ignore[arg-type]


async def ask(wire: Wire, *, repeatable: bool, method: str = "POST") -> httpx.Response:
    return await wire.request(
        method,
        "/things/t-1?person=ann%40example.org",
        attempted="Do the thing",
        subject="t-1",
        json={"secret": "s3cr3t"} if method == "POST" else None,
        repeatable=repeatable,
    )


async def failure(
    url: str, sleeper: Sleeper, *, repeatable: bool, method: str = "POST", **settings: object
) -> RecoveryError:
    async with wire_to(url, sleeper, **settings) as wire:
        with pytest.raises(RecoveryError) as caught:
            await ask(wire, repeatable=repeatable, method=method)
    return caught.value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# Certainly not sent


async def test_refused_connection_is_retried_and_certainly_not_done(sleeper: Sleeper) -> None:
    error = await failure(f"http://127.0.0.1:{free_port()}", sleeper, repeatable=False)
    assert type(error) is Unreachable
    assert "a refused connection" in str(error)
    assert len(sleeper.pauses) == 3
    assert sleeper.pauses == sorted(sleeper.pauses)


async def test_unknown_host_is_certainly_not_done(sleeper: Sleeper) -> None:
    error = await failure(
        "https://nowhere.invalid",
        sleeper,
        repeatable=False,
        timeout=Timeouts(attempt=timedelta(seconds=10)),
    )
    assert type(error) is Unreachable
    assert "an unknown host name" in str(error)


async def test_connection_that_never_comes_about_is_certainly_not_done(sleeper: Sleeper) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        try:
            url = f"http://127.0.0.1:{full.getsockname()[1]}"
            error = await failure(url, sleeper, repeatable=False, attempts=2)
        finally:
            for one in waiting:
                one.close()
    assert type(error) is Unreachable
    assert "did not come about in time" in str(error)


async def test_waiting_for_a_free_connection_is_certainly_not_done(sleeper: Sleeper) -> None:
    patient = Timeouts(read=timedelta(seconds=2), attempt=timedelta(seconds=0.5))
    async with serving(says_nothing) as server:
        wire = wire_to(server.url, sleeper, max_connections=1, attempts=1, timeout=patient)
        async with wire:
            first = asyncio.create_task(ask(wire, repeatable=False))
            await asyncio.sleep(0.1)
            second = asyncio.create_task(ask(wire, repeatable=False))
            await asyncio.sleep(0.1)
            assert len(server.requests) == 1
            results = await asyncio.gather(first, second, return_exceptions=True)
    assert type(results[0]) is Unknown
    # The slot is free once the first gave up, so the second either got it and was lost, or not.
    assert type(results[1]) in (Unreachable, Unknown)
    assert (type(results[1]) is Unknown) == (len(server.requests) == 2)


async def test_refused_once_then_there(sleeper: Sleeper) -> None:
    port = free_port()
    async with wire_to(f"http://127.0.0.1:{port}", sleeper) as wire:
        servers: list[Server] = []

        async def server_comes_up(_: float) -> None:
            servers.append(await stack.__aenter__())

        stack = serving(answers(200), port=port)
        wire._sleep = server_comes_up
        response = await ask(wire, repeatable=False)
        await stack.__aexit__(None, None, None)
    assert response.status_code == 200
    assert len(servers[0].requests) == 1


# Maybe done


@pytest.mark.parametrize("behaviour", [hangs_up, resets, says_nothing, drips, cuts, talks_nonsense])
async def test_lost_answer_to_what_cannot_be_repeated_is_unknown_at_once(
    sleeper: Sleeper, behaviour: Behaviour
) -> None:
    async with serving(behaviour) as server:
        error = await failure(server.url, sleeper, repeatable=False)
        assert type(error) is Unknown
        assert len(server.requests) == 1
    assert sleeper.pauses == []


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("behaviour", [hangs_up, cuts])
async def test_lost_answer_to_what_can_be_repeated_is_asked_again_and_then_unknown(
    sleeper: Sleeper, behaviour: Behaviour, method: str
) -> None:
    async with serving(behaviour) as server:
        error = await failure(server.url, sleeper, repeatable=True, method=method)
        assert type(error) is Unknown
        assert len(server.requests) == 4
    assert len(sleeper.pauses) == 3


async def test_lost_answer_then_a_good_one(sleeper: Sleeper) -> None:
    async with serving(hangs_up, answers(500), answers(200)) as server:
        async with wire_to(server.url, sleeper) as wire:
            assert (await ask(wire, repeatable=True)).status_code == 200
        assert len(server.requests) == 3


async def test_nothing_below_repeats_on_a_kept_connection(sleeper: Sleeper) -> None:
    """aiohttp by itself sends a GET again when a kept connection turns out to be dead."""
    async with serving(answers(200), hangs_up) as server:
        async with wire_to(server.url, sleeper, attempts=1) as wire:
            await ask(wire, repeatable=True, method="GET")
            with pytest.raises(Unknown):
                await ask(wire, repeatable=True, method="GET")
        assert server.connections == 1
        assert len(server.requests) == 2


async def test_a_lost_answer_is_remembered_when_the_next_attempt_cannot_connect(
    sleeper: Sleeper,
) -> None:
    """The last attempt alone would say Unreachable, which promises that nothing was done."""
    port = free_port()
    async with wire_to(f"http://127.0.0.1:{port}", sleeper, attempts=2) as wire:
        stack = serving(hangs_up, port=port)
        await stack.__aenter__()

        async def server_goes_away(_: float) -> None:
            await stack.__aexit__(None, None, None)

        wire._sleep = server_goes_away
        with pytest.raises(Unknown):
            await ask(wire, repeatable=True)


async def test_a_lost_answer_is_remembered_when_the_next_attempt_is_rate_limited(
    sleeper: Sleeper,
) -> None:
    async with serving(hangs_up, answers(429, retry_after="1")) as server:
        error = await failure(server.url, sleeper, repeatable=True, attempts=2)
    assert type(error) is Unknown


async def test_a_lost_answer_is_remembered_when_the_quota_gives_no_room(sleeper: Sleeper) -> None:
    leases = 0

    async def pace() -> None:
        nonlocal leases
        leases += 1
        if leases > 1:
            raise TimeoutError

    async with serving(hangs_up) as server:
        error = await failure(server.url, sleeper, repeatable=True, pace=pace)
    assert type(error) is Unknown


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408])
async def test_server_error_may_have_been_done(sleeper: Sleeper, status: int) -> None:
    async with serving(answers(status)) as server:
        assert type(await failure(server.url, sleeper, repeatable=False)) is Unknown
        assert len(server.requests) == 1
        assert type(await failure(server.url, sleeper, repeatable=True)) is Unknown
        assert len(server.requests) == 5


async def test_why_exception_names_are_not_trusted() -> None:
    """The trap behind `http_transport`: a line that breaks after the request was read arrives as
    ConnectTimeout, which everywhere else means that nothing was sent."""
    async with serving(hangs_up) as server:
        async with httpx.AsyncClient(transport=AiohttpTransport()) as client:
            with pytest.raises(httpx.ConnectTimeout):
                await client.post(server.url + "/things")
        assert len(server.requests) == 1


# Rate limits


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "3"}, 3.0),
        ({"retry_after": "0"}, 0.0),
        ({"retry_after": format_datetime(NOW + timedelta(seconds=7), usegmt=True)}, 7.0),
        (
            {
                "date": format_datetime(NOW + timedelta(days=2), usegmt=True),
                "retry_after": format_datetime(NOW + timedelta(days=2, seconds=5), usegmt=True),
            },
            5.0,
        ),
        ({"retry_after": format_datetime(NOW - timedelta(seconds=7), usegmt=True)}, 0.0),
        ({"x_ratelimit_reset": str(int(NOW.timestamp()) + 4)}, 4.0),
        ({"x_rate_limit_reset": str(int(NOW.timestamp()) + 4)}, 4.0),
        ({"ratelimit_reset": "6"}, 6.0),
        ({"retry_after": "soon"}, 1.0),
        ({}, 1.0),
    ],
)
async def test_429_waits_as_long_as_it_was_told(
    sleeper: Sleeper, headers: dict[str, str], seconds: float
) -> None:
    async with (
        serving(answers(429, **headers), answers(200)) as server,
        wire_to(server.url, sleeper) as wire,
    ):
        await ask(wire, repeatable=False)
        assert len(server.requests) == 2
    assert len(sleeper.pauses) == 1
    assert seconds <= sleeper.pauses[0] <= seconds * 1.1 + 0.1


async def test_endless_429_becomes_rate_limited(sleeper: Sleeper) -> None:
    async with serving(answers(429, retry_after="2")) as server:
        error = await failure(server.url, sleeper, repeatable=False)
        assert len(server.requests) == 4
    assert isinstance(error, RateLimited)
    assert error.retry_after == timedelta(seconds=2)


async def test_a_wait_beyond_the_budget_is_left_to_the_caller(sleeper: Sleeper) -> None:
    async with serving(answers(429, retry_after="300")) as server:
        error = await failure(server.url, sleeper, repeatable=False)
        assert len(server.requests) == 1
    assert isinstance(error, RateLimited)
    assert error.retry_after == timedelta(seconds=300)
    assert sleeper.pauses == []


async def test_503_that_names_a_time_was_not_done(sleeper: Sleeper) -> None:
    async with serving(answers(503, retry_after="1"), answers(200)) as server:
        async with wire_to(server.url, sleeper) as wire:
            await ask(wire, repeatable=False)
        assert len(server.requests) == 2


async def test_every_attempt_is_paced(sleeper: Sleeper) -> None:
    leases = 0

    async def pace() -> None:
        nonlocal leases
        leases += 1

    async with (
        serving(answers(429), answers(500), answers(200)) as server,
        wire_to(server.url, sleeper, pace=pace) as wire,
    ):
        await ask(wire, repeatable=True)
    assert leases == 3


# Refusals


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Refused),
        (401, Misconfigured),
        (403, Misconfigured),
        (404, NotFound),
        (409, Conflict),
        (412, Conflict),
        (422, Refused),
        (301, Misconfigured),
    ],
)
async def test_refusals_are_final_and_keep_the_code(
    sleeper: Sleeper, status: int, kind: type[RecoveryError]
) -> None:
    body = b'{"error": "no_such_thing", "message": "ann@example.org is unknown"}'
    async with serving(answers(status, body, location="http://127.0.0.1:1/steal")) as server:
        error = await failure(server.url, sleeper, repeatable=True)
        assert len(server.requests) == 1
    assert type(error) is kind
    assert "no_such_thing" in str(error)
    if isinstance(error, Refused):
        assert error.code == "no_such_thing"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"code": 21610, "message": "x"}', "21610"),
        (b'{"error": {"type": "parsing_exception", "reason": "x"}}', "parsing_exception"),
        (b'{"error": "Ann is not known here"}', "400"),
        (b'{"error": "ann@example.org"}', "400"),
        (b"<html>", "400"),
        (b"[" * 100_000, "400"),
    ],
)
async def test_code_of_a_refusal(sleeper: Sleeper, body: bytes, code: str) -> None:
    async with serving(answers(400, body)) as server:
        error = await failure(server.url, sleeper, repeatable=True)
    assert isinstance(error, Refused)
    assert error.code == code


async def test_errors_and_logs_hold_nothing_private(
    sleeper: Sleeper, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    private = ("s3cr3t", "tok3n", "ann", "person=")
    body = b'{"error": "ann@example.org", "code": "s3cr3t!"}'
    for behaviour in (answers(400, body), answers(401, body), answers(500, body), hangs_up, cuts):
        async with serving(behaviour) as server:
            error = await failure(
                server.url,
                sleeper,
                repeatable=False,
                headers={"Authorization": SecretStr("Bearer tok3n")},
            )
        shown = f"{error} {error!r} {error.__cause__!r} {pickle.dumps(error)!r}"
        assert not [word for word in private if word in shown]
    assert not [word for word in private if word in caplog.text]
    assert not [r for r in caplog.records if r.name.startswith(("httpx", "httpcore"))]


# Answers that cannot be used


class Shape(BaseModel):
    count: int


@pytest.mark.parametrize(
    "behaviour",
    [
        answers(200, b'{"count": '),
        answers(200, b"<html>", content_type="text/html"),
        answers(200, b'{"count": "many"}'),
        answers(200, b"[]"),
        answers(200, b"[" * 100_000),
    ],
)
async def test_answer_of_another_kind(sleeper: Sleeper, behaviour: Behaviour) -> None:
    async with serving(behaviour) as server, wire_to(server.url, sleeper) as wire:
        with pytest.raises(Incomplete):
            wire.read(await ask(wire, repeatable=True), Shape)
        # Something was created and its answer can't be read: that is no refusal.
        with pytest.raises(Unknown):
            wire.read(await ask(wire, repeatable=False), Shape)


async def test_a_web_page_is_no_success_even_where_the_status_alone_is_looked_at(
    sleeper: Sleeper,
) -> None:
    """A proxy's login page answers 200 to everything, also to "revoke this session"."""
    page = answers(200, b"<html>", content_type="text/html; charset=utf-8")
    async with serving(page) as server, wire_to(server.url, sleeper) as wire:
        with pytest.raises(Incomplete, match="web page"):
            await ask(wire, repeatable=True)
        with pytest.raises(Unknown, match="web page"):
            await ask(wire, repeatable=False)


async def test_an_unexpected_success_of_what_can_not_be_repeated_is_unknown(
    sleeper: Sleeper,
) -> None:
    """200 where 201 was expected: whether it was created nobody knows."""
    async with serving(answers(202, b"{}")) as server, wire_to(server.url, sleeper) as wire:
        with pytest.raises(Unknown, match="HTTP 202"):
            await ask(wire, repeatable=False)
        with pytest.raises(Misconfigured):
            await ask(wire, repeatable=True)


async def test_answer_of_the_right_kind(sleeper: Sleeper) -> None:
    kind = "application/vnd.elasticsearch+json; charset=UTF-8"
    async with (
        serving(answers(200, b'{"count": 3, "more": 1}', content_type=kind)) as server,
        wire_to(server.url, sleeper) as wire,
    ):
        response = await ask(wire, repeatable=True)
        assert wire.read(response, Shape) == Shape(count=3)
        assert wire.json(response) == {"count": 3, "more": 1}


async def test_half_a_character_is_replaced_and_not_the_end(sleeper: Sleeper) -> None:
    """JavaScript cuts names between the two halves of an emoji; pydantic and databases refuse
    what is left, and one such name must not hide a whole page of accounts."""
    body = b'{"names": ["ann\\uD83D", "\\ud83d\\ude00", "\\\\ud83d"]}'

    class Names(BaseModel):
        names: list[str]

    async with (
        serving(answers(200, body)) as server,
        wire_to(server.url, sleeper) as wire,
    ):
        response = await ask(wire, repeatable=True)
        assert wire.read(response, Names).names == ["ann?", "\N{GRINNING FACE}", "\\ud83d"]
        await wire.request("POST", "/x", attempted="x", json={"name": "ann\ud83d"}, repeatable=True)
        assert server.requests[1].endswith(b'{"name":"ann\\ud83d"}')


async def test_text_that_cannot_be_sent_is_not_shown(sleeper: Sleeper) -> None:
    async with wire_to("https://x.example", sleeper) as wire:
        for wrong in ({"form": {"token": "s3cr3t\ud800"}}, {"params": {"q": "s3cr3t\ud800"}}):
            with pytest.raises(Refused) as caught:
                await wire.request(
                    "POST",
                    "/x",
                    attempted="Try",
                    repeatable=True,
                    **wrong,  # type: ignore[arg-type]
                )
            assert b"s3cr3t" not in pickle.dumps(caught.value)
            assert caught.value.__suppress_context__
        with pytest.raises(Misconfigured) as header:
            await wire.request(
                "GET", "/x", attempted="Try", repeatable=True, headers={"X-Key": "s3cr3t\n"}
            )
        assert "s3cr3t" not in str(header.value)


async def test_compressed_answer_is_unpacked_once(sleeper: Sleeper) -> None:
    packed = gzip.compress(b'{"count": 7}')
    async with (
        serving(answers(200, packed, content_encoding="gzip")) as server,
        wire_to(server.url, sleeper) as wire,
    ):
        assert wire.read(await ask(wire, repeatable=True), Shape).count == 7


async def test_huge_answer_is_not_read_to_its_end(sleeper: Sleeper) -> None:
    bomb = gzip.compress(b" " * (40 * 1024 * 1024), compresslevel=1)
    async with serving(answers(200, bomb, content_encoding="gzip")) as server:
        slow = Timeouts(read=timedelta(seconds=10), attempt=timedelta(seconds=20))
        error = await failure(server.url, sleeper, repeatable=True, timeout=slow)
        assert len(server.requests) == 1
    assert type(error) is Incomplete


# TLS


class Certificates:
    def __init__(self, folder: Path, host: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        now = datetime.now(UTC)
        alternative: x509.GeneralName
        if host == "127.0.0.1":
            alternative = x509.IPAddress(IPv4Address(host))
        else:
            alternative = x509.DNSName(host)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.cert = folder / f"{host}.pem"
        self.key = folder / f"{host}.key"
        self.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )

    def server(self, *, demand_client: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        if demand_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.cert)
        return context


@pytest.fixture(autouse=True)
def quiet_event_loop() -> None:
    """A refused TLS handshake makes the test server's own loop log an error."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)


async def test_untrusted_certificate_stops_at_once(sleeper: Sleeper, tmp_path: Path) -> None:
    tls = Certificates(tmp_path, "127.0.0.1").server()
    async with serving(answers(200), tls=tls) as server:
        error = await failure(server.url, sleeper, repeatable=True)
        assert server.requests == []
    assert type(error) is Misconfigured
    assert "self-signed certificate" in str(error)
    assert sleeper.pauses == []


async def test_certificate_of_another_host_stops_at_once(sleeper: Sleeper, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path, "elsewhere.example")
    async with serving(answers(200), tls=certificates.server()) as server:
        error = await failure(server.url, sleeper, repeatable=True, ca_file=str(certificates.cert))
        assert server.requests == []
    assert type(error) is Misconfigured


async def test_our_own_authority_and_client_certificate(sleeper: Sleeper, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path, "127.0.0.1")
    tls = certificates.server(demand_client=True)
    ca_file, key = str(certificates.cert), str(certificates.key)
    async with serving(answers(200), tls=tls) as server:
        settings: dict[str, object] = {"ca_file": ca_file, "client_cert": (ca_file, key)}
        async with wire_to(server.url, sleeper, **settings) as wire:
            assert (await ask(wire, repeatable=False)).status_code == 200
        error = await failure(server.url, sleeper, repeatable=True, ca_file=ca_file)
        assert len(server.requests) == 1
    # A TLS 1.3 server refuses only after the request was sent, with an alert or a bare reset.
    assert type(error) in (Misconfigured, Unknown)


async def test_tls_to_a_plain_port_is_certainly_not_done(sleeper: Sleeper) -> None:
    async def as_web_servers_do(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(as_web_servers_do, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    error = await failure(url, sleeper, repeatable=False)
    listener.close()
    assert type(error) is Unreachable
    assert "a failed TLS handshake" in str(error)
    assert len(sleeper.pauses) == 3


# Configuration


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host.example",
        "host.example",
        "https://",
        "https://user:pass@host.example",
        "https://host.example/?a=b",
        "https://[half",
        "http://host.example",
    ],
)
def test_unusable_addresses(url: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        Wire("X", url)
    assert "pass@" not in str(caught.value)


def test_plain_http_where_it_is_asked_for() -> None:
    assert Wire("X", "http://vault.mesh", allow_cleartext=True).base_url == "http://vault.mesh"
    assert Wire("X", "http://[::1]:80/").base_url == "http://[::1]:80"


@pytest.mark.parametrize("token", ["tok3n\n", "tok\r\n3n", " tok3n", "“tok3n”", ""])
def test_a_badly_pasted_credential_is_named_and_not_shown(token: str) -> None:
    if token == "":
        token = "\x00"
    with pytest.raises(Misconfigured) as caught:
        Wire("X", "https://x.example", headers={"X-Key": token}, credential="API key")
    assert "API key" in str(caught.value)
    assert "tok" not in str(caught.value)


def test_missing_pem_files() -> None:
    with pytest.raises(Misconfigured):
        Wire("X", "https://x.example", ca_file="/nonexistent/ca.pem")


def test_a_wire_to_any_host_has_no_credentials() -> None:
    with pytest.raises(ValueError):
        Wire("X", None, auth=("a", "b"))


async def test_what_is_sent(sleeper: Sleeper) -> None:
    async with serving(answers(200, set_cookie="session=c00kie; Path=/")) as server:
        wire = wire_to(f"{server.url}/base", sleeper, auth=("me", SecretStr("pw")))
        async with wire:
            await wire.request("GET", "/a", attempted="x", repeatable=True, params={"q": "ä b"})
            await wire.request(
                "POST",
                "/b",
                attempted="x",
                repeatable=True,
                form={"to": "+1", "many": ["1", "2"]},
                headers={"Authorization": None, "X-Own": "1"},
            )
        first, second = (request.decode().lower() for request in server.requests)
    assert first.startswith("get /base/a?q=%c3%a4+b http/1.1")
    assert "authorization: basic bwu6chc=" in first
    assert "authorization" not in second
    assert "x-own: 1" in second
    assert second.endswith("to=%2b1&many=1&many=2")
    assert "c00kie" not in second


@pytest.mark.parametrize("bad", ["", ".", "..", "x" * 257])
def test_ids_that_are_no_path_segment(bad: str) -> None:
    with pytest.raises(Refused):
        segment(bad)


def test_segment_is_quoted() -> None:
    assert segment("u/../1?x#y") == "u%2F..%2F1%3Fx%23y"


async def test_quoted_segment_arrives_as_one(sleeper: Sleeper) -> None:
    async with serving(answers(200)) as server, wire_to(server.url, sleeper) as wire:
        path = f"/admin/{segment('u/../1')}/x"
        await wire.request("GET", path, attempted="x", repeatable=True)
        assert server.requests[0].startswith(b"GET /admin/u%2F..%2F1/x HTTP/1.1")
