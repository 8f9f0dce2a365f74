"""Ratings as versioned datasets, gated and with their provenance: `NAME` (preference) and `NAME-unpaired`.

The manifest names the comparisons, the campaign's ratings and every rater's share of them, so that the lineage of a
model goes down to who said what; `ratings.jsonl` beside the rows has each rating, raters by pseudonym.
"""

import contextlib
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from align.artifacts.manifest import json_digest
from align.artifacts.provenance import git_commit, packages
from align.artifacts.refs import check_name
from align.artifacts.store import Store, Version, utc_now
from align.config.paths import PROJECT
from align.data.loading.tables import json_line
from align.errors import UserError
from align.records import Record
from align.review import agreement
from align.review.aggregate import Compiled, Item, Ties, compile_rows
from align.review.schemas import Gates
from align.review.store import ratings as events
from align.review.store.campaigns import Campaign
from align.review.store.ratings import Rating
from align.review.tables import item

VERSION = 1  # of what equal ratings and rules give
UNPAIRED = "-unpaired"
RATINGS_FILE = "ratings.jsonl"


@dataclass(frozen=True)
class Rules:
    """How verdicts become rows."""

    ties: Ties = "drop"
    min_margin: float = 0.0
    keep_flagged: bool = False


@dataclass(frozen=True)
class Extract:
    """All that an export reads of a campaign, in one transaction."""

    campaign: Campaign
    items: list[Item]
    standing: list[Rating]
    adjudicated: dict[int, str]
    flagged: set[int]
    gold: dict[int, str]
    last_event: int


def extract(tx: sa.Connection, into: Campaign) -> Extract:
    """The campaign as it stands."""
    rows = tx.execute(
        sa.select(item.c.id, item.c.key, item.c.prompt, item.c.a, item.c.b, item.c.tools, item.c.gold).where(
            item.c.campaign_id == into.id
        )
    ).all()
    return Extract(
        campaign=into,
        items=[Item(row.id, row.key, row.prompt, row.a, row.b, row.tools) for row in rows if not row.gold],
        standing=events.current(tx, into.id),
        adjudicated=events.adjudicated(tx, into.id),
        flagged=set(events.flags(tx, into.id)),
        gold={row.id: row.gold for row in rows if row.gold},
        last_event=events.last_event(tx, into.id),
    )


def compile_all(given: Extract, gates: Gates, rules: Rules) -> Compiled:
    """The rows that the campaign's ratings give."""
    return compile_rows(
        given.items,
        agreement.counted(given.standing),
        given.adjudicated,
        min_ratings=gates.min_ratings,
        min_margin=rules.min_margin,
        ties=rules.ties,
        flagged=frozenset() if rules.keep_flagged else frozenset(given.flagged),
    )


def measure(given: Extract, compiled: Compiled) -> dict[str, Any]:
    """The numbers that the gates look at."""
    counted = [one for one in agreement.counted(given.standing) if one.item_id in compiled.used]
    alpha = agreement.krippendorff(counted)
    right, judged = agreement.gold_score(given.standing, given.gold)
    return {
        "raters": len({one.rater for one in counted}),
        "ratings": len(counted),
        "alpha": alpha.value if alpha else None,
        "alpha_low": alpha.low if alpha else None,
        "alpha_high": alpha.high if alpha else None,
        "gold": right / judged if judged else None,
        "gold_judged": judged,
        "flags": len(given.flagged) / len(given.items) if given.items else 0.0,
    }


def missed(seen: dict[str, Any], gates: Gates) -> list[str]:
    """Of every gate that is not met, by how much."""
    found = []
    if seen["raters"] < gates.min_raters:
        plural = "s" if seen["raters"] != 1 else ""
        found.append(
            f"{seen['raters']} rater{plural}, {gates.min_raters - seen['raters']} fewer than {gates.min_raters}"
        )
    found += _below("agreement (Krippendorff's alpha)", seen["alpha"], gates.min_agreement, "no item has two ratings")
    found += _below("accuracy on gold items", seen["gold"], gates.min_gold, "nobody rated a gold item")
    if gates.max_flags is not None and seen["flags"] > gates.max_flags:
        over = seen["flags"] - gates.max_flags
        found.append(f"the share of flagged items {seen['flags']:.2f} is {over:.2f} above {gates.max_flags}")
    return found


def _below(what: str, value: float | None, gate: float | None, why: str) -> list[str]:
    if gate is None:
        return []
    if value is None:
        return [f"{what} is not known ({why}), the gate is {gate}"]
    return [f"{what} {value:.2f} is {gate - value:.2f} below {gate}"] if value < gate else []


def export(
    store: Store, name: str, given: Extract, *, gates: Gates, rules: Rules, recalled: Sequence[str] = ()
) -> list[Version]:
    """Publish what the campaign's ratings say; what was published of just these before is given again.

    Args:
        recalled: raters whose ratings were withdrawn: the gates are measured and told, and stop nothing.

    Raises:
        UserError: a gate is not met, or the ratings give no row.
    """
    for one in (name, name + UNPAIRED):
        check_name(one)
    compiled = compile_all(given, gates, rules)
    seen = measure(given, compiled)
    if not recalled and (why := missed(seen, gates)):
        raise UserError(
            f"{given.campaign.name} is not exported: {'; '.join(why)}. Collect more ratings, or lower the gate if "
            "you can answer for it: --min-agreement, --min-gold, --min-raters, --max-flags"
        )
    counted = agreement.counted(given.standing)
    used = [one for one in counted if one.item_id in compiled.used]
    published = []
    for where, format, rows in (
        (name, "preference", compiled.preferences),
        (name + UNPAIRED, "unpaired_preference", compiled.unpaired),
    ):
        if rows:
            published.append(_publish(store, where, format, rows, given, used, compiled, seen, gates, rules, recalled))
    if not published:
        told = ", ".join(f"{count} {why}" for why, count in compiled.left_out.items()) or "it has no items"
        raise UserError(f"{given.campaign.name} gives no row ({told}); collect ratings first")
    return published


def _publish(
    store: Store,
    name: str,
    format: str,
    rows: Iterable[tuple[str, Record]],
    given: Extract,
    used: list[Rating],
    compiled: Compiled,
    seen: dict[str, Any],
    gates: Gates,
    rules: Rules,
    recalled: Sequence[str],
) -> Version:
    into = given.campaign
    lines = [json_line({**record.to_row(), "id": key}) for key, record in rows]
    spoken = [_told(one) for one in used]
    identity = json_digest(
        {
            "review": VERSION,
            "campaign": into.name,
            "format": format,
            "rows": lines,
            "ratings": spoken,
            "gates": gates.model_dump(),
            "rules": vars(rules),
        }
    )
    if before := [version for version in store.find(identity) if version.name == name]:
        store.point(before[-1])
        return before[-1]
    started = utc_now()
    folder = store.stage(name)
    try:
        (folder / "records").mkdir()
        _write(folder / "records" / "train.jsonl", lines)
        _write(folder / RATINGS_FILE, [json_line(one) for one in spoken])
        return store.publish(
            folder,
            name=name,
            type="dataset",
            format=format,
            inputs=_inputs(given, used, spoken),
            identity=identity,
            packages=packages(),
            git_commit=git_commit(PROJECT),
            seed=into.settings.seed,
            metrics={"train_records": len(lines), **{key: value for key, value in seen.items() if value is not None}},
            started=started,
            notes={
                "stage": "review",
                "campaign": into.name,
                "last_event": given.last_event,
                "gates": gates.model_dump(),
                "rules": vars(rules),
                "outcomes": dict(compiled.outcomes),
                "left_out": dict(compiled.left_out),
                "raters": sorted({one.rater for one in used}, key=agreement.natural),
                "adjudicated": len(given.adjudicated.keys() & compiled.used),
                "recalled": list(recalled),
            },
        )
    except BaseException:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
        raise


def _inputs(given: Extract, used: list[Rating], spoken: list[dict[str, Any]]) -> dict[str, Any]:
    """Comparisons, campaign, and each rater's ratings: what a lineage shows below the dataset."""
    campaign = {
        "ref": f"campaign {given.campaign.name}",
        "digest": json_digest(spoken),
        "kind": "campaign",
        "type": f"{len(used)} ratings",
    }
    count = Counter(one.rater for one in used)
    raters = [
        {
            "ref": rater,
            "digest": json_digest([one for one in spoken if one["rater"] == rater]),
            "kind": "rater",
            "type": f"{count[rater]} ratings",
        }
        for rater in sorted(count, key=agreement.natural)
    ]
    return {"comparisons": given.campaign.source, "campaign": campaign, "raters": raters}


def _told(one: Rating) -> dict[str, Any]:
    """A rating as the artifact keeps it."""
    told = {"id": one.item, "rater": one.rater, "verdict": one.verdict, "at": round(one.at, 3)}
    extra = {"answers": one.answers, "reason": one.reason, "flag": one.flag, "flipped": one.flipped}
    return told | {key: value for key, value in extra.items() if value}


def _write(file: Path, lines: Iterable[str]) -> None:
    with file.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(lines)
