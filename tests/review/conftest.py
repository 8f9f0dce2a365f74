"""A review app on a database of the test's own, SQLite and PostgreSQL alike, and browsers without a screen for it."""

import asyncio
import json
import os
import pwd
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from argon2 import PasswordHasher
from starlette.testclient import TestClient

from align.records import Comparison
from align.review import security
from align.review.app import create_app
from align.review.database import Database, migrate
from align.review.dependencies import Review
from align.review.loading import add_batch, prepare, to_items
from align.review.rate_limits import Limiter
from align.review.schemas import Settings
from align.review.store import campaigns, people
from align.review.store.campaigns import Campaign
from align.review.store.people import Person

ORIGIN = "http://127.0.0.1"
SECRET = security.new_token().encode()


@pytest.fixture(autouse=True)
def _quick_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes of a password that take no 64 MiB and no tenth of a second each."""
    monkeypatch.setattr(security, "_HASHER", PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))
    security._nobody.cache_clear()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL server of this session's own, without a database name."""
    places = [shutil.which("initdb"), *map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    binaries = [Path(os.path.realpath(place)).parent for place in places if place]
    binaries = [folder for folder in binaries if (folder / "postgres").is_file()]
    assert binaries, "PostgreSQL is not installed; make test installs it, or: apt-get install postgresql"
    folder = tmp_path_factory.mktemp("postgres")
    data, port = folder / "data", _free_port()
    as_other: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        other = pwd.getpwnam("nobody")
        as_other = {"user": other.pw_uid, "group": other.pw_gid, "extra_groups": []}
        for place in (folder, *folder.parents[: len(folder.parents) - len(Path("/tmp").parents) - 1]):
            if place.stat().st_uid == 0 and place != Path("/tmp"):
                place.chmod(0o755)
        os.chown(folder, other.pw_uid, other.pw_gid)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    subprocess.run(
        [binaries[0] / "initdb", "-D", data, "-U", "align", "--auth=trust", "-N", "--locale=C", "-E", "UTF8"],
        check=True,
        **as_other,
        **quiet,
    )
    options = ["-p", str(port), "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"]
    options += ["-c", "fsync=off", "-c", "max_connections=60"]
    server = subprocess.Popen([binaries[0] / "postgres", "-D", data, *options], **as_other, **quiet)
    url = f"postgresql://align@127.0.0.1:{port}"
    try:
        for _ in range(200):
            if subprocess.run([binaries[0] / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]).returncode == 0:
                break
            assert server.poll() is None, "PostgreSQL ended at once"
        yield url
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with all tables and nothing in them."""
    file = tmp_path_factory.mktemp("sqlite") / "empty.db"
    database = Database(str(file))
    database.now(migrate)
    asyncio.run(database.close())  # what is in the write-ahead log comes into the file
    return file


@pytest.fixture
def sqlite(empty_sqlite: Path, tmp_path: Path) -> Database:
    shutil.copy(empty_sqlite, tmp_path / "review.db")
    return Database(str(tmp_path / "review.db"))


def make_postgres_database(url: str) -> str:
    """A new database on the server, named by its URL."""
    name = f"t{_free_port()}_{os.getpid()}_{len(_made)}"
    _made.append(name)

    async def create() -> None:
        import asyncpg

        connection = await asyncpg.connect(f"{url}/postgres")
        await connection.execute(f"create database {name}")
        await connection.close()

    asyncio.run(create())
    return f"{url}/{name}"


_made: list[str] = []


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def database(request: pytest.FixtureRequest) -> Database:
    """Either database, with all tables."""
    if request.param == "sqlite":
        return request.getfixturevalue("sqlite")
    made = Database(make_postgres_database(request.getfixturevalue("postgres")))
    made.now(migrate)
    return made


class Clock:
    """Seconds since the epoch, as the test says."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def pairs(count: int, **row: Any) -> list[tuple[Comparison, dict[str, Any]]]:
    """Comparisons of two models' answers; `row` is added to each."""
    rows = []
    for at in range(count):
        answers = [
            {"completion": f"Good answer {at}.", "model": "dpo:v1", "score": float(at)},
            {"completion": f"Poor answer {at}.", "model": "sft:v1", "score": 0.0},
        ]
        given = {"prompt": f"Question {at}?", "answers": answers, **row}
        rows.append((Comparison.from_row(given), given))
    return rows


class World:
    """A review app with people in it."""

    def __init__(self, database: Database, artifacts: Path):
        self.database = database
        self.artifacts = artifacts
        self.clock = Clock()
        self.waits: list[float] = []  # seconds that requests were held back
        limiter = Limiter(self.clock, self.sleep)
        self.review = Review(database, SECRET, ORIGIN, artifacts=str(artifacts), clock=self.clock, limiter=limiter)
        self.clients: list[TestClient] = []

    async def sleep(self, seconds: float) -> None:
        """Time passes at once."""
        self.waits.append(seconds)
        self.clock.now += seconds

    def do(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A unit of work."""
        return self.database.now(work, *args, **kwargs)

    def campaign(self, name: str = "spring", count: int = 10, rows: list | None = None, **settings: Any) -> Campaign:
        """A campaign with `count` pairs; no gold and no repeats unless they are asked for."""
        plain = {"title": "Which is better?", "overlap": 2, "gold": 0.0, "repeats": 0.0}
        made = Settings.model_validate(plain | settings)

        def work(tx: sa.Connection) -> Campaign:
            into = campaigns.add_campaign(tx, name, made, now=self.clock())
            source = {"ref": "comparisons:v1", "digest": "c" * 64, "kind": "artifact", "type": "comparisons"}
            campaigns.add_items(tx, into, to_items(pairs(count) if rows is None else rows, made), source)
            return campaigns.get_campaign(tx, name)

        return self.do(work)

    def load(self, into: Campaign, rows: list, *, now: float = 0.0) -> tuple[int, int]:
        """Rows put into a campaign as a load does: how many items and ratings were new."""
        prepared = prepare(rows, into.settings, {"ref": "x", "digest": "d" * 64, "kind": "path"})
        counts = [self.do(add_batch, into.name, batch, now=now) for batch in prepared.batches()]
        return sum(items for items, _ in counts), sum(ratings for _, ratings in counts)

    def person(self, role: str = "rater", *joins: Campaign, name: str | None = None) -> Person:
        def work(tx: sa.Connection) -> Person:
            made = people.add_person(tx, role=role, now=self.clock(), name=name)
            for one in joins:
                people.join(tx, one.id, made.id)
            return made

        return self.do(work)

    def browser(self, person: Person | None = None, *, address: str = "192.0.2.1") -> "Browser":
        """A browser that nobody, or `person`, is signed in on."""
        return Browser(self, person, address)


class Browser:
    """Sends what a browser would: cookies, Origin, and the token of the page it is on."""

    def __init__(self, world: World, person: Person | None, address: str):
        self.world = world
        # A database of its own: asyncpg's connections belong to one event loop, and each client has one.
        url = world.database.url.render_as_string(hide_password=False)
        database = Database(url, world.database.patience)
        app = create_app(replace(world.review, database=database), quiet=True)
        self.client = TestClient(app, base_url=ORIGIN, follow_redirects=False, client=(address, 50000))
        self.client.__enter__()
        world.clients.append(self.client)
        self.csrf: str | None = None
        if person is not None:
            token = security.new_token()
            now = world.clock()
            world.do(people.add_session, security.digest(token), person.id, now=now, expires=now + 1e6)
            self.client.cookies.set(world.review.session_cookie, token, domain="127.0.0.1", path="/")
            self.csrf = security.csrf_token(SECRET, token)

    def get(self, path: str, **options: Any) -> Any:
        answer = self.client.get(path, headers={"accept": "text/html"}, **options)
        if found := re.search(
            r'<meta name="csrf" content="([^"]+)"',
            answer.text if answer.headers.get("content-type", "").startswith("text/html") else "",
        ):
            self.csrf = found[1]
        return answer

    def post(
        self, path: str, data: dict | None = None, *, csrf: str | None = None, origin: str = ORIGIN, **options: Any
    ) -> Any:
        """A form."""
        token = self.csrf if csrf is None else csrf
        headers = {"origin": origin, "accept": "text/html", **options.pop("headers", {})}
        return self.client.post(path, data={**(data or {}), "csrf": token or ""}, headers=headers, **options)

    def api(self, path: str, body: Any = None, **headers: str) -> Any:
        """What the rating screen's script sends."""
        sent = {"origin": ORIGIN, "x-csrf-token": self.csrf or "", **headers}
        if body is None:
            return self.client.post(f"/api/campaigns{path}", headers=sent)
        return self.client.post(
            f"/api/campaigns{path}", content=json.dumps(body), headers={"content-type": "application/json", **sent}
        )


@pytest.fixture
def world(database: Database, tmp_path: Path) -> Iterator[World]:
    """A review app on either database."""
    yield from _world(database, tmp_path)


@pytest.fixture
def small_world(sqlite: Database, tmp_path: Path) -> Iterator[World]:
    """A review app on SQLite, for what no database has a say in."""
    yield from _world(sqlite, tmp_path)


@pytest.fixture
def rater(small_world) -> tuple[World, Browser, object]:
    into = small_world.campaign()
    person = small_world.person("rater", into)
    return small_world, small_world.browser(person), person


def _world(database: Database, tmp_path: Path) -> Iterator[World]:
    made = World(database, tmp_path / "artifacts")
    yield made
    for client in made.clients:
        client.__exit__(None, None, None)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
