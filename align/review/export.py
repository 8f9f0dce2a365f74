"""Ratings as versioned datasets with gates and provenance: `NAME` (preference) and `NAME-unpaired`.

The manifest names the comparisons, the campaign's ratings and every rater's share of them, so that the lineage of a
model reaches each rating. `ratings.jsonl`, next to the rows, has all ratings, with raters by pseudonym.
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
from align.artifacts.store import Store, utc_now
from align.artifacts.version import Version
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

VERSION = 1  # of the format: raised when equal ratings and rules give other rows
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
    """Everything that an export reads of a campaign, in one transaction."""

    campaign: Campaign
    items: list[Item]
    standing: list[Rating]
    adjudicated: dict[int, str]
    flagged: set[int]
    gold: dict[int, str]
    last_event: int


def extract(tx: sa.Connection, campaign: Campaign) -> Extract:
    """The campaign as it is now."""
    rows = tx.execute(
        sa.select(item.c.id, item.c.key, item.c.prompt, item.c.a, item.c.b, item.c.tools, item.c.gold).where(
            item.c.campaign_id == campaign.id
        )
    ).all()
    return Extract(
        campaign=campaign,
        items=[Item(row.id, row.key, row.prompt, row.a, row.b, row.tools) for row in rows if not row.gold],
        standing=events.current(tx, campaign.id),
        adjudicated=events.adjudicated(tx, campaign.id),
        flagged=set(events.flags(tx, campaign.id)),
        gold={row.id: row.gold for row in rows if row.gold},
        last_event=events.last_event(tx, campaign.id),
    )


def compile_all(extracted: Extract, gates: Gates, rules: Rules) -> Compiled:
    """The rows that the campaign's ratings give."""
    return compile_rows(
        extracted.items,
        agreement.counted(extracted.standing),
        extracted.adjudicated,
        min_ratings=gates.min_ratings,
        min_margin=rules.min_margin,
        ties=rules.ties,
        flagged=frozenset() if rules.keep_flagged else frozenset(extracted.flagged),
    )


def measure(extracted: Extract, compiled: Compiled) -> dict[str, Any]:
    """The numbers that the gates compare."""
    counted = [rating for rating in agreement.counted(extracted.standing) if rating.item_id in compiled.used]
    alpha = agreement.krippendorff(counted)
    right, judged = agreement.gold_score(extracted.standing, extracted.gold)
    return {
        "raters": len({rating.rater for rating in counted}),
        "ratings": len(counted),
        "alpha": alpha.value if alpha else None,
        "alpha_low": alpha.low if alpha else None,
        "alpha_high": alpha.high if alpha else None,
        "gold": right / judged if judged else None,
        "gold_judged": judged,
        "flags": len(extracted.flagged) / len(extracted.items) if extracted.items else 0.0,
    }


def missed(measured: dict[str, Any], gates: Gates) -> list[str]:
    """A sentence for every gate that is not met, with the distance to it."""
    sentences = []
    if measured["raters"] < gates.min_raters:
        plural = "s" if measured["raters"] != 1 else ""
        fewer = gates.min_raters - measured["raters"]
        sentences.append(f"{measured['raters']} rater{plural}, {fewer} fewer than {gates.min_raters}")
    agreed, gold = measured["alpha"], measured["gold"]
    sentences += _below("agreement (Krippendorff's alpha)", agreed, gates.min_agreement, "no item has two ratings")
    sentences += _below("accuracy on gold items", gold, gates.min_gold, "nobody rated a gold item")
    if gates.max_flags is not None and measured["flags"] > gates.max_flags:
        above = measured["flags"] - gates.max_flags
        sentences.append(f"the share of flagged items {measured['flags']:.2f} is {above:.2f} above {gates.max_flags}")
    return sentences


def _below(name: str, value: float | None, gate: float | None, reason: str) -> list[str]:
    if gate is None:
        return []
    if value is None:
        return [f"{name} is unknown ({reason}), and the gate is {gate}"]
    return [f"{name} {value:.2f} is {gate - value:.2f} below {gate}"] if value < gate else []


def export(
    store: Store, name: str, extracted: Extract, *, gates: Gates, rules: Rules, recalled: Sequence[str] = ()
) -> list[Version]:
    """Publish a campaign's ratings. If the same ratings were published before, those versions are returned.

    Args:
        recalled: raters whose ratings were withdrawn; with it the gates are measured and recorded, but stop nothing.

    Raises:
        UserError: a gate is not met, or the ratings give no rows.
    """
    for dataset in (name, name + UNPAIRED):
        check_name(dataset)
    compiled = compile_all(extracted, gates, rules)
    measured = measure(extracted, compiled)
    if not recalled and (sentences := missed(measured, gates)):
        raise UserError(
            f"{extracted.campaign.name} is not exported: {'; '.join(sentences)}. Collect more ratings, or lower the "
            "gate: --min-agreement, --min-gold, --min-raters, --max-flags"
        )
    counted = agreement.counted(extracted.standing)
    used = [rating for rating in counted if rating.item_id in compiled.used]
    published = []
    for dataset, format, rows in (
        (name, "preference", compiled.preferences),
        (name + UNPAIRED, "unpaired_preference", compiled.unpaired),
    ):
        if rows:
            version = _publish(
                store, dataset, format, rows, extracted, used, compiled, measured, gates, rules, recalled
            )
            published.append(version)
    if not published:
        reasons = ", ".join(f"{count} {reason}" for reason, count in compiled.left_out.items()) or "it has no items"
        raise UserError(f"{extracted.campaign.name} gives no rows ({reasons}); collect ratings first")
    return published


def _publish(
    store: Store,
    name: str,
    format: str,
    rows: Iterable[tuple[str, Record]],
    extracted: Extract,
    used: list[Rating],
    compiled: Compiled,
    measured: dict[str, Any],
    gates: Gates,
    rules: Rules,
    recalled: Sequence[str],
) -> Version:
    campaign = extracted.campaign
    lines = [json_line({**record.to_row(), "id": key}) for key, record in rows]
    kept = [_to_row(rating) for rating in used]
    identity = json_digest(
        {
            "review": VERSION,
            "campaign": campaign.name,
            "format": format,
            "rows": lines,
            "ratings": kept,
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
        _write(folder / RATINGS_FILE, [json_line(row) for row in kept])
        return store.publish(
            folder,
            name=name,
            type="dataset",
            format=format,
            inputs=_inputs(extracted, used, kept),
            identity=identity,
            packages=packages(),
            git_commit=git_commit(PROJECT),
            seed=campaign.settings.seed,
            metrics={
                "train_records": len(lines),
                **{key: value for key, value in measured.items() if value is not None},
            },
            started=started,
            notes={
                "stage": "review",
                "campaign": campaign.name,
                "last_event": extracted.last_event,
                "gates": gates.model_dump(),
                "rules": vars(rules),
                "outcomes": dict(compiled.outcomes),
                "left_out": dict(compiled.left_out),
                "raters": sorted({rating.rater for rating in used}, key=agreement.natural),
                "adjudicated": len(extracted.adjudicated.keys() & compiled.used),
                "recalled": list(recalled),
            },
        )
    except BaseException:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
        raise


def _inputs(extracted: Extract, used: list[Rating], kept: list[dict[str, Any]]) -> dict[str, Any]:
    """Comparisons, campaign, and each rater's ratings: what a lineage shows below the dataset."""
    campaign = {
        "ref": f"campaign {extracted.campaign.name}",
        "digest": json_digest(kept),
        "kind": "campaign",
        "type": f"{len(used)} ratings",
    }
    count = Counter(rating.rater for rating in used)
    raters = [
        {
            "ref": rater,
            "digest": json_digest([row for row in kept if row["rater"] == rater]),
            "kind": "rater",
            "type": f"{count[rater]} ratings",
        }
        for rater in sorted(count, key=agreement.natural)
    ]
    return {"comparisons": extracted.campaign.source, "campaign": campaign, "raters": raters}


def _to_row(rating: Rating) -> dict[str, Any]:
    """A rating as the artifact keeps it."""
    row = {"id": rating.item, "rater": rating.rater, "verdict": rating.verdict, "at": round(rating.at, 3)}
    names = ("answers", "reason", "flag", "flipped")
    return row | {name: value for name in names if (value := getattr(rating, name))}


def _write(file: Path, lines: Iterable[str]) -> None:
    with file.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(lines)
