"""SQLite's one writer: a thread that takes whatever work is waiting, and makes it durable with one sync for all.

Each piece of work is in a savepoint of its own: one that fails is undone alone. Nobody is answered before the commit.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import sqlalchemy as sa

Job = tuple[Callable[[sa.Connection], Any], "Future[Any]"]
MOST = 64  # jobs a commit


class Writer:
    """Runs work one after the other on its own connection."""

    def __init__(self, engine: sa.Engine):
        self.engine = engine
        self._waiting: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[sa.Connection], Any]) -> "Future[Any]":
        """A future of what `work` gives, once that is durable."""
        done: Future[Any] = Future()
        self._waiting.put((work, done))
        return done

    def close(self) -> None:
        """Finish what is waiting, and end."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        ended = False
        while not ended:
            jobs: list[Job] = []
            job = self._waiting.get()
            while job is not None:
                jobs.append(job)
                if len(jobs) == MOST or self._waiting.empty():
                    break
                job = self._waiting.get()
            ended = job is None
            if jobs:
                self._commit(jobs)

    def _commit(self, jobs: list[Job]) -> None:
        """Do all in one transaction, and tell each who waits for it."""
        results: list[tuple[Future[Any], Any, BaseException | None]] = []
        try:
            with self.engine.begin() as tx:
                for work, done in jobs:
                    tx.exec_driver_sql("savepoint job")
                    try:
                        results.append((done, work(tx), None))
                        tx.exec_driver_sql("release job")
                    except BaseException as error:  # noqa: BLE001 - whoever asked for it raises it
                        tx.exec_driver_sql("rollback to job")
                        tx.exec_driver_sql("release job")
                        results.append((done, None, error))
        except BaseException as error:  # noqa: BLE001 - the transaction itself failed: nobody's work was kept
            for _, done in jobs:
                done.set_exception(error)
            return
        for done, result, error in results:
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)
