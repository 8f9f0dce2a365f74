"""The server process: a socket, a database that is up to date, and on the first start a link for the first admin."""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from align.errors import UserError
from align.review import security
from align.review.app import create_app
from align.review.database import Database, migrate
from align.review.dependencies import Review
from align.review.store import people

HEAD_SECONDS = 10.0  # for the head of a request to arrive
HEAD_BYTES = 32 * 1024  # of a request's line and headers together
HEAD_FIELDS = 100  # headers of a request
IDLE_SECONDS = 30  # that a connection is kept without a request
FIRST_LINK_SECONDS = 86400.0


class HeadTooLarge(Exception):
    """A request's head is over the limits."""


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol with limits on the head of a request: its time, its size and its number of headers.

    The size is counted twice. What the parser has read is counted as it comes, and so is what it only collects: the
    beginning of a header that never ends, chunk extensions, trailers.
    """

    _head: asyncio.TimerHandle | None = None
    _collected = 0  # bytes received since the parser last finished a head or a piece of a body
    _head_bytes = 0
    _head_fields = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        self._await_head()
        self._collected += len(data)
        super().data_received(data)
        if self._collected > HEAD_BYTES and not self.transport.is_closing():
            self._refuse_head()

    def on_message_begin(self) -> None:
        self._head_bytes = self._head_fields = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_fields += 1
        self._count_head(len(name) + len(value))
        super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._collected = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._collected = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        if self._over_limit():
            self._refuse_head()
        else:
            super().send_400_response(msg)

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._over_limit():
            raise HeadTooLarge  # the parser reports it as an error, and uvicorn answers it

    def _over_limit(self) -> bool:
        return self._head_bytes > HEAD_BYTES or self._head_fields > HEAD_FIELDS

    def _refuse_head(self) -> None:
        detail = b"the head of the request is too large"
        head = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain\r\nconnection: close\r\n"
        self.transport.write(head + b"content-length: %d\r\n\r\n%b" % (len(detail), detail))
        self.transport.close()

    def on_headers_complete(self) -> None:
        self._collected = 0
        if self._head is not None:
            self._head.cancel()
            self._head = None
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._head is not None:
            self._head.cancel()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        busy = self.cycle is not None and not self.cycle.response_complete
        if self._head is None and not busy:
            self._head = self.loop.call_later(HEAD_SECONDS, self.transport.close)


def check_url(text: str) -> str:
    """The origin that a public URL names. Raises UserError."""
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.hostname or url.path.strip("/") or url.query:
        raise UserError(f"--public-url {text!r} is no origin; write it like https://review.example.org")
    return f"{url.scheme}://{url.netloc}".lower()


def check_proxies(addresses: Sequence[str]) -> list[str]:
    """The proxies whose `X-Forwarded-For` is believed. Raises UserError if one is not an address or a network."""
    for address in addresses:
        try:
            ipaddress.ip_network(address)
        except ValueError as error:
            raise UserError(
                f"--trusted-proxy {address!r} is not an address or a network ({error}); write it like 127.0.0.1 or "
                "10.0.0.0/8"
            ) from None
    return list(addresses)


def first_link(review: Review) -> str | None:
    """A link for the first admin, if there is no admin yet; earlier links stop working."""
    token, now = security.new_token(), review.clock()

    def work(tx):
        migrate(tx)
        if people.has_admin(tx):
            return False
        people.drop_admin_invites(tx)
        expires = now + FIRST_LINK_SECONDS
        people.add_invite(tx, security.digest(token), role="admin", campaign_id=None, expires=expires)
        return True

    return f"{review.origin}/invite/{token}" if review.database.now(work) else None


def serve(
    database: Database,
    secret: bytes,
    *,
    host: str,
    port: int,
    public_url: str | None,
    artifacts: str | None,
    trusted_proxies: Sequence[str] = (),
) -> None:
    """Run the app until it is stopped.

    Args:
        public_url: how browsers reach the app, through a proxy; None where they reach it directly.
        trusted_proxies: addresses and networks of the proxies in front of the app.

    Raises:
        UserError: the port is taken, or a setting is not valid.
    """
    proxies = check_proxies(trusted_proxies)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol named: asyncio switches Nagle's delay off only on sockets that say they are TCP.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(2048)  # early visitors wait until the server is ready
    except OSError as error:
        raise UserError(f"cannot listen on {host} port {port} ({error.strerror}); take another: --port") from None
    port = listening.getsockname()[1]
    named = f"[{host}]" if ":" in host else host
    origin = check_url(public_url) if public_url else f"http://{named}:{port}"
    review = Review(database, secret, origin, artifacts=artifacts)
    link = first_link(review)
    print(f"align review on {origin}, ratings in {database}", flush=True)
    if link:
        print(f"the first admin signs in here, once, within a day: {link}", flush=True)
    if host not in ("127.0.0.1", "localhost", "::1") and not review.secure:
        print(
            "others can read what raters type: put a server with TLS in front, and name it in --public-url", flush=True
        )
    if review.secure and not proxies:
        print(
            "all visitors will share the proxy's address and its rate limits: name the proxy with --trusted-proxy",
            flush=True,
        )
    uvicorn.Server(make_config(review, proxies)).run(sockets=[listening])


def make_config(review: Review, trusted_proxies: Sequence[str] = ()) -> uvicorn.Config:
    """How uvicorn runs the app."""
    return uvicorn.Config(
        create_app(review),
        http=Protocol,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=list(trusted_proxies),
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=10,
        limit_concurrency=2000,
    )
