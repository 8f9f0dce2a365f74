"""SQLite's only writer: a thread that runs all waiting work in one transaction, so that one sync makes it durable.

Each piece of work has a savepoint of its own, so one that fails is rolled back alone. Results come after the commit.
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
    """Runs work in order on its own connection."""

    def __init__(self, engine: sa.Engine):
        self.engine = engine
        self._waiting: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[sa.Connection], Any]) -> "Future[Any]":
        """A future of the result of `work`, done when it is durable."""
        done: Future[Any] = Future()
        self._waiting.put((work, done))
        return done

    def close(self) -> None:
        """Finish the waiting work and stop."""
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
        """Run all jobs in one transaction, then complete their futures."""
        results: list[tuple[Future[Any], Any, BaseException | None]] = []
        try:
            with self.engine.begin() as tx:
                for work, done in jobs:
                    tx.exec_driver_sql("savepoint job")
                    try:
                        results.append((done, work(tx), None))
                        tx.exec_driver_sql("release job")
                    except BaseException as error:  # noqa: BLE001 - raised again where the result is awaited
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
