"""Pages for admins: fill a campaign, invite, watch progress, decide disputes, download ratings, manage people."""

import math
import secrets
import time
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Form, Path, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from pydantic import StringConstraints

from align.artifacts.refs import Ref
from align.artifacts.store import Store
from align.review import agreement, downloads, export, loading, progress, security
from align.review.access import AdminRoute
from align.review.dependencies import get_review, page, see_other, transact
from align.review.errors import NotFound, Unfit
from align.review.rendering import PageBudget
from align.review.routes.settings import NEW
from align.review.schemas import VERDICTS, Name, Paragraph, Storable, Verdict
from align.review.store import campaigns, people, ratings
from align.review.store.people import Person
from align.review.tables import item

router = APIRouter(prefix="/admin", route_class=AdminRoute, include_in_schema=False)

INVITE_SECONDS = 14 * 86400.0
MOST_DISPUTES = 20  # on a page
SOONEST = 10  # seconds until a browser asks for a campaign's numbers again
REST = 30  # and at least so many times the seconds that computing them took
State = Literal["open", "paused", "closed"]
Handle = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{1,32}$")]
ArtifactRef = Annotated[str, StringConstraints(max_length=200), Storable, Form()]
ItemId = Annotated[int, Path(ge=1, le=2**31 - 1)]


@router.get("")
async def overview(request: Request) -> Response:
    """All campaigns, and a form for a new one."""

    def work(tx: sa.Connection, me: Person) -> list[tuple[campaigns.Campaign, int, int]]:
        rows = []
        for campaign in campaigns.all_campaigns(tx):
            counted = agreement.counted(ratings.current(tx, campaign.id))
            rows.append((campaign, campaigns.count_items(tx, campaign.id, gold=False), len(counted)))
        return rows

    rows = await transact(request, work, reads=True)
    return await page(request, "admin/campaigns.html", campaigns=rows, settings=NEW, rubric="", settled=set())


@router.get("/campaigns/{name}")
async def campaign(request: Request, name: Name) -> Response:
    """A campaign's progress; the page asks for the numbers again by itself."""
    into, seen, members, wait = await _look(request, name)
    member = request.state.signed_in.id in {person.id for person in members}
    return await page(
        request, "admin/campaign.html", campaign=into, seen=seen, members=members, member=member, wait=wait
    )


@router.get("/campaigns/{name}/figures")
async def figures(request: Request, name: Name) -> Response:
    """The part of the page that changes."""
    into, seen, _, wait = await _look(request, name)
    return await page(request, "admin/figures.html", campaign=into, seen=seen, wait=wait)


async def _look(request: Request, name: str) -> tuple[campaigns.Campaign, progress.Overview, list[Person], int]:
    """A campaign, its numbers, its members, and the seconds until a browser asks for the numbers again."""

    def work(tx: sa.Connection, me: Person) -> tuple[campaigns.Campaign, progress.Overview, list[Person]]:
        into = campaigns.get_campaign(tx, name)
        return into, progress.overview(tx, into), people.members(tx, into.id)

    began = time.perf_counter()
    seen = await transact(request, work, reads=True)
    # A large campaign takes seconds to compute, on the processor that also serves the raters.
    return *seen, max(SOONEST, math.ceil(REST * (time.perf_counter() - began)))


@router.post("/campaigns/{name}/state")
async def set_state(request: Request, name: Name, state: Annotated[State, Form()]) -> Response:
    """Open, pause or close a campaign. Items that raters have on their screens can still be sent."""
    now = get_review(request).clock()

    def work(tx: sa.Connection, me: Person) -> None:
        into = campaigns.get_campaign(tx, name)
        campaigns.set_state(tx, into.id, state)
        campaigns.note(tx, me.id, state, name, {}, now=now)

    await transact(request, work)
    return see_other(f"/admin/campaigns/{name}")


@router.post("/campaigns/{name}/invite")
async def invite(request: Request, name: Name, role: Annotated[Literal["rater", "admin"], Form()]) -> Response:
    """A link with which one person creates an account; it is shown once."""
    review = get_review(request)
    token, now = security.new_token(), review.clock()

    def work(tx: sa.Connection, me: Person) -> campaigns.Campaign:
        into = campaigns.get_campaign(tx, name)
        people.add_invite(tx, security.digest(token), role=role, campaign_id=into.id, expires=now + INVITE_SECONDS)
        campaigns.note(tx, me.id, "invite", name, {"role": role}, now=now)
        return into

    into = await transact(request, work)
    return await page(request, "admin/invited.html", campaign=into, link=f"{review.origin}/invite/{token}", role=role)


@router.post("/campaigns/{name}/join")
async def join(request: Request, name: Name) -> Response:
    """Become a member of the campaign."""

    def work(tx: sa.Connection, me: Person) -> None:
        people.join(tx, campaigns.get_campaign(tx, name).id, me.id)

    await transact(request, work)
    return see_other(f"/rate/{name}")


@router.post("/campaigns/{name}/load")
async def load(request: Request, name: Name, ref: ArtifactRef) -> Response:
    """Put an artifact's comparisons into the campaign. Only names of artifacts are read: never a path or a URL."""
    review = get_review(request)
    Ref.parse(ref)
    async with review.loading:
        rows, source = await run_in_threadpool(loading.load_artifact, Store.open(review.artifacts), ref)
        return await _load(request, name, rows, source)


@router.post("/campaigns/{name}/upload")
async def upload(request: Request, name: Name, file: UploadFile | None = None) -> Response:
    """Put the comparisons of a JSONL file into the campaign, with the ratings that they bring."""
    if file is None or not file.filename:  # browsers send an unnamed file where none was chosen
        raise Unfit("Choose a file first.")
    async with get_review(request).loading:
        rows, source = await run_in_threadpool(loading.load_stream, _file_name(file.filename), file.file)
        return await _load(request, name, rows, source)


def _file_name(text: str) -> str:
    """The name of an uploaded file as it can be kept: a form in another encoding may hold half a surrogate pair."""
    return text[:100].encode("utf-8", "replace").decode()


async def _load(request: Request, name: str, rows: list[loading.Row], source: dict[str, Any]) -> Response:
    """Put rows into a campaign, a batch at a time, so that raters are served in between."""
    now = get_review(request).clock()
    into = await transact(request, lambda tx, me: campaigns.get_campaign(tx, name), reads=True)
    prepared = await run_in_threadpool(loading.prepare, rows, into.settings, source)
    added = rated = 0
    for batch in prepared.batches():

        def add(tx: sa.Connection, me: Person, batch: loading.Load = batch) -> tuple[int, int]:
            return loading.add_batch(tx, name, batch, now=now)

        items, imported = await transact(request, add)
        added, rated = added + items, rated + imported

    def note(tx: sa.Connection, me: Person) -> None:
        campaigns.note(tx, me.id, "load", name, {"source": source, "items": added, "ratings": rated}, now=now)

    await transact(request, note)
    return see_other(f"/admin/campaigns/{name}")


@router.get("/campaigns/{name}/disputes")
async def disputes(request: Request, name: Name) -> Response:
    """Items whose raters disagree, and flagged ones, to be decided."""

    def work(tx: sa.Connection, me: Person) -> tuple[campaigns.Campaign, list, int, dict[int, sa.Row]]:
        into = campaigns.get_campaign(tx, name)
        counted = agreement.counted(ratings.current(tx, into.id))
        every = progress.disputes(counted, ratings.adjudicated(tx, into.id), ratings.flags(tx, into.id))
        first, more = every[:MOST_DISPUTES], len(every) - MOST_DISPUTES
        rows = tx.execute(sa.select(item).where(item.c.id.in_([dispute.item_id for dispute in first]))).all()
        return into, first, more, {row.id: row for row in rows}

    into, first, more, items = await transact(request, work, reads=True)
    return await page(
        request,
        "admin/disputes.html",
        campaign=into,
        disputes=first,
        more=more,
        items=items,
        verdicts=VERDICTS,
        turns=PageBudget(contents=5).turns,
        keys=[secrets.token_urlsafe(12) for _ in first],
    )


@router.post("/campaigns/{name}/items/{number}/verdict")
async def adjudicate(
    request: Request,
    name: Name,
    number: ItemId,
    verdict: Annotated[Verdict, Form()],
    key: Annotated[str, Form(pattern=r"^[A-Za-z0-9_-]{8,64}$")],
    reason: Annotated[Paragraph, Form()] = "",
) -> Response:
    """Decide a dispute: the admin's verdict stands in every export."""
    now = get_review(request).clock()

    def work(tx: sa.Connection, me: Person) -> None:
        into = campaigns.get_campaign(tx, name)
        ratings.adjudicate(tx, into, me, number, verdict, reason, key, now=now)
        campaigns.note(tx, me.id, "adjudicate", name, {"item": number, "verdict": verdict}, now=now)

    await transact(request, work)
    return see_other(f"/admin/campaigns/{name}/disputes")


@router.get("/campaigns/{name}/ratings.{kind}")
async def download(request: Request, name: Name, kind: Literal["csv", "jsonl", "parquet"]) -> Response:
    """The current ratings as a file, with raters by pseudonym."""
    now = get_review(request).clock()

    def read(tx: sa.Connection, me: Person) -> tuple[list[ratings.Rating], dict[int, sa.Row]]:
        into = campaigns.get_campaign(tx, name)
        columns = (item.c.id, item.c.model_a, item.c.model_b, item.c.arm)
        rows = tx.execute(sa.select(*columns).where(item.c.campaign_id == into.id))
        return ratings.current(tx, into.id), {row.id: row for row in rows}

    def note(tx: sa.Connection, me: Person) -> None:
        campaigns.note(tx, me.id, "download", name, {"kind": kind, "ratings": len(standing)}, now=now)

    # Reading many ratings takes a while, in which SQLite's one writer serves the raters.
    standing, items = await transact(request, read, reads=True)
    await transact(request, note)
    content = await run_in_threadpool(downloads.to_file, standing, items, kind)
    head = {"content-disposition": f'attachment; filename="{name}-ratings.{kind}"'}
    return Response(content, media_type=downloads.MEDIA[kind], headers=head)


@router.get("/campaigns/{name}/export")
async def export_page(request: Request, name: Name) -> Response:
    """What an export would give now, and how far it is from its gates. The command publishes it."""

    def work(tx: sa.Connection, me: Person) -> export.Extract:
        return export.extract(tx, campaigns.get_campaign(tx, name))

    def measure(extracted: export.Extract) -> dict[str, Any]:
        gates = extracted.campaign.settings.gates
        compiled = export.compile_all(extracted, gates, export.Rules())
        measured = export.measure(extracted, compiled)
        return {"compiled": compiled, "seen": measured, "missed": export.missed(measured, gates)}

    extracted = await transact(request, work, reads=True)
    values = await run_in_threadpool(measure, extracted)
    return await page(request, "admin/export.html", campaign=extracted.campaign, **values)


@router.get("/people")
async def everybody(request: Request) -> Response:
    """Everybody with an account."""
    persons = await transact(request, lambda tx, me: people.everybody(tx), reads=True)
    return await page(request, "admin/people.html", people=persons)


@router.post("/people/{handle}/disabled")
async def set_disabled(request: Request, handle: Handle, disabled: Annotated[bool, Form()]) -> Response:
    """Disable an account or enable it again. Admins cannot disable their own."""
    now = get_review(request).clock()

    def work(tx: sa.Connection, me: Person) -> None:
        person = people.person_by_handle(tx, handle)
        if person is None:
            raise NotFound()
        if person.id == me.id:
            raise Unfit("You cannot disable your own account; another admin can.")
        people.set_disabled(tx, person.id, disabled)
        campaigns.note(tx, me.id, "disable" if disabled else "enable", handle, {}, now=now)

    await transact(request, work)
    return see_other("/admin/people")


@router.get("/audit")
async def audit(request: Request) -> Response:
    """The audit log, newest first."""

    def work(tx: sa.Connection, me: Person) -> tuple[list[sa.Row], dict[int, Person]]:
        return campaigns.notes(tx), {person.id: person for person in people.everybody(tx)}

    lines, persons = await transact(request, work, reads=True)
    return await page(request, "admin/audit.html", lines=lines, people=persons)
