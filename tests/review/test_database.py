"""Both databases: the migrations make the tables, work is whole or not done, what is committed stays."""

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from align.errors import UserError
from align.review import database as reviewed
from align.review.database import HEAD, Database, DatabaseUnavailable, migrate
from align.review.store import assignment, people, ratings
from align.review.tables import item, metadata, person

from .conftest import World, make_postgres_database
from .test_assignment import send, take


def test_the_migrations_make_the_tables_that_the_program_knows(database):
    def differences(tx: sa.Connection) -> list:
        return compare_metadata(MigrationContext.configure(tx), metadata)

    assert database.now(differences) == []
    assert database.now(lambda tx: tx.execute(sa.text("select version_num from alembic_version")).scalar()) == HEAD
    database.now(migrate)


def test_the_tables_of_the_first_version_are_brought_up_to_this_one(tmp_path):
    config = Config()
    config.set_main_option("script_location", str(Path(reviewed.__file__).parent / "migrations"))

    def begin(tx: sa.Connection) -> None:
        config.attributes["connection"] = tx
        command.upgrade(config, "0001")
        tx.execute(sa.text("insert into campaign values (1, 'old', '{}', 'open', '[]', 0)"))
        values = "1, 1, 'k', '\"p\"', '\"a\"', '\"b\"', null, null, null, null, null, null, 'random', 0.5, 2"
        tx.execute(sa.text(f"insert into item values ({values})"))

    old = Database(str(tmp_path / "old.db"))
    old.now(begin)
    old.now(migrate)
    assert old.now(lambda tx: compare_metadata(MigrationContext.configure(tx), metadata)) == []
    assert old.now(lambda tx: tx.execute(sa.select(item.c.a, item.c.tools)).all()) == [("a", None)]


def test_a_newer_database_is_left_alone(sqlite):
    sqlite.now(lambda tx: tx.execute(sa.text("update alembic_version set version_num = '9999'")))
    with pytest.raises(UserError, match="version 9999, which this align does not know"):
        sqlite.now(migrate)


def test_work_that_fails_is_undone_alone(database):
    def fail(tx: sa.Connection) -> None:
        people.add_person(tx, role="rater", now=0.0)
        raise KeyError("stop")

    with pytest.raises(KeyError):
        database.now(fail)
    database.now(lambda tx: people.add_person(tx, role="rater", now=0.0))
    assert database.now(lambda tx: tx.execute(sa.select(sa.func.count()).select_from(person)).scalar()) == 1


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("mysql://x/y", "SQLite"),
        ("://", "no URL"),
        ("/nowhere/at/all.db", "cannot be used"),
        ("postgresql://x@127.0.0.1:1/y", "cannot be reached"),
    ],
)
def test_a_database_that_cannot_be_had_is_told(name, word):
    with pytest.raises(UserError, match=word):
        Database(name).now(migrate)


def test_a_database_that_is_locked_for_long_is_answered_with_503(small_world, capsys):
    """And the rating is taken when it is sent again."""
    world = small_world
    rater = world.person("rater", world.campaign())
    world.database.patience = 0.01
    browser = world.browser(rater)
    number = browser.api("/spring/next").json()["task"]["assignment"]
    rating = f"/spring/assignments/{number}/rating", {"key": "k" * 10, "verdict": "a"}
    other = sqlite3.connect(world.database.url.database, isolation_level=None)
    other.execute("begin immediate")
    for request in (rating, ("/spring/next", None)):
        answer = browser.api(*request)
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
        assert world.database.url.database not in answer.text
    assert browser.get("/rate/spring").status_code == 200  # readers do not wait for the lock
    assert "is busy (database is locked)" in capsys.readouterr().err
    other.execute("rollback")
    other.close()
    assert browser.api(*rating).status_code == 200


@pytest.mark.slow
def test_a_lock_on_postgresql_ends_after_a_while(postgres):
    url = make_postgres_database(postgres)
    Database(url).now(migrate)

    def add(tx: sa.Connection) -> people.Person:
        return people.add_person(tx, role="rater", now=0.0)

    async def run() -> None:
        holder, impatient = Database(url), Database(url, patience=0.1)
        await holder.read(lambda tx: None)
        async with holder._engine.begin() as connection:
            await connection.execute(sa.text("lock table person"))
            with pytest.raises(DatabaseUnavailable, match="is busy"):
                await impatient.run(add)
        assert await impatient.run(add)
        await impatient.close()
        await holder.close()

    asyncio.run(run())
    with pytest.raises(DatabaseUnavailable, match="correct --database"):
        Database(f"{postgres}/nowhere").now(migrate)


def test_a_password_in_a_url_is_not_shown():
    assert "hunter2" not in str(Database("postgresql://me:hunter2@127.0.0.1/x"))


def test_many_at_once_over_assign_nothing_and_lose_nothing(world):
    """Threads of their own connections, as several servers on one database would be."""
    into = world.campaign(count=30, overlap=2)
    raters = [world.person("rater", into) for _ in range(6)]
    wrong: list[BaseException] = []

    def work(rater: people.Person) -> None:
        own = Database(world.database.url.render_as_string(hide_password=False))
        try:
            while given := own.now(assignment.take_next, into, rater, now=world.clock()):
                sent = ratings.RatingIn(key=f"rating-{rater.id}-{given.id}", verdict="a")
                own.now(ratings.rate, into, rater, given.id, sent, now=world.clock())
        except BaseException as error:  # noqa: BLE001 - told by the test
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(rater,)) for rater in raters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    standing = world.do(ratings.current, into.id)
    assert len(standing) == 60 == len({(one.item_id, one.rater) for one in standing})
    counts = [sum(one.item_id == number for one in standing) for number in {one.item_id for one in standing}]
    assert counts == [2] * 30


def test_two_of_the_same_request_at_once_are_one(world):
    into = world.campaign(count=2)
    rater = world.person("rater", into)
    given = take(world, into, rater)
    again = [
        World(Database(world.database.url.render_as_string(hide_password=False)), world.artifacts) for _ in range(4)
    ]
    same = {"key": "one-key-only"}
    threads = [threading.Thread(target=send, args=(one, into, rater, given), kwargs=same) for one in again]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(world.do(ratings.current, into.id)) == 1
