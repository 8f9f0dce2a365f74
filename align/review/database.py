"""The database of the ratings: SQLite by default, PostgreSQL by a URL; one transaction per unit of work.

A unit of work is a plain function whose first argument is a connection. SQLite has one writer: its work goes through
one thread, in order, so that requests do not wait for a lock, and one sync makes all waiting work durable (`writer`).
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
PATIENCE = 30.0  # seconds that a command waits for a lock, while the server writes
SERVER_PATIENCE = 8.0  # seconds that the server waits: browsers give up after 20
CONNECTIONS = 16  # of PostgreSQL
ATTEMPTS = 5
_RETRIED = ("40001", "40P01")  # serialization failure, deadlock
# Classes of SQLSTATE: the server or the database that the URL names does not let us in,
_STATES_OF_SETUP = ("28", "3D", "42501", "25006")  # authorization, catalog name, privilege, read-only
# and what goes away by itself: connection, locks that are held for too long, resources, operator.
_STATES_OF_TROUBLE = ("08", "55P03", "53", "57", "58", *_RETRIED)


class Database:
    """One database, named by a SQLAlchemy URL, or by the path of a SQLite file.

    Args:
        patience: seconds to wait for a lock that another program holds, and for a free connection.
    """

    def __init__(self, url: str, patience: float = PATIENCE):
        self.url = _parse(url)
        self.patience = patience
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
        """Do `work`, which only reads, concurrently with the writer."""
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
            self._engine = _sqlite(self.url, "BEGIN IMMEDIATE", self.patience)
            self._writer = Writer(self._engine)
        return self._writer

    def _read(self, work: Callable[[sa.Connection], R]) -> R:
        if self._readers is None:
            self._readers = _sqlite(self.url, "BEGIN", self.patience)
        with explained(str(self)), self._readers.begin() as tx:
            return work(tx)

    async def _on_postgres(self, work: Callable[[sa.Connection], R]) -> R:
        if self._engine is None:
            from sqlalchemy.ext.asyncio import create_async_engine

            self._engine = create_async_engine(
                self.url,
                pool_size=CONNECTIONS,
                max_overflow=0,
                pool_pre_ping=False,
                pool_timeout=self.patience,
                connect_args={"server_settings": {"lock_timeout": f"{self.patience * 1000:.0f}"}},  # milliseconds
            )
        with explained(str(self)):
            for attempt in range(ATTEMPTS):
                try:
                    async with self._engine.begin() as connection:
                        return await connection.run_sync(work)
                except DBAPIError as error:
                    if getattr(error.orig, "sqlstate", None) not in _RETRIED or attempt == ATTEMPTS - 1:
                        raise
        raise AssertionError("the last attempt returns or raises")


def migrate(tx: sa.Connection) -> None:
    """Bring the tables up to this version of the program.

    Raises:
        UserError: a newer align has been here.
    """
    if tx.dialect.name == "postgresql":
        tx.execute(
            sa.text("select pg_advisory_xact_lock(7283642)")
        )  # one process migrates, the others wait and find it done
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


class DatabaseUnavailable(UserError):
    """The database cannot be used now: it is locked, full, restarting or not there. The app answers it with 503."""


class explained:
    """Turns the errors of a database that cannot be used into one sentence."""

    def __init__(self, name: str):
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if (sentence := self._sentence(error)) is not None:
            raise DatabaseUnavailable(sentence) from error

    def _sentence(self, error: BaseException | None) -> str | None:
        """What to say of `error`; None where it is a bug, or nothing."""
        if isinstance(error, OSError):
            return f"the review database {self.name} cannot be reached ({error}); check that it is running"
        if isinstance(error, sa.exc.TimeoutError):
            return f"the review database {self.name} has no free connection; try again"
        cause = error.orig if isinstance(error, DBAPIError) else error
        why = (str(cause).splitlines() or [""])[0]
        state = getattr(cause, "sqlstate", None)
        if state is not None:
            if state.startswith(_STATES_OF_SETUP):
                return f"the review database {self.name} cannot be used ({why}); correct --database"
            if state.startswith(_STATES_OF_TROUBLE):
                return f"the review database {self.name} is busy ({why}); try again"
        elif isinstance(error, sa.exc.OperationalError):
            if any(word in why for word in ("unable to open", "readonly", "not a database")):
                return f"the review database {self.name} cannot be used ({why}); name another: --database"
            if any(word in why for word in ("locked", "busy", "is full", "disk I/O error")):
                return f"the review database {self.name} is busy ({why}); try again"
        return None


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


def _sqlite(url: sa.URL, begin: str, patience: float) -> sa.Engine:
    engine = sa.create_engine(url, connect_args={"check_same_thread": False, "timeout": patience})

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, record: object) -> None:
        connection.isolation_level = None  # transactions begin where we say so
        for pragma in ("journal_mode = wal", "synchronous = full", "foreign_keys = on", "cache_size = -65536"):
            connection.execute(f"pragma {pragma}")

    @sa.event.listens_for(engine, "begin")
    def start(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
