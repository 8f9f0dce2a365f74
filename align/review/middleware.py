"""What every request goes through, whatever its route: limits on size and time, headers, a log line, a count."""

import asyncio
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

LARGEST_BODY = 256 * 1024  # bytes
UPLOAD = "/upload"  # how the paths end that take more
LARGEST_UPLOAD = 64 * 1024 * 1024  # bytes, of a file that an admin loads
SLOWEST_BODY = 20.0  # seconds for a body to arrive
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),  # with no-referrer, browsers give forms no Origin
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
)
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)  # seconds


class Metrics:
    """Counts for `/metrics`, in Prometheus' text format."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.durations: dict[str, list[float]] = {}  # route -> counts per bucket, then sum, then count

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        self.requests[method, route, status] += 1
        row = self.durations.setdefault(route, [0.0] * (len(BUCKETS) + 2))
        for at, bound in enumerate(BUCKETS):
            row[at] += seconds <= bound
        row[-2] += seconds
        row[-1] += 1

    def to_text(self, gauges: dict[str, dict[int, int]]) -> str:
        """`gauges`: name -> number of a campaign -> value."""
        lines = ["# TYPE align_review_requests_total counter"]
        for (method, route, status), count in sorted(self.requests.items()):
            lines.append(f'align_review_requests_total{{method="{method}",route="{route}",status="{status}"}} {count}')
        lines.append("# TYPE align_review_request_seconds histogram")
        for route, row in sorted(self.durations.items()):
            name = "align_review_request_seconds"
            for bound, count in zip(BUCKETS, row, strict=False):
                lines.append(f'{name}_bucket{{route="{route}",le="{bound:g}"}} {count:.0f}')
            lines.append(f'{name}_bucket{{route="{route}",le="+Inf"}} {row[-1]:.0f}')
            lines += [f'{name}_sum{{route="{route}"}} {row[-2]:.6f}', f'{name}_count{{route="{route}"}} {row[-1]:.0f}']
        for gauge, values in gauges.items():
            lines.append(f"# TYPE align_review_{gauge} gauge")
            lines += [
                f'align_review_{gauge}{{campaign="{number}"}} {value}' for number, value in sorted(values.items())
            ]
        return "\n".join(lines) + "\n"


class Gate:
    """ASGI middleware: the first to see a request and the last to see its answer.

    Args:
        hosts: the host names this server answers to. A page elsewhere can point a name of its own at this address
            (DNS rebinding), but not one of these.
        quiet: write no log.
    """

    def __init__(self, app: Application, *, hosts: frozenset[str], metrics: Metrics, quiet: bool = False):
        self.app = app
        self.hosts = hosts
        self.metrics = metrics
        self.quiet = quiet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500
        headers = dict(scope["headers"])
        largest = LARGEST_UPLOAD if scope["path"].endswith(UPLOAD) else LARGEST_BODY
        body = _Body(receive, largest)

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                names = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(pair for pair in HEADERS if pair[0] not in names)]
                if b"cache-control" not in names:
                    message["headers"].append((b"cache-control", b"no-store"))
            await send(message)

        try:
            if _host(scope["headers"]) not in self.hosts:
                await _refuse(answer, 421, "this server does not answer to that host name")
            elif _declared(headers) > largest:
                await _refuse(answer, 413, f"more than {largest} bytes")
            else:
                await self.app(scope, body, answer)
        finally:
            seconds = time.perf_counter() - began
            route = getattr(scope.get("route"), "path", "none")
            self.metrics.observe(scope["method"], route, status, seconds)
            if not self.quiet:
                line = {
                    "at": round(time.time(), 3),
                    "method": scope["method"],
                    "route": route,
                    "status": status,
                    "ms": round(seconds * 1000, 1),
                    "person": scope.get("state", {}).get("person"),
                }
                print(json.dumps(line), file=sys.stderr, flush=True)


class _Body:
    """The body of a request, no larger and no slower than allowed."""

    def __init__(self, receive: Receive, largest: int):
        self.receive = receive
        self.largest = self.left = largest
        self.deadline: float | None = None
        self.whole = False

    async def __call__(self) -> Message:
        if self.whole:
            return await self.receive()  # waits for the client to leave, as long as it takes
        loop = asyncio.get_running_loop()
        self.deadline = self.deadline or loop.time() + SLOWEST_BODY
        try:
            async with asyncio.timeout_at(self.deadline):
                message = await self.receive()
        except TimeoutError:
            raise HTTPException(408) from None
        self.left -= len(message.get("body", b""))
        if self.left < 0:
            raise HTTPException(413)
        self.whole = not message.get("more_body", False)
        return message


def _host(headers: list[tuple[bytes, bytes]]) -> str | None:
    """The host name of the one `Host` header, without its port; None where the header is anything else."""
    values = [value for name, value in headers if name == b"host"]
    match = _HOST.fullmatch(values[0].decode("latin-1").lower()) if len(values) == 1 else None
    return match[1] if match else None


def _declared(headers: dict[bytes, bytes]) -> int:
    text = headers.get(b"content-length", b"0")
    return int(text) if text.isdigit() else 0


async def _refuse(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*head, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
