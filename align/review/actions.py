"""What `align review ...` does."""

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from pydantic import ValidationError

from align.artifacts.disk import make_folder
from align.artifacts.store import Store
from align.artifacts.text import printable
from align.artifacts.verification import check_version, open_version, read_file
from align.artifacts.version import Version
from align.errors import ExitCode, UserError
from align.records import readable_json
from align.review import agreement, loading, security
from align.review.database import PATIENCE, SERVER_PATIENCE, Database, migrate
from align.review.errors import Refused
from align.review.export import RATINGS_FILE, Rules
from align.review.export import export as export_ratings
from align.review.export import extract as read_campaign
from align.review.recall import is_export
from align.review.recall import recall as recall_rater
from align.review.rules import read_rubric
from align.review.schemas import Gates, Settings
from align.review.store import campaigns, people
from align.review.store.campaigns import Campaign
from align.review.store.ratings import current

T = TypeVar("T")
INVITE_SECONDS = 14 * 86400.0


def serve(arguments: argparse.Namespace) -> int:
    """`align review serve`."""
    from align.review.server import serve as run

    place = _place(arguments)
    database = _database(arguments, SERVER_PATIENCE)
    secret = security.load_secret(place / "secret")
    run(
        database,
        secret,
        host=arguments.host,
        port=arguments.port,
        public_url=arguments.public_url,
        artifacts=arguments.artifacts,
        trusted_proxies=arguments.trusted_proxy,
    )
    return 0


def load(arguments: argparse.Namespace) -> int:
    """`align review load REF_OR_FILE --campaign NAME`."""
    store = Store.open(arguments.artifacts)
    if "/" in arguments.source or arguments.source.endswith(".jsonl"):
        rows, source = loading.load_file(Path(arguments.source).expanduser())
    else:
        rows, source = loading.load_artifact(store, arguments.source)
    changes = {
        name: getattr(arguments, name)
        for name in ("title", "overlap", "strategy", "control", "gold", "repeats", "lease", "seed")
        if getattr(arguments, name) is not None
    }
    gates = _gates(arguments)
    if arguments.instructions:
        changes["instructions"] = _read(arguments.instructions)
    if arguments.rubric:
        changes["rubric"] = read_rubric(_read(arguments.rubric))

    name, database, now = arguments.campaign, _database(arguments), time.time()

    def wanted(tx: sa.Connection) -> Settings:
        into = campaigns.find_campaign(tx, name)
        before = into.settings.model_dump() if into else {"title": name, "gates": {}}
        settings = _checked(Settings, before | changes | {"gates": before["gates"] | gates})
        if into is None:
            _name(name)
        else:
            campaigns.changes(tx, into, settings)
        return settings

    def begin(tx: sa.Connection) -> None:
        into = campaigns.find_campaign(tx, name)
        if into is None:
            campaigns.add_campaign(tx, name, settings, now=now)
        elif changes or gates:
            campaigns.set_settings(tx, into.id, settings)

    settings = _now(database, wanted)
    prepared = loading.prepare(rows, settings, source)  # before a campaign is made that nothing fits into
    _now(database, begin)
    added = rated = 0
    for batch in prepared.batches():
        items, imported = _now(database, loading.add_batch, name, batch, now=now)
        added, rated = added + items, rated + imported
    detail = {"source": source, "items": added, "ratings": rated}
    _now(database, campaigns.note, None, "load", name, detail, now=now)
    print(f"{name}: {added} new items{f' and {rated} ratings' if rated else ''} from {source['ref']}")
    return 0


def export(arguments: argparse.Namespace) -> int:
    """`align review export CAMPAIGN --name NAME`."""
    database = _database(arguments)
    extract = _now(database, lambda tx: read_campaign(tx, _campaign(tx, arguments.campaign)))
    gates = _checked(Gates, extract.campaign.settings.gates.model_dump() | _gates(arguments))
    rules = Rules(arguments.ties, arguments.min_margin, arguments.keep_flagged)
    versions = export_ratings(Store.open(arguments.artifacts), arguments.name, extract, gates=gates, rules=rules)
    detail = {"as": [version.ref for version in versions], "last_event": extract.last_event}
    _now(database, campaigns.note, None, "export", extract.campaign.name, detail, now=time.time())
    for version in versions:
        metrics = version.manifest.metrics
        alpha = f", alpha {metrics['alpha']:.2f}" if "alpha" in metrics else ""
        print(
            f"published {version.ref}  {metrics['train_records']} {version.manifest.format} rows from "
            f"{metrics['ratings']} ratings of {metrics['raters']} raters{alpha}"
        )
    return 0


def recall(arguments: argparse.Namespace) -> int:
    """`align review recall --rater HANDLE`."""
    database = _database(arguments)
    _now(database, lambda tx: None)  # brings the tables up to date
    done = recall_rater(database, Store.open(arguments.artifacts), arguments.rater, now=time.time())
    for campaign, count in done.withdrawn.items():
        print(f"withdrew {count} ratings of {arguments.rater} from {campaign}")
    if not done.withdrawn:
        print(f"{arguments.rater} has no ratings left to withdraw, and can no longer sign in")
    for version in done.tainted:
        print(f"contains them: {version.ref}")
    for version in done.replaced:
        print(f"published without them: {version.ref}  ({version.manifest.metrics['train_records']} rows)")
    for reason in done.empty:
        print(f"not replaced: {reason}")
    for version in done.derived:
        print(f"made from them: {version.ref}  dataset; make it again")
    for reason in done.unread:
        print(f"not looked at: {reason}")
    for version in done.models:
        print(f"trained on them: {version.ref}  {version.manifest.type}; train it again, or withdraw it")
    return 0


def ratings(arguments: argparse.Namespace) -> int:
    """`align review ratings REF`: exits with 1 if there are none."""
    store = Store.open(arguments.artifacts)
    exports = _exports_behind(store, open_version(store, arguments.ref))
    if not exports:
        print(f"there are no ratings behind {arguments.ref} in this store")
        return ExitCode.FAILED
    for version in exports:
        check_version(store, version)
        rows = _read_ratings(version)
        if arguments.json:
            for row in rows:
                print(readable_json({"dataset": version.ref, **row}))
            continue
        count = Counter(row["rater"] for row in rows)
        campaign = printable(str(version.manifest.notes.get("campaign")))
        print(f"{version.ref}  campaign {campaign}, {len(rows)} ratings")
        for rater in sorted(count, key=agreement.natural):
            verdicts = Counter(row["verdict"] for row in rows if row["rater"] == rater).most_common()
            listed = ", ".join(f"{number} {printable(verdict)}" for verdict, number in verdicts)
            print(f"  {printable(rater)}  {count[rater]} ratings: {listed}")
    return 0


def invite(arguments: argparse.Namespace) -> int:
    """`align review invite`."""
    token = security.new_token()

    def work(tx: sa.Connection) -> None:
        now = time.time()
        campaign = _campaign(tx, arguments.campaign) if arguments.campaign else None
        expires = now + INVITE_SECONDS
        number = campaign.id if campaign else None
        people.add_invite(tx, security.digest(token), role=arguments.role, campaign_id=number, expires=expires)
        campaigns.note(tx, None, "invite", arguments.campaign or "-", {"role": arguments.role}, now=now)

    _now(_database(arguments), work)
    print(f"{arguments.url.rstrip('/')}/invite/{token}")
    return 0


def ls(arguments: argparse.Namespace) -> int:
    """`align review ls`."""

    def work(tx: sa.Connection) -> list[str]:
        lines = []
        for campaign in campaigns.all_campaigns(tx):
            count = len(agreement.counted(current(tx, campaign.id)))
            wanted = campaign.settings.overlap * campaigns.count_items(tx, campaign.id, gold=False)
            raters = len(people.members(tx, campaign.id))
            lines.append(f"{campaign.name}  {campaign.state}  {count} of {wanted} ratings, {raters} raters")
        return lines

    database = _database(arguments)
    lines = _now(database, work)
    print(
        "\n".join(lines)
        or f"{database} has no campaigns yet; create one: align review load comparisons:v1 --campaign NAME"
    )
    return 0


ACTIONS = {
    "serve": serve,
    "load": load,
    "export": export,
    "recall": recall,
    "ratings": ratings,
    "invite": invite,
    "ls": ls,
}


def _exports_behind(store: Store, version: Version) -> list[Version]:
    """The exported datasets that `version` was made from, directly or through others; or `version`, if it is one."""
    exports, waiting, seen = [], [version], set()
    while waiting:
        ancestor = waiting.pop()
        if ancestor.ref in seen:
            continue
        seen.add(ancestor.ref)
        if is_export(ancestor):
            exports.append(ancestor)
        waiting += [parent.version for parent in store.parents(ancestor) if parent.version]
    return sorted(exports, key=lambda export: export.ref)


def _read_ratings(version: Version) -> list[dict[str, Any]]:
    """The ratings that an exported dataset keeps. Raises UserError: one that was pulled may hold anything."""
    rows = []
    for number, line in enumerate(read_file(version, RATINGS_FILE).split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
            if not isinstance(row["rater"], str) or not isinstance(row["verdict"], str):
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UserError(f"{version.ref}: line {number} of {RATINGS_FILE} is not a rating") from None
        rows.append(row)
    return rows


def _place(arguments: argparse.Namespace) -> Path:
    """The private folder of the review app, in the artifact directory."""
    folder = Store.open(arguments.artifacts).root / ".review"
    make_folder(folder, 0o700)
    return folder


def _database(arguments: argparse.Namespace, patience: float = PATIENCE) -> Database:
    named = arguments.database or os.environ.get("ALIGN_REVIEW_DATABASE")
    return Database(named or str(_place(arguments) / "review.db"), patience)


def _now(database: Database, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Do `work` on tables that are up to date; what the app would refuse is a UserError."""

    def whole(tx: sa.Connection) -> T:
        migrate(tx)
        return work(tx, *args, **kwargs)

    try:
        return database.now(whole)
    except Refused as error:
        raise UserError(error.detail) from None


def _campaign(tx: sa.Connection, name: str) -> Campaign:
    campaign = campaigns.find_campaign(tx, name)
    if campaign is None:
        known = ", ".join(known.name for known in campaigns.all_campaigns(tx)) or "none"
        raise UserError(f"there is no campaign {name!r} (campaigns: {known})")
    return campaign


def _name(text: str) -> str:
    from align.artifacts.refs import check_word

    return check_word(text[:64], "campaign")


def _gates(arguments: argparse.Namespace) -> dict[str, float]:
    """The gates that the command line sets."""
    return {name: value for name in Gates.model_fields if (value := getattr(arguments, name)) is not None}


def _checked(model, values: dict):
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][-1]).replace("_", "-")
        raise UserError(f"--{name} is {first.get('input')!r}: {first['msg']}") from None


def _read(file: str) -> str:
    try:
        return Path(file).expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read ({error}); correct the path") from None
