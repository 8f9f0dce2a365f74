"""Comparisons into a campaign: from an artifact, or from pairs and ratings that were made elsewhere.

Everything is read and checked before the database is changed. Then it goes in by batches, each a transaction of its
own, so that raters are served in between. A load that was interrupted is completed by the same load again.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import sqlalchemy as sa
from pydantic import BaseModel, BeforeValidator, ConfigDict, StringConstraints, ValidationError

from align.artifacts.manifest import json_digest
from align.artifacts.store import Store
from align.artifacts.verification import open_input
from align.data.build.comparisons import COMPARISONS_FILE, read_comparisons
from align.errors import UserError
from align.records import Answer, Comparison, shown
from align.review.errors import Conflict
from align.review.schemas import STRENGTH, Settings, Storable, Verdict
from align.review.store import assignment, people, ratings
from align.review.store.campaigns import Campaign, NewItem, add_items, get_campaign
from align.review.tables import item

Row = tuple[Comparison, dict[str, Any]]  # a comparison, and the line it was read from

MOST_ANSWERS = 16  # of a comparison: they make 120 pairs
MOST_PAIRS = 200_000  # of a load
MOST_RATINGS = 100  # of a comparison
LONGEST_LINE = 1_000_000  # bytes
DEEPEST = 32  # lists and objects inside each other
BATCH = 200  # pairs and ratings per transaction
_LONGEST = {"model": 256, "author": 32}  # characters, as the tables have it


def _number_as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) else value


class ImportedRating(BaseModel):
    """A verdict that was given elsewhere."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    rater: Annotated[str, StringConstraints(min_length=1), Storable, BeforeValidator(_number_as_text)]
    verdict: Verdict
    reason: Annotated[str, Storable, BeforeValidator(lambda value: value or "")] = ""
    at: Any = None  # seconds since the epoch


@dataclass(frozen=True)
class Entry:
    """The pairs of one comparison, and the ratings of its one pair."""

    items: tuple[NewItem, ...]
    key: str = ""  # of the pair that was rated
    ratings: tuple[ImportedRating, ...] = ()


@dataclass(frozen=True)
class Load:
    """What goes into a campaign.

    Attributes:
        source: what a manifest records of the file or artifact.
        settings: those that the order of the items was computed from.
    """

    entries: Sequence[Entry]
    source: dict[str, Any]
    settings: Settings

    def batches(self) -> Iterator["Load"]:
        """The same in parts; where there is nothing, one part that is empty."""
        start = size = 0
        for at, entry in enumerate(self.entries):
            size += len(entry.items) + len(entry.ratings)
            if size >= BATCH or at == len(self.entries) - 1:
                yield replace(self, entries=self.entries[start : at + 1])
                start, size = at + 1, 0
        if not self.entries:
            yield self


# -- reading ---------------------------------------------------------------------------------------------------------


def load_artifact(store: Store, text: str) -> tuple[list[Row], dict[str, Any]]:
    """The comparisons of an artifact, verified, and what a manifest records of it as an input.

    Raises:
        UserError: it is not a comparisons artifact, it is not what was published, or a line is not valid.
    """
    resolved = open_input(store, text, maker="deepspeed launch/run.py stage=sample")
    if resolved.type != "comparisons":
        what = f"a {resolved.type}" if resolved.type else f"a {resolved.kind}"
        raise UserError(
            f"{text} is {what}, and a campaign takes comparisons; make some: deepspeed launch/run.py stage=sample "
            f"inputs.policy={text}"
        )
    with (resolved.path / COMPARISONS_FILE).open("rb") as file:
        rows, _ = read_rows(file, resolved.ref)
    return rows, resolved.to_manifest()


def load_file(file: Path) -> tuple[list[Row], dict[str, Any]]:
    """The comparisons of a JSONL file, and what a manifest records of it as an input. Raises UserError."""
    try:
        with file.open("rb") as stream:
            return load_stream(file.name, stream)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); correct the path") from None


def load_stream(name: str, stream: BinaryIO) -> tuple[list[Row], dict[str, Any]]:
    """The same of an open file; `name` is only ever shown."""
    rows, digest = read_rows(stream, name)
    return rows, {"ref": name, "digest": digest, "kind": "path"}


def read_rows(stream: BinaryIO, where: str) -> tuple[list[Row], str]:
    """Every line of a JSONL file, checked, and the SHA-256 of the file.

    Raises:
        UserError: names the line and what is wrong with it.
    """
    hasher, number = hashlib.sha256(), 0

    def lines() -> Iterator[bytes]:
        nonlocal number
        while line := stream.readline(LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE:
                raise UserError(f"{where}, line {number} has more than {LONGEST_LINE} bytes; shorten it")
            hasher.update(line)
            yield line

    rows: list[Row] = []
    pairs = 0
    for comparison, row in read_comparisons(lines(), where):
        if problem := _problem(comparison, row):
            raise UserError(f"{where}, line {number}: {problem}")
        pairs += len(comparison.answers) * (len(comparison.answers) - 1) // 2
        if pairs > MOST_PAIRS:
            raise UserError(f"{where} has more than {MOST_PAIRS} pairs of answers; load it in parts")
        rows.append((comparison, row))
    return rows, hasher.hexdigest()


def _problem(comparison: Comparison, row: dict[str, Any]) -> str | None:
    """What a campaign cannot take about a comparison, or None."""
    if len(comparison.answers) > MOST_ANSWERS:
        return f"answers has {len(comparison.answers)} entries; at most {MOST_ANSWERS} can be compared with each other"
    contents = [comparison.prompt, comparison.tools, [vars(answer) for answer in comparison.answers]]
    if _depth(contents) > DEEPEST:
        return f"it has more than {DEEPEST} lists and objects inside each other; write it flatter"
    try:
        json.dumps(contents, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "it holds half a surrogate pair (such as \\ud800), which is not a character; remove it"
    for answer in comparison.answers:
        for name, most in _LONGEST.items():
            if len(getattr(answer, name) or "") > most:
                return f"{name} {shown(getattr(answer, name))} has more than {most} characters"
    if row.get("gold") is not None and not _is_verdict(row["gold"]):
        return f"gold is {shown(row['gold'])}; write one of {', '.join(STRENGTH)}"
    try:
        rated = _imported_ratings(row)
    except UserError as error:
        return str(error)
    if rated and len(comparison.answers) != 2:
        return f"ratings go with two answers, not with {len(comparison.answers)}: their verdicts say a or b"
    return None


def _depth(value: Any) -> int:
    """How many lists and objects are inside each other; stops counting above DEEPEST."""
    depth, level = 0, [value]
    while depth <= DEEPEST:
        nested = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        if not nested:
            return depth
        depth, level = depth + 1, [inner for values in nested for inner in values]
    return depth


def _imported_ratings(row: dict[str, Any]) -> tuple[ImportedRating, ...]:
    """The ratings that a line brings. Raises UserError."""
    values = row.get("ratings") or []
    if not isinstance(values, list):
        raise UserError(f"ratings is {shown(values)}, not a list")
    if len(values) > MOST_RATINGS:
        raise UserError(f"ratings has {len(values)} entries; at most {MOST_RATINGS} are taken")
    found = []
    for value in values:
        try:
            found.append(ImportedRating.model_validate(value))
        except ValidationError:
            message = f"a rating is {shown(value)}; write {{'rater': 'alice', 'verdict': 'slight_a'}}"
            raise UserError(message) from None
    return tuple(found)


# -- ordering --------------------------------------------------------------------------------------------------------


def prepare(rows: Iterable[Row], settings: Settings, source: dict[str, Any]) -> Load:
    """Rows as a campaign with these settings takes them.

    Raises:
        UserError: the strategy needs scores that the answers do not have.
    """
    entries = []
    for comparison, row in rows:
        items = tuple(_to_items(comparison, row, settings))
        rated = _imported_ratings(row)
        entries.append(Entry(items, _key(comparison, *comparison.answers[:2]) if rated else "", rated))
    return Load(entries, source, settings)


def to_items(rows: Iterable[Row], settings: Settings) -> list[NewItem]:
    """Every pair of different answers of each comparison, with its place in the campaign's order.

    Under `uncertain` the pairs of smallest margin come first; a share of all pairs, drawn by the seed before any
    margin is looked at, is the control arm and comes in random order.
    """
    return [made for comparison, row in rows for made in _to_items(comparison, row, settings)]


def _to_items(comparison: Comparison, row: dict[str, Any], settings: Settings) -> Iterator[NewItem]:
    for first, second in combinations(comparison.answers, 2):
        if first.content == second.content:
            continue
        margin = None if first.score is None or second.score is None else first.score - second.score
        made = NewItem(
            key=_key(comparison, first, second),
            prompt=comparison.prompt,
            a=first.content,
            b=second.content,
            tools=comparison.tools,
            model_a=first.model,
            model_b=second.model,
            author_a=first.author,
            author_b=second.author,
            margin=margin,
            gold=row.get("gold"),
        )
        yield _place(made, settings)


def _place(made: NewItem, settings: Settings) -> NewItem:
    """The item with its arm and its place there, by its key and the seed alone."""
    drawn = int.from_bytes(hashlib.sha256(f"{settings.seed}/{made.key}".encode()).digest()[:12], "big")
    order, lot = (drawn >> 48) / 2**48, (drawn & (2**48 - 1)) / 2**48
    if made.gold is not None:
        return replace(made, arm="gold", rank=order)
    if settings.strategy == "random" or lot < settings.control:
        return replace(made, arm="random", rank=order)
    if made.margin is None:
        raise UserError(
            "strategy uncertain needs the scores of a reward model with the answers: sample with "
            "inputs.reward_model=reward:latest, or use --strategy random"
        )
    return replace(made, arm="uncertain", rank=abs(made.margin) + order * 1e-9)  # ties by lot


def _key(comparison: Comparison, first: Answer, second: Answer) -> str:
    """The same for the same pair, whoever answered."""
    tools = [] if comparison.tools is None else [comparison.tools]
    return json_digest([comparison.prompt, first.content, second.content, *tools])


def _is_verdict(value: Any) -> bool:
    return isinstance(value, str) and value in STRENGTH


# -- storing ---------------------------------------------------------------------------------------------------------


def add_batch(tx: sa.Connection, campaign: str, batch: Load, *, now: float) -> tuple[int, int]:
    """Put one batch of a load into a campaign.

    Returns:
        How many items and how many ratings were new.

    Raises:
        NotFound: there is no such campaign.
        Conflict: somebody changed the campaign's order after the load was prepared.
    """
    into = get_campaign(tx, campaign)
    if any(getattr(into.settings, name) != getattr(batch.settings, name) for name in ("strategy", "control", "seed")):
        raise Conflict(f"The settings of {campaign} changed during the load; load again.")
    added = add_items(tx, into, [made for entry in batch.entries for made in entry.items], batch.source)
    return added, _add_ratings(tx, into, batch.entries, now=now)


def _add_ratings(tx: sa.Connection, into: Campaign, entries: Iterable[Entry], *, now: float) -> int:
    """Verdicts made elsewhere. They count towards the campaign's overlap like those that are made here."""
    raters: dict[str, people.Person] = {}
    count = 0
    for entry in entries:
        if not entry.ratings:
            continue
        same_pair = item.c.campaign_id == into.id, item.c.key == entry.key
        number = tx.execute(sa.select(item.c.id).where(*same_pair)).scalar()
        if number is None:
            continue  # its two answers are the same
        for rating in entry.ratings:
            name = f"import:{rating.rater[:50]}"
            rater = raters.get(name)
            if rater is None:
                rater = raters[name] = _imported_rater(tx, name, now)
            key = f"import-{into.id}-{entry.key[:32]}"
            if assignment.find_event(tx, rater.id, key) is None:
                values = {"verdict": rating.verdict, "reason": rating.reason[:4000] or None}
                at = _time(rating.at, now)
                ratings.append(tx, into, rater, item_id=number, kind="rate", key=key, at=at, **values)
                assignment.take_away(tx, number)
                count += 1
    return count


def _time(value: Any, otherwise: float) -> float:
    """Seconds since the epoch, of a rating that says when it was given."""
    return float(value) if isinstance(value, int | float) and 0 <= value < 2**33 else otherwise


def _imported_rater(tx: sa.Connection, name: str, now: float) -> people.Person:
    """Somebody who rated elsewhere: a person who cannot sign in here."""
    return people.person_by_name(tx, name) or people.add_person(tx, role="rater", now=now, name=name)
