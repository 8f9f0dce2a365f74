"""Comparisons into a campaign: from an artifact, or from pairs and ratings that were made elsewhere."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from align.artifacts.manifest import json_digest
from align.artifacts.store import Store
from align.artifacts.verification import open_input
from align.data.build.comparisons import COMPARISONS_FILE, read_comparisons
from align.errors import UserError
from align.records import Answer, Comparison
from align.review.schemas import STRENGTH, Settings
from align.review.store import assignment, people, ratings
from align.review.store.campaigns import Campaign, NewItem, add_items
from align.review.tables import item

_LONGEST = {"model_a": 256, "model_b": 256, "author_a": 32, "author_b": 32}  # characters, as the tables have it


def to_items(rows: Iterable[tuple[Comparison, dict[str, Any]]], settings: Settings) -> list[NewItem]:
    """Every pair of different answers of each comparison, in the order the campaign gives them out.

    Under `uncertain` the pairs of smallest margin come first; a share of all pairs, drawn by the seed before any
    margin is looked at, is the control arm and comes in random order.
    """
    items = []
    for compared, row in rows:
        for first, second in combinations(compared.answers, 2):
            if first.content == second.content:
                continue
            margin = None if first.score is None or second.score is None else first.score - second.score
            made = NewItem(
                key=_key(compared, first, second),
                prompt=compared.prompt,
                a=first.content,
                b=second.content,
                tools=compared.tools,
                model_a=first.model,
                model_b=second.model,
                author_a=first.author,
                author_b=second.author,
                margin=margin,
                gold=row.get("gold"),
            )
            if made.gold is not None and not _is_verdict(made.gold):
                raise UserError(f"gold is {made.gold!r}; write one of {', '.join(STRENGTH)}")
            for name, most in _LONGEST.items():
                if len(getattr(made, name) or "") > most:
                    raise UserError(f"{name[:-2]} {getattr(made, name)[:60]!r}... has more than {most} characters")
            items.append(made)
    return [_placed(one, settings) for one in items]


def load_artifact(store: Store, text: str) -> tuple[list[tuple[Comparison, dict[str, Any]]], dict[str, Any]]:
    """The comparisons of an artifact, and what a manifest records of it as an input.

    Raises:
        UserError: it is no comparisons artifact.
    """
    given = open_input(store, text, maker="deepspeed launch/run.py stage=sample")
    if given.type != "comparisons":
        what = f"a {given.type}" if given.type else f"a {given.kind}"
        raise UserError(
            f"{text} is {what}, and a campaign takes comparisons; make some: deepspeed launch/run.py stage=sample "
            f"inputs.policy={text}"
        )
    with (given.path / COMPARISONS_FILE).open("rb") as file:
        return list(read_comparisons(file, given.ref)), given.to_manifest()


def load_file(file: Path) -> tuple[list[tuple[Comparison, dict[str, Any]]], dict[str, Any]]:
    """The comparisons of a JSONL file, and what a manifest records of it as an input. Raises UserError."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); correct the path") from None
    return list(read_comparisons(content.splitlines(), file.name)), _uploaded(file.name, content)


def load_bytes(name: str, content: bytes) -> tuple[list[tuple[Comparison, dict[str, Any]]], dict[str, Any]]:
    """The same of what a browser sent; `name` is only ever shown."""
    return list(read_comparisons(content.splitlines(), name)), _uploaded(name, content)


def fill(
    tx: sa.Connection,
    into: Campaign,
    rows: Sequence[tuple[Comparison, dict[str, Any]]],
    source: dict[str, Any],
    *,
    now: float,
) -> tuple[int, int]:
    """Put the pairs into the campaign, with the ratings they bring; how many of each were new."""
    items = to_items(rows, into.settings)
    added = add_items(tx, into, items, source)
    return added, _import_ratings(tx, into, rows, now=now)


def _import_ratings(
    tx: sa.Connection, into: Campaign, rows: Sequence[tuple[Comparison, dict[str, Any]]], *, now: float
) -> int:
    """Verdicts made elsewhere, `{"ratings": [{"rater": "alice", "verdict": "a"}]}` beside two answers.

    They count towards the campaign's overlap as those that are made here do.
    """
    raters: dict[str, people.Person] = {}
    count = 0
    for compared, row in rows:
        if not row.get("ratings"):
            continue
        if len(compared.answers) != 2:
            raise UserError("a comparison with ratings has two answers: its verdicts say a or b")
        key = _key(compared, *compared.answers)
        number = tx.execute(sa.select(item.c.id).where(item.c.campaign_id == into.id, item.c.key == key)).scalar()
        if not isinstance(row["ratings"], list):
            raise UserError(f"ratings is {row['ratings']!r}, not a list")
        for given in row["ratings"]:
            if not isinstance(given, dict) or not _is_verdict(given.get("verdict")) or not given.get("rater"):
                raise UserError(f"a rating is {given!r}; write {{'rater': 'alice', 'verdict': 'slight_a'}}")
            rater = raters.get(name := f"import:{str(given['rater'])[:50]}".replace("\0", ""))
            if rater is None:
                rater = raters[name] = _imported_rater(tx, name, now)
            told = f"import-{into.id}-{key[:32]}"
            if number is not None and assignment.find_event(tx, rater.id, told) is None:
                ratings.append(
                    tx,
                    into,
                    rater,
                    item_id=number,
                    kind="rate",
                    key=told,
                    verdict=given["verdict"],
                    reason=str(given.get("reason") or "").replace("\0", "")[:4000] or None,
                    at=_time(given.get("at"), now),
                )
                assignment.take_away(tx, number)
                count += 1
    return count


def _key(compared: Comparison, first: Answer, second: Answer) -> str:
    """The same for the same pair, whoever answered."""
    tools = [] if compared.tools is None else [compared.tools]
    return json_digest([compared.prompt, first.content, second.content, *tools])


def _is_verdict(value: Any) -> bool:
    return isinstance(value, str) and value in STRENGTH


def _time(value: Any, otherwise: float) -> float:
    """Seconds since the epoch, of a rating that says when it was given."""
    return float(value) if isinstance(value, int | float) and 0 <= value < 2**33 else otherwise


def _imported_rater(tx: sa.Connection, name: str, now: float) -> people.Person:
    """Who rated elsewhere: a person who cannot sign in here."""
    return people.person_by_name(tx, name) or people.add_person(tx, role="rater", now=now, name=name)


def _placed(one: NewItem, settings: Settings) -> NewItem:
    """The item with its arm and its place there, by its key and the seed alone."""
    drawn = int.from_bytes(hashlib.sha256(f"{settings.seed}/{one.key}".encode()).digest()[:12], "big")
    order, lot = (drawn >> 48) / 2**48, (drawn & (2**48 - 1)) / 2**48
    if one.gold is not None:
        return replace(one, arm="gold", rank=order)
    if settings.strategy == "random" or lot < settings.control:
        return replace(one, arm="random", rank=order)
    if one.margin is None:
        raise UserError(
            "strategy uncertain needs a reward model's scores beside the answers: sample with "
            "inputs.reward_model=reward:latest, or take --strategy random"
        )
    return replace(one, arm="uncertain", rank=abs(one.margin) + order * 1e-9)  # ties by lot


def _uploaded(name: str, content: bytes) -> dict[str, Any]:
    return {"ref": name, "digest": hashlib.sha256(content).hexdigest(), "kind": "path"}
