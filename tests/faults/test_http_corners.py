"""HTTP/1.1's corners as raw bytes: what each one is answered with, always as JSON, and that nobody else notices."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

from tests.faults.test_sockets import CALL, LIVE, connection, post, server

POST = b"POST /v1/rerank HTTP/1.1"
CHUNKED = b"POST /v1/rerank HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
ONE_CHUNK = b"%x\r\n%b\r\n" % (len(CALL), CALL)


def get(*headers: bytes, line: bytes = b"GET /live HTTP/1.1", host: bytes = b"Host: localhost") -> bytes:
    return b"\r\n".join((line, *([host] if host else []), *headers)) + b"\r\n\r\n"


def call(*headers: bytes, body: bytes = CALL, length: bytes | None = None) -> bytes:
    length = b"Content-Length: %d" % len(body) if length is None else length
    return get(length, *headers, line=POST) + body


@dataclass(frozen=True)
class Corner:
    name: str
    sent: bytes
    statuses: tuple[int, ...]
    """Of all answers, in order."""
    closes: bool = False
    """Whether the server ends the connection."""


CORNERS = (
    # Lengths: two of them, or one that is no length, are how requests are smuggled past a proxy.
    Corner("both lengths", CHUNKED + b"Content-Length: 5\r\n\r\n" + ONE_CHUNK + b"0\r\n\r\n", (400,), True),
    Corner("both lengths, other order", call(b"Transfer-Encoding: chunked"), (400,), True),
    Corner("two lengths", call(b"Content-Length: 5"), (400,), True),
    Corner("two equal lengths", call(b"Content-Length: %d" % len(CALL)), (400,), True),
    Corner("a list of lengths", call(length=b"Content-Length: 5, 5"), (400,), True),
    Corner("negative length", call(length=b"Content-Length: -5"), (400,), True),
    Corner("signed length", call(length=b"Content-Length: +5"), (400,), True),
    Corner("length of letters", call(length=b"Content-Length: ten"), (400,), True),
    Corner("empty length", call(length=b"Content-Length: "), (400,), True),
    Corner("hexadecimal length", call(length=b"Content-Length: 0x10"), (400,), True),
    Corner("length beyond 64 bits", call(length=b"Content-Length: 99999999999999999999"), (400,), True),
    Corner("length beyond the limit", call(length=b"Content-Length: 9999999999"), (413,), True),
    Corner("no length", get(line=POST), (400,)),
    Corner("a body with GET", get(b"Content-Length: 2") + b"{}", (200,)),
    # Chunks.
    Corner("chunks", CHUNKED + b"\r\n" + ONE_CHUNK + b"0\r\n\r\n" + LIVE, (200, 200)),
    Corner("extension of a chunk", CHUNKED + b"\r\n%x;a=b;c=\"\"\r\n%b\r\n0;e\r\n\r\n" % (len(CALL), CALL), (200,)),
    Corner("endless extension", CHUNKED + b"\r\n5;" + b"a" * 200_000, (431,), True),
    Corner("a body byte by byte", CHUNKED + b"\r\n" + b"1\r\n{\r\n" * 50_000, (400,), True),
    Corner("extensions all over", CHUNKED + b"\r\n" + (b"1;" + b"e" * 8000 + b"\r\n{\r\n") * 80, (400,), True),
    Corner("chunks of a few bytes", CHUNKED + b"\r\n" + b"2\r\n  \r\n" * 3000 + ONE_CHUNK + b"0\r\n\r\n", (200,)),
    Corner("negative chunk", CHUNKED + b"\r\n-5\r\n" + CALL, (400,), True),
    Corner("huge chunk", CHUNKED + b"\r\nfffffffffffffffff\r\n" + CALL, (400,), True),
    Corner("chunk that says more than the limit", CHUNKED + b"\r\n7fffffff\r\n" + b"x" * 100, (), False),
    Corner("chunk of no number", CHUNKED + b"\r\nhello\r\n" + CALL, (400,), True),
    Corner("chunk without its end", CHUNKED + b"\r\n2\r\n{}xx0\r\n\r\n", (400,), True),
    Corner("trailers", CHUNKED + b"\r\n" + ONE_CHUNK + b"0\r\nX-Sum: 1\r\nHost: other\r\n\r\n" + LIVE, (200, 200)),
    Corner("trailer without end", CHUNKED + b"\r\n" + ONE_CHUNK + b"0\r\n" + b"x: y\r\n" * 20_000, (431,), True),
    Corner("another coding", get(b"Transfer-Encoding: gzip, chunked", line=POST), (400,), True),
    Corner("chunked is not last", get(b"Transfer-Encoding: chunked, gzip", line=POST), (400,), True),
    Corner("chunked twice", CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n" + ONE_CHUNK + b"0\r\n\r\n", (400,), True),
    Corner("odd name of the coding", get(b"Transfer-Encoding: xchunked", line=POST), (400,), True),
    # Several requests, other protocols, older versions.
    Corner("pipelining", LIVE + call() + LIVE, (200, 200, 200)),
    Corner("pipelining behind an error", call(body=b"{") + LIVE, (400, 200)),
    Corner("pipelining behind no HTTP", LIVE + b"nonsense\r\n\r\n", (200,), True),
    Corner("h2c", get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c") + LIVE, (200, 200)),
    Corner("websocket", get(b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: x"), (200,)),
    Corner("upgrade and close", get(b"Connection: close, Upgrade", b"Upgrade: h2c") + LIVE, (200,), True),
    Corner("upgrade of a call", call(b"Connection: Upgrade", b"Upgrade: h2c"), (200,)),
    Corner("HTTP/2 by prior knowledge", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400,), True),
    Corner("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40, (400,), True),
    Corner("HTTP/1.0", get(line=b"GET /live HTTP/1.0", host=b""), (200,), True),
    Corner("HTTP/1.0 that stays", get(b"Connection: keep-alive", line=b"GET /live HTTP/1.0") + LIVE, (200,), True),
    Corner("HTTP/1.0 with chunks", CHUNKED.replace(b"1.1", b"1.0") + b"\r\n" + ONE_CHUNK + b"0\r\n\r\n", (200,), True),
    Corner("HTTP/0.9", b"GET /live\r\n\r\n", (400,), True),
    Corner("HTTP/1.2", get(line=b"GET /live HTTP/1.2"), (400,), True),
    Corner("HTTP/9.9", get(line=b"GET /live HTTP/9.9"), (400,), True),
    Corner("close", get(b"Connection: close") + LIVE, (200,), True),
    Corner("expects to be told", call(b"Expect: 100-continue"), (100, 200)),
    Corner("expects something else", call(b"Expect: the-unexpected"), (200,)),
    # Heads.
    Corner("no host", get(host=b""), (400,), True),
    Corner("two hosts", get(b"Host: localhost"), (400,), True),
    Corner("empty host", get(host=b"Host: "), (200,)),
    Corner("folded header", get(b"X-A: b\r\n c"), (400,), True),
    Corner("white space before the colon", get(b"X-A : b"), (400,), True),
    Corner("a line without a colon", get(b"X-A"), (400,), True),
    Corner("bare line feeds", LIVE.replace(b"\r\n", b"\n"), (400,), True),
    Corner("bare carriage return", get(b"X-A: b\rX-B: c"), (400,), True),
    Corner("NUL in a header", get(b"X-A: b\0c"), (400,), True),
    Corner("NUL in a name", get(b"X\0A: b"), (400,), True),
    Corner("bytes of no ASCII in a header", get(b"X-A: \xff\xfe"), (200,)),
    Corner("head of 40 kB", get(b"X-A: " + b"a" * 40_000), (431,), True),
    Corner("many headers", get(*[b"X-%d: a" % i for i in range(200)]), (431,), True),
    Corner("endless method", b"A" * 100_000 + b" / HTTP/1.1\r\n\r\n", (400,), True),
    Corner("unknown method", get(line=b"BREW /live HTTP/1.1"), (400,), True),
    Corner("lower-case method", get(line=b"get /live HTTP/1.1"), (400,), True),
    Corner("CONNECT", get(line=b"CONNECT localhost:80 HTTP/1.1"), (400,), True),
    Corner("TRACE", get(line=b"TRACE /live HTTP/1.1"), (405,)),
    Corner("absolute form", get(line=b"GET http://localhost/live HTTP/1.1"), (200,)),
    Corner("absolute form of another host", get(line=b"GET http://other.example/live HTTP/1.1"), (421,)),
    Corner("OPTIONS *", get(line=b"OPTIONS * HTTP/1.1"), (404,)),
    Corner("target without a slash", get(line=b"GET live HTTP/1.1"), (400,), True),
    Corner("empty target", get(line=b"GET  HTTP/1.1"), (400,), True),
    Corner("space in the target", get(line=b"GET /live now HTTP/1.1"), (400,), True),
    Corner("fragment", get(line=b"GET /live#x HTTP/1.1"), (200,)),
    Corner("path out of the root", get(line=b"GET /../../etc/passwd HTTP/1.1"), (404,)),
    Corner("percent NUL", get(line=b"GET /live%00 HTTP/1.1"), (404,)),
    Corner("broken percent", get(line=b"GET /%zz%f HTTP/1.1"), (404,)),
    Corner("bytes of no UTF-8 in the target", get(line=b"GET /%ff%fe HTTP/1.1"), (404,)),
    Corner("empty lines before", b"\r\n\r\n" + LIVE, (200,)),
)  # fmt: skip


def answers(received: bytes) -> list[tuple[int, bytes]]:
    """Status and body of each answer in what came over a connection."""
    found = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
        body, received = received[:length], received[length:]
        assert status < 200 or len(body) == length
        found.append((status, body))
    return found


async def outcome(port: int, corner: Corner) -> str | None:
    """What is wrong with how a corner was answered."""
    async with connection(port) as odd:
        odd.writer.write(corner.sent)
        received, closed = b"", False
        try:
            while not closed:
                enough = received.count(b"HTTP/1.1 ") >= len(corner.statuses) and not corner.closes
                part = await asyncio.wait_for(odd.reader.read(65536), 0.1 if enough else 4.0)
                received, closed = received + part, not part
        except TimeoutError:
            pass
        except ConnectionError:
            closed = True
    got = answers(received)
    statuses = tuple(status for status, _ in got)
    if statuses != corner.statuses or closed != corner.closes:
        return f"{corner.name}: {statuses}, {'closed' if closed else 'open'} {[b[:150] for _, b in got]}"
    for status, body in got:
        if status >= 400 and not json.loads(body)["error"]["message"].endswith("."):
            return f"{corner.name}: {body!r}"
    return None


async def test_each_corner_has_its_answer_and_nobody_else_notices() -> None:
    async with server() as port:
        wrong = await asyncio.gather(*(outcome(port, corner) for corner in CORNERS))
        async with connection(port) as honest:
            honest.writer.write(post(CALL))
            assert (await honest.answer())[0] == 200
    assert not [what for what in wrong if what], "\n".join(what for what in wrong if what)
