"""A small HTTP/1.1 client that tells every kind of breakage apart, for tests under load."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


def request(
    method: str, path: str, *, form: Mapping[str, str] | None = None, cookie: str = ""
) -> bytes:
    body = urlencode(form).encode() if form is not None else b""
    lines = [f"{method} {path} HTTP/1.1", "Host: portal.test"]
    if cookie:
        lines.append(f"Cookie: {cookie}")
    if form is not None:
        lines += [
            "Content-Type: application/x-www-form-urlencoded",
            f"Content-Length: {len(body)}",
        ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def ask(reader: Reader, writer: Writer, sent: bytes) -> Answer:
    """ConnectionError or IncompleteReadError where the answer does not come whole."""
    writer.write(sent)
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    headers = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in rest if line)
    }
    length = int(headers.get("content-length", "0"))
    return Answer(int(first.split()[1]), headers, await reader.readexactly(length))


@dataclass
class Load:
    """`clients` browsers that ask again and again over kept connections until `stop` is set.
    `broken` holds what went wrong on the wire: nothing, if the servers hand over well."""

    port: int
    sent: Callable[[int], bytes]
    clients: int = 16
    answers: Counter[int] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        numbers = itertools.count()

        async def one() -> None:
            connection: tuple[Reader, Writer] | None = None
            while not self.stop.is_set():
                try:
                    if connection is None:
                        connection = await asyncio.open_connection("127.0.0.1", self.port)
                    async with asyncio.timeout(30):
                        answer = await ask(*connection, self.sent(next(numbers)))
                except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                    self.broken.append(f"{type(error).__name__} {error}")
                    connection = None
                    continue
                self.answers[answer.status] += 1
                if answer.headers.get("connection", "").lower() == "close":
                    connection[1].close()
                    connection = None
            if connection is not None:
                connection[1].close()

        async with asyncio.TaskGroup() as group:
            for _ in range(self.clients):
                group.create_task(one())
