"""The server process: heads of requests that are too slow or too large."""

import asyncio
from collections.abc import Iterable

import pytest
import uvicorn

from align.review import server
from align.review.app import create_app
from align.review.server import HEAD_BYTES, HEAD_FIELDS

from .conftest import World

START = b"GET /login HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
POST = b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"


def visit(world: World, *requests: Iterable[bytes]) -> list[bytes]:
    """What a real server answers to each request, on a connection of its own, until it closes that."""

    async def send(port: int, pieces: Iterable[bytes]) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            pass  # it has answered and closed already
        try:
            return await asyncio.wait_for(reader.read(), 30)
        except ConnectionError:
            return b"reset"
        finally:
            writer.close()

    async def run() -> list[bytes]:
        app = create_app(world.review, quiet=True)
        config = uvicorn.Config(app, port=0, http=server.Protocol, log_level="critical")
        process = uvicorn.Server(config)
        task = asyncio.create_task(process.serve())
        while not process.started:
            await asyncio.sleep(0)
        port = process.servers[0].sockets[0].getsockname()[1]
        answers = [await send(port, pieces) for pieces in requests]
        process.should_exit = True
        await task
        return answers

    return asyncio.run(run())


def test_a_head_that_does_not_arrive_ends_the_connection(small_world, monkeypatch):
    """A client that sends its head byte by byte is cut off; one that is quick is answered."""
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.1)
    answered, dropped = visit(small_world, [START + b"\r\n"], [b"GET /login HTTP/1.1\r\nHo"])
    assert answered.startswith(b"HTTP/1.1 200") and dropped == b""


LONG = b"x" * (HEAD_BYTES + 1)
TOO_LARGE = {
    "one header": [START + b"X: " + LONG + b"\r\n\r\n"],
    "a header without end": [START + b"X: ", *[b"x" * 8192] * 200],
    "many headers": [START + b"".join(b"X%d: 1\r\n" % number for number in range(HEAD_FIELDS)) + b"\r\n"],
    "headers in pieces": [START, *[b"X: " + b"x" * 4000 + b"\r\n"] * 20, b"\r\n"],
    "a path": [b"GET /" + LONG + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"],
    "trailers": [POST, b"1\r\na\r\n0\r\n", *[b"X: " + b"x" * 4000 + b"\r\n"] * 200],
    "a chunk extension": [POST, b"1;", *[b"x" * 8192] * 200],
}


@pytest.mark.parametrize("kind", TOO_LARGE)
def test_a_head_that_is_too_large_is_refused(small_world, kind):
    [answer] = visit(small_world, TOO_LARGE[kind])
    assert answer == b"reset" or b"431 Request Header Fields Too Large" in answer


def test_a_head_within_the_limits_is_read(small_world):
    cookies = b"Cookie: " + b"; ".join(b"c%d=%b" % (number, b"x" * 400) for number in range(40)) + b"\r\n"
    fields = b"".join(b"X%d: 1\r\n" % number for number in range(HEAD_FIELDS - 5))
    sized = b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: 100000\r\n\r\n"
    for answer in visit(small_world, [START + cookies + fields + b"\r\n"], [sized + b"x" * 100_000]):
        assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 403")), answer[:300]
