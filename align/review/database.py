"""Where ratings are kept: SQLite by default, PostgreSQL by a URL, one transaction a unit of work.

A unit of work is a plain function whose first argument is a connection. SQLite has one writer: its work goes through
one thread, in order, nobody waits on a lock, and what waits together is made durable together (`writer`).
PostgreSQL's goes through asyncpg, as many at once as there are connections, and is tried again where two transactions
met in a deadlock.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError

from align.errors import UserError
from align.review.writer import Writer

P = ParamSpec("P")
R = TypeVar("R")
Work = Callable[Concatenate[sa.Connection, P], R]

HEAD = "0002"  # the newest of migrations/versions
BUSY = 30.0  # seconds that a command waits for SQLite's lock while the server writes
CONNECTIONS = 16  # of PostgreSQL
ATTEMPTS = 5
_RETRIED = ("40001", "40P01")  # serialization failure, deadlock


class Database:
    """One database, named by a SQLAlchemy URL, or by the path of a SQLite file."""

    def __init__(self, url: str):
        self.url = _parse(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._engine: Any = None
        self._readers: sa.Engine | None = None
        self._writer: Writer | None = None

    def __str__(self) -> str:
        return self.url.render_as_string(hide_password=True)

    async def run(self, work: Work[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do `work` in a transaction of its own; committed when this returns."""
        if not self.is_sqlite:
            return await self._on_postgres(lambda tx: work(tx, *args, **kwargs))
        with explained(str(self)):
            return await asyncio.wrap_future(self._one_writer().submit(lambda tx: work(tx, *args, **kwargs)))

    async def read(self, work: Work[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do `work`, which only reads, beside the writer."""
        if self.is_sqlite:
            return await asyncio.to_thread(self._read, lambda tx: work(tx, *args, **kwargs))
        return await self._on_postgres(lambda tx: work(tx, *args, **kwargs))

    def now(self, work: Work[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """`run` for a program without an event loop, such as a command."""
        if self.is_sqlite:
            with explained(str(self)):
                return self._one_writer().submit(lambda tx: work(tx, *args, **kwargs)).result()

        async def go() -> R:
            try:
                return await self.run(work, *args, **kwargs)
            finally:
                await self.close()

        return asyncio.run(go())

    async def close(self) -> None:
        """Let every connection go."""
        if self._writer is not None:
            self._writer.close()
        if self._engine is not None:
            disposed = self._engine.dispose()
            if disposed is not None:
                await disposed
        if self._readers is not None:
            self._readers.dispose()
        self._engine = self._readers = self._writer = None

    def _one_writer(self) -> Writer:
        if self._writer is None:
            self._engine = _sqlite(self.url, "BEGIN IMMEDIATE")
            self._writer = Writer(self._engine)
        return self._writer

    def _read(self, work: Callable[[sa.Connection], R]) -> R:
        if self._readers is None:
            self._readers = _sqlite(self.url, "BEGIN")
        with explained(str(self)), self._readers.begin() as tx:
            return work(tx)

    async def _on_postgres(self, work: Callable[[sa.Connection], R]) -> R:
        if self._engine is None:
            from sqlalchemy.ext.asyncio import create_async_engine

            self._engine = create_async_engine(self.url, pool_size=CONNECTIONS, max_overflow=0, pool_pre_ping=False)
        for attempt in range(ATTEMPTS):
            try:
                with explained(str(self)):
                    async with self._engine.begin() as connection:
                        return await connection.run_sync(work)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in _RETRIED or attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError("the last attempt returns or raises")


def migrate(tx: sa.Connection) -> None:
    """Bring the tables to what this program knows; nothing is done where they are.

    Raises:
        UserError: a newer align has been here.
    """
    if tx.dialect.name == "postgresql":
        tx.execute(
            sa.text("select pg_advisory_xact_lock(7283642)")
        )  # one process migrates, the others then find it done
    at = None
    if sa.inspect(tx).has_table("alembic_version"):
        at = tx.execute(sa.text("select version_num from alembic_version")).scalar()
    if at == HEAD:
        return
    # Imported here: half a second that a server with tables of this version never pays.
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = tx
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise UserError(
            f"the review database is at version {at}, which this align does not know ({error}); use a newer align"
        ) from None


class explained:
    """Turns what a database says when it cannot be had into one sentence of ours."""

    def __init__(self, name: str):
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and not isinstance(error, UserError):
            raise UserError(f"the review database {self.name} cannot be reached ({error}); is it running?") from error
        if not isinstance(error, sa.exc.OperationalError):
            return
        why = str(error.orig).splitlines()[0]
        if "unable to open" in why or "readonly" in why or "not a database" in why:
            raise UserError(
                f"the review database {self.name} cannot be used ({why}); name another: --database"
            ) from error


def _parse(text: str) -> sa.URL:
    if "://" not in text:
        return sa.URL.create("sqlite", database=str(Path(text).expanduser()))
    try:
        url = sa.make_url(text)
    except ArgumentError:
        raise UserError(
            "--database is no URL; write postgresql://user@host/name, or the path of a SQLite file"
        ) from None
    backend = url.get_backend_name()
    if backend == "postgresql":
        return url.set(drivername="postgresql+asyncpg")
    if backend != "sqlite" or not url.database:
        raise UserError(f"--database names {backend}; there are SQLite (a path) and postgresql://user@host/name")
    return url


def _sqlite(url: sa.URL, begin: str) -> sa.Engine:
    engine = sa.create_engine(url, connect_args={"check_same_thread": False, "timeout": BUSY})

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, record: object) -> None:
        connection.isolation_level = None  # transactions begin where we say so
        for pragma in ("journal_mode = wal", "synchronous = full", "foreign_keys = on", "cache_size = -65536"):
            connection.execute(f"pragma {pragma}")

    @sa.event.listens_for(engine, "begin")
    def start(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
