"""For machines: health, counts, and the description of the API."""

import sqlalchemy as sa
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse

from align.review.access import PublicRoute
from align.review.dependencies import get_review
from align.review.tables import assignment, item

router = APIRouter(route_class=PublicRoute, include_in_schema=False)


@router.get("/healthz")
async def healthz(request: Request) -> PlainTextResponse:
    """200 where the database answers."""
    await get_review(request).database.read(lambda tx: tx.execute(sa.select(1)).scalar())
    return PlainTextResponse("ok\n")


@router.get("/metrics")
async def metrics(request: Request) -> PlainTextResponse:
    """Prometheus' text format: requests, their durations, and each campaign's ratings and leases.

    Anybody can read it, so it names no person and numbers the campaigns.
    """
    review = get_review(request)

    def gauges(tx: sa.Connection) -> dict[str, dict[int, int]]:
        states = tx.execute(
            sa.select(assignment.c.campaign_id, assignment.c.state, sa.func.count()).group_by(
                assignment.c.campaign_id, assignment.c.state
            )
        ).all()
        items = tx.execute(sa.select(item.c.campaign_id, sa.func.count()).group_by(item.c.campaign_id))
        return {
            "ratings": {number: count for number, state, count in states if state == "done"},
            "leases": {number: count for number, state, count in states if state == "leased"},
            "items": dict(items.all()),
        }

    text = review.metrics.to_text(await review.database.read(gauges))
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


@router.get("/openapi.json")
async def openapi(request: Request) -> JSONResponse:
    """The API's description; FastAPI's own route for it would be the only one without a role."""
    return JSONResponse(request.app.openapi())
