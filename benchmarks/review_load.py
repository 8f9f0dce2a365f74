"""Many raters at once against the review app: latency, throughput, and whether every rating is kept, once.

    python benchmarks/review_load.py                                        # SQLite
    python benchmarks/review_load.py --database postgresql://align@127.0.0.1:5432/align_load

A server process, a database with 100,000 comparisons, and 50 raters from this process, over real sockets:

1. `steady`: each rater submits a rating and takes the next item every 2 s; then asks again, as a reload would.
2. `rush`: no pause between a rating and the next.
3. `killed`: the server gets SIGKILL in the rush; what it had acknowledged must be there.

After each the ratings in the database are held against what was acknowledged: none lost, none twice, no item with more
than the campaign's overlap. Writes benchmarks/review_load.json. Needs an empty database, and an idle machine.
"""

import argparse
import asyncio
import json
import os
import platform
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from align.records import Answer, Comparison
from align.review import security
from align.review.database import Database, migrate
from align.review.loading import to_items
from align.review.schemas import Settings
from align.review.store import campaigns, people
from align.review.store.campaigns import Campaign
from align.review.tables import assignment, event, item

RESULTS = Path(__file__).with_suffix(".json")
COMPARISONS = 100_000
RATERS = 50
OVERLAP = 3
THINK = 2.0  # seconds
STEADY = 60.0  # seconds of each phase
RUSH = 20.0
WORDS = ("the answer gives a short reason", "and then an example", "that helps whoever asked", "to see why it is so")


class Rater:
    """One browser: a connection that is kept, and what was acknowledged on it."""

    def __init__(self, port: int, cookie: str, csrf: str, campaign: str):
        self.port = port
        self.head = (
            f"Host: 127.0.0.1:{port}\r\nCookie: align_session={cookie}\r\nX-CSRF-Token: {csrf}\r\n"
            f"Origin: http://127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        )
        self.base = f"/api/campaigns/{campaign}"
        self.kept: list[str] = []  # keys of acknowledged ratings
        self.times: dict[str, list[float]] = {"next": [], "submit": []}
        self.errors: list[str] = []
        self.assignment: int | None = None
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def call(self, what: str, path: str, body: dict[str, Any] | None) -> None:
        """One request; its time in seconds, and the assignment that comes back."""
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        sent = b"" if body is None else json.dumps(body).encode()
        began = time.perf_counter()
        self.writer.write(
            f"POST {self.base}{path} HTTP/1.1\r\n{self.head}Content-Length: {len(sent)}\r\n\r\n".encode() + sent
        )
        head = await self.reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        length = int(re.search(rb"content-length: (\d+)", head, re.I)[1])
        answer = await self.reader.readexactly(length)
        self.times[what].append(time.perf_counter() - began)
        if status != 200:
            self.errors.append(f"{status} {answer[:200].decode(errors='replace')}")
            return
        if body is not None:
            self.kept.append(body["key"])
        found = re.search(rb'"assignment":(\d+)', answer)
        self.assignment = int(found[1]) if found else None

    async def rate(self) -> None:
        key = secrets.token_urlsafe(12)
        body = {"key": key, "verdict": secrets.choice(("a", "slight_a", "tie", "b")), "milliseconds": 2000}
        await self.call("submit", f"/assignments/{self.assignment}/rating", body)

    async def steadily(self, until: float, start: float) -> None:
        await asyncio.sleep(start)
        await self.call("next", "/next", None)
        while time.monotonic() < until and self.assignment is not None:
            begun = time.monotonic()
            await self.rate()
            await self.call("next", "/next", None)
            await asyncio.sleep(max(0.0, THINK - (time.monotonic() - begun)))

    async def hurriedly(self, until: float) -> None:
        await self.call("next", "/next", None)
        while time.monotonic() < until and self.assignment is not None:
            await self.rate()


def fill(database: Database, name: str) -> tuple[Campaign, list[str]]:
    """A campaign of 100,000 pairs and a signed-in session for each rater."""

    def text(number: int) -> str:
        return " ".join(WORDS[(number + at * (1 + number % 7)) % len(WORDS)] for at in range(20)) + f" ({number})."

    rows = []
    for number in range(COMPARISONS):
        answers = (Answer(f"**Yes.** {text(number)}", "dpo:v1"), Answer(f"No. {text(number + 1)}", "sft:v1"))
        rows.append((Comparison(f"Question {number}: {text(number)}", answers), {}))
    settings = Settings(title="Load", overlap=OVERLAP, gold=0.0)

    def work(tx: sa.Connection) -> tuple[Campaign, list[str]]:
        migrate(tx)
        into = campaigns.add_campaign(tx, name, settings, now=time.time())
        campaigns.add_items(tx, into, to_items(rows, settings), None)
        tokens = []
        for _ in range(RATERS):
            person = people.add_person(tx, role="rater", now=time.time())
            people.join(tx, into.id, person.id)
            tokens.append(security.new_token())
            people.add_session(tx, security.digest(tokens[-1]), person.id, now=0.0, expires=time.time() + 86400)
        return into, tokens

    return database.now(work)


def serve(folder: Path, database: str) -> tuple[subprocess.Popen, int]:
    words = [sys.executable, "-m", "align.cli", "review", "serve", "--port", "0", "--artifacts", str(folder)]
    log = (folder / "log").open("w")
    began = time.perf_counter()
    server = subprocess.Popen(
        [*words, "--database", database],
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    line = server.stdout.readline()
    print(f"the server is up after {time.perf_counter() - began:.2f} s", flush=True)
    return server, int(re.search(r":(\d+),", line)[1])


def check(database: Database, into: Campaign, kept: list[str]) -> dict[str, int]:
    """The database against what was acknowledged."""

    def work(tx: sa.Connection) -> dict[str, int]:
        mine = event.c.campaign_id == into.id
        keys = list(tx.execute(sa.select(event.c.key).where(mine, event.c.kind == "rate")).scalars())
        twice = tx.execute(
            sa.select(event.c.assignment_id)
            .where(mine, event.c.kind == "rate")
            .group_by(event.c.assignment_id)
            .having(sa.func.count() > 1)
        ).all()
        over = tx.execute(
            sa.select(assignment.c.item_id)
            .where(
                assignment.c.campaign_id == into.id,
                assignment.c.kind == "main",
                assignment.c.state.in_(("done", "leased")),
            )
            .group_by(assignment.c.item_id)
            .having(sa.func.count() > OVERLAP)
        ).all()
        negative = tx.execute(
            sa.select(sa.func.count()).where(item.c.campaign_id == into.id, item.c.open < 0)
        ).scalar()
        return {
            "acknowledged": len(kept),
            "in_database": len(keys),
            "lost": len(set(kept) - set(keys)),
            "doubled": len(twice),
            "over_assigned": len(over) + negative,
        }

    return database.now(work)


def milliseconds(times: list[float]) -> dict[str, float]:
    times = sorted(times)
    if not times:
        return {}
    at = {f"p{share:g}": times[min(len(times) - 1, int(len(times) * share / 100))] for share in (50, 95, 99)}
    return {name: round(1000 * value, 1) for name, value in (at | {"max": times[-1]}).items()} | {"count": len(times)}


def report(raters: list[Rater], seconds: float) -> dict[str, Any]:
    submits = [one for rater in raters for one in rater.times["submit"]]
    return {
        "seconds": round(seconds, 1),
        "ratings_per_second": round(len(submits) / seconds, 1),
        "errors": sum(len(rater.errors) for rater in raters),
        "first_error": next((rater.errors[0] for rater in raters if rater.errors), None),
        "submit_ms": milliseconds(submits),
        "next_ms": milliseconds([one for rater in raters for one in rater.times["next"]]),
    }


def processor_seconds(process: subprocess.Popen) -> float:
    """What a process has computed so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def phase(raters: list[Rater], how: str, seconds: float, kill: subprocess.Popen | None = None) -> dict[str, Any]:
    """All raters at once for so long."""
    for rater in raters:
        rater.times, rater.errors, rater.writer = {"next": [], "submit": []}, [], None
    began = time.monotonic()
    until = began + seconds
    if how == "steady":
        tasks = [rater.steadily(until, THINK * at / len(raters)) for at, rater in enumerate(raters)]
    else:
        tasks = [rater.hurriedly(until) for rater in raters]

    async def end() -> None:
        if kill is not None:
            await asyncio.sleep(seconds / 2)
            kill.send_signal(signal.SIGKILL)

    *done, _ = await asyncio.gather(*tasks, end(), return_exceptions=True)
    for one in done:
        if isinstance(one, Exception) and kill is None:
            raise one
    return report(raters, time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", help="an empty one (default: SQLite in a temporary folder)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        name = asked.database or str(folder / "review.db")
        database = Database(name)
        kind = "sqlite" if database.is_sqlite else "postgresql"
        campaign = f"load-{secrets.token_hex(4)}"
        into, tokens = fill(database, campaign)
        server, port = serve(folder, name)
        secret = (folder / ".review" / "secret").read_text().strip().encode()
        raters = [Rater(port, token, security.csrf_token(secret, token), campaign) for token in tokens]
        found: dict[str, Any] = {"load_average_before": [round(one, 2) for one in os.getloadavg()]}
        try:
            for how, seconds, kill in (("steady", STEADY, None), ("rush", RUSH, None), ("killed", RUSH / 2, server)):
                before = processor_seconds(server)
                found[how] = asyncio.run(phase(raters, how, seconds, kill))
                if kill is None:
                    ratings = found[how]["submit_ms"]["count"]
                    found[how]["server_ms_a_rating"] = round(1000 * (processor_seconds(server) - before) / ratings, 2)
                found[how] |= check(database, into, [key for rater in raters for key in rater.kept])
                print(f"{kind}  {how}  {json.dumps(found[how])}", flush=True)
        finally:
            server.kill()
            server.wait()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[kind] = found
    results["machine"] = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "sqlalchemy": sa.__version__,
        "comparisons": COMPARISONS,
        "raters": RATERS,
        "overlap": OVERLAP,
        "think_seconds": THINK,
    }
    RESULTS.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
