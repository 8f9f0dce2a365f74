"""Pages for admins: create a campaign, and change its settings while people rate."""

import secrets

import sqlalchemy as sa
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import TypeAdapter, ValidationError

from align.review.access import AdminRoute
from align.review.dependencies import get_review, page, see_other, transact
from align.review.errors import Unfit
from align.review.rules import read_form, write_rubric
from align.review.schemas import Name, Settings
from align.review.store import campaigns
from align.review.store.campaigns import Campaign
from align.review.store.people import Person

router = APIRouter(prefix="/admin", route_class=AdminRoute, include_in_schema=False)

NEW = Settings(title="-")  # the values that the form for a new campaign starts with
_NAME = TypeAdapter(Name)


@router.post("/campaigns")
async def create(request: Request) -> Response:
    """Create a campaign, without items."""
    form = await request.form()
    now = get_review(request).clock()

    def work(tx: sa.Connection, me: Person) -> Campaign:
        try:
            name = _NAME.validate_python(form.get("name"))
        except ValidationError:
            raise Unfit("A name consists of lower-case letters and digits, such as spring-2.") from None
        settings = read_form(form, NEW.model_copy(update={"title": "", "seed": secrets.randbelow(2**31)}))
        campaign = campaigns.add_campaign(tx, name, settings, now=now)
        campaigns.note(tx, me.id, "create", name, settings.model_dump(), now=now)
        return campaign

    campaign = await transact(request, work)
    return see_other(f"/admin/campaigns/{campaign.name}")


@router.get("/campaigns/{name}/settings")
async def settings_page(request: Request, name: Name) -> Response:
    """The settings, and which of them can no longer change."""

    def work(tx: sa.Connection, me: Person) -> tuple[Campaign, set[str]]:
        into = campaigns.get_campaign(tx, name)
        return into, campaigns.settled(tx, into.id)

    into, settled = await transact(request, work, reads=True)
    return await page(
        request,
        "admin/settings.html",
        campaign=into,
        settings=into.settings,
        rubric=write_rubric(into.settings.rubric),
        settled=settled,
    )


@router.post("/campaigns/{name}/settings")
async def change(request: Request, name: Name) -> Response:
    """Change settings, from the next item that is given to a rater."""
    form = await request.form()
    now = get_review(request).clock()

    def work(tx: sa.Connection, me: Person) -> None:
        into = campaigns.get_campaign(tx, name)
        changed = campaigns.set_settings(tx, into.id, read_form(form, into.settings))
        if changed:
            campaigns.note(tx, me.id, "settings", name, changed, now=now)

    await transact(request, work)
    return see_other(f"/admin/campaigns/{name}")
