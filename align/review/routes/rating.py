"""The rating screen, and the API that it calls."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Path, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from align.review import messages
from align.review.access import MemberRoute, RatingRoute
from align.review.dependencies import Review, get_language, get_review, page, transact
from align.review.rendering import as_code, turns
from align.review.schemas import Answer, Name, Problem, RatingIn, SkipIn, Task, UndoIn
from align.review.store import assignment, campaigns, ratings
from align.review.store.assignment import Assignment
from align.review.store.campaigns import Campaign
from align.review.store.people import Person

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem} for code in (400, 401, 403, 404, 408, 409, 413, 421, 422, 429)
}
pages = APIRouter(route_class=MemberRoute, include_in_schema=False)
router = APIRouter(route_class=RatingRoute, responses=_PROBLEMS)
AssignmentId = Annotated[int, Path(ge=1, le=2**31 - 1)]


@pages.get("/rate/{campaign}")
async def screen(request: Request, campaign: Name) -> Response:
    """The rating screen; its items come by themselves."""

    def work(tx: sa.Connection, me: Person) -> tuple[Campaign, int, int]:
        into = campaigns.entered(tx, campaign, me.id)
        return into, assignment.count_done(tx, into, me), assignment.count_left(tx, into, me)

    into, done, left = await transact(request, work, reads=True)
    texts = messages.script_messages(get_language(request))
    return await page(request, "rate.html", campaign=into, done=done, left=left, script_messages=texts)


@router.post("/api/campaigns/{campaign}/next")
async def take(request: Request, campaign: Name) -> Answer:
    """The item that this rater has now, else a new one."""
    return await _then_next(request, campaign, lambda tx, into, me: False)


@router.post("/api/campaigns/{campaign}/assignments/{number}/rating")
async def rate(request: Request, campaign: Name, number: AssignmentId, sent: RatingIn) -> Answer:
    """Keep a rating and give out the next item. Sent again with the same key, nothing happens twice."""
    now = get_review(request).clock()
    return await _then_next(
        request, campaign, lambda tx, into, me: not ratings.rate(tx, into, me, number, sent, now=now)
    )


@router.post("/api/campaigns/{campaign}/assignments/{number}/skip")
async def skip(request: Request, campaign: Name, number: AssignmentId, sent: SkipIn) -> Answer:
    """Let an item go, and give out the next."""
    now = get_review(request).clock()
    return await _then_next(
        request, campaign, lambda tx, into, me: bool(ratings.skip(tx, into, me, number, sent, now=now))
    )


@router.post("/api/campaigns/{campaign}/undo")
async def undo(request: Request, campaign: Name, sent: UndoIn) -> Answer:
    """Undo the last rating or skip: its item comes again, with the rating."""
    now = get_review(request).clock()
    return await _then_next(
        request, campaign, lambda tx, into, me: bool(ratings.undo(tx, into, me, sent.key, now=now))
    )


async def _then_next(request: Request, name: str, first: Callable[[sa.Connection, Campaign, Person], bool]) -> Answer:
    """Do `first`, which returns whether it came too late to count, and assign the next item, in one transaction."""
    review = get_review(request)

    def work(tx: sa.Connection, me: Person) -> tuple[Campaign, bool, Assignment | None, sa.Row | None, int]:
        into = campaigns.entered(tx, name, me.id)
        late = first(tx, into, me)
        held = assignment.take_next(tx, into, me, now=review.clock())
        rating = ratings.previous(tx, held.id) if held and held.again else None
        return into, late, held, rating, assignment.count_done(tx, into, me)

    into, late, held, rating, done = await transact(request, work)
    # Rendered after the transaction: a long text must not delay other raters' requests.
    task = await run_in_threadpool(_task, review, into, held, rating, get_language(request)) if held else None
    return Answer(task=task, done=done, state=into.state, late=late)


def _task(review: Review, into: Campaign, held: Assignment, rating: sa.Row | None, language: str) -> Task:
    left, right = (held.b, held.a) if held.flipped else (held.a, held.b)
    previous = None
    if rating is not None:
        verdict, answers = ratings.turned(into, held.flipped, rating.verdict, rating.answers or {})
        previous = {"verdict": verdict, "answers": answers, "reason": rating.reason or "", "flag": rating.flag}
    return Task(
        assignment=held.id,
        prompt=_html(review, held.prompt, "user", language, held.tools),
        left=_html(review, left, "assistant", language),
        right=_html(review, right, "assistant", language),
        previous=previous,
    )


def _html(review: Review, content: Any, role: str, language: str, tools: Any = None) -> str:
    return review.templates.get_template("turns.html").render(
        turns=turns(content, role, language=language),
        only=role,
        tools=as_code(tools, language) if tools else None,
        t=partial(messages.text, language=language),
        language=language,
    )
