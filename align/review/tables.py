"""The tables. Ratings are events that are only appended; the current ones are derived from them (`store.ratings`).

Times are seconds since the epoch, UTC. `migrations/` makes these tables; a test holds the two together.
"""

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)


def _where(condition: str) -> dict[str, object]:
    """A partial index, on both databases."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

campaign = Table(
    "campaign",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(128), nullable=False, unique=True),
    Column("settings", JSON, nullable=False),  # schemas.Settings
    Column("state", String(8), nullable=False),  # open, paused, closed
    Column("source", JSON, nullable=False),  # the comparisons artifacts: [{"ref", "digest", ...}]
    Column("created", Double, nullable=False),
)

person = Table(
    "person",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("handle", String(32), nullable=False, unique=True),  # the pseudonym, all that an export shows
    Column("name", String(64), unique=True),  # to sign in with
    Column("role", String(8), nullable=False),  # admin, rater
    Column("password", String(256)),  # argon2's encoded hash
    Column("disabled", Boolean, nullable=False),
    Column("created", Double, nullable=False),
)

membership = Table(
    "membership",
    metadata,
    Column("campaign_id", ForeignKey("campaign.id"), primary_key=True),
    Column("person_id", ForeignKey("person.id"), primary_key=True),
    # The rater's position in the order of each arm: every item before it was seen, or has all its ratings.
    Column("random_cursor", Double, nullable=False),
    Column("uncertain_cursor", Double, nullable=False),
    Column("issued", Integer, nullable=False),  # items assigned to this rater so far
)

invite = Table(
    "invite",
    metadata,
    Column("digest", String(64), primary_key=True),  # of the token in the link
    Column("role", String(8), nullable=False),
    Column("campaign_id", ForeignKey("campaign.id")),
    Column("expires", Double, nullable=False),
    Column("used_by", ForeignKey("person.id")),
)

session = Table(
    "session",
    metadata,
    Column("digest", String(64), primary_key=True),  # of the token in the cookie
    Column("person_id", ForeignKey("person.id"), nullable=False, index=True),
    Column("created", Double, nullable=False),
    Column("expires", Double, nullable=False),
)

item = Table(
    "item",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("campaign_id", ForeignKey("campaign.id"), nullable=False),
    Column("key", String(64), nullable=False),  # digest of prompt, both answers and tools
    Column("prompt", JSON, nullable=False),
    Column("a", JSON, nullable=False),
    Column("b", JSON, nullable=False),
    Column("tools", JSON(none_as_null=True)),  # tools that the answers may call
    Column("model_a", String(256)),  # the model that answered
    Column("model_b", String(256)),
    Column("author_a", String(32)),  # the handle of the person who wrote it, who never rates it
    Column("author_b", String(32)),
    Column("margin", Double),  # a reward model's score of a minus that of b
    Column("gold", String(16)),  # the right verdict, where it is known
    Column("arm", String(16), nullable=False),  # random, uncertain, gold
    Column("rank", Double, nullable=False),  # place in the arm's order
    Column("open", Integer, nullable=False),  # ratings that are still to be assigned
    UniqueConstraint("campaign_id", "key"),
    Index("ix_item_next", "campaign_id", "arm", "rank", **_where("open > 0")),
    Index("ix_item_gold", "campaign_id", "rank", **_where("gold is not null")),
)

assignment = Table(
    "assignment",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("campaign_id", ForeignKey("campaign.id"), nullable=False),
    Column("item_id", ForeignKey("item.id"), nullable=False),
    Column("person_id", ForeignKey("person.id"), nullable=False),
    Column("kind", String(8), nullable=False),  # main, gold, repeat
    Column("flipped", Boolean, nullable=False),  # b was shown on the left
    Column("state", String(10), nullable=False),  # leased, done, skipped, expired, withdrawn
    Column("issued", Double, nullable=False),
    Column("expires", Double, nullable=False),
    UniqueConstraint("item_id", "person_id", "kind"),
    Index("ix_assignment_leases", "campaign_id", "expires", **_where("state = 'leased'")),
    Index("ix_assignment_of_person", "person_id", "campaign_id", "state"),
)

event = Table(
    "event",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("campaign_id", ForeignKey("campaign.id"), nullable=False),
    Column("item_id", ForeignKey("item.id"), nullable=False, index=True),
    Column("assignment_id", ForeignKey("assignment.id")),  # none where an admin decided, or it was imported
    Column("person_id", ForeignKey("person.id"), nullable=False),
    Column("kind", String(12), nullable=False),  # rate, skip, undo, late, withdraw, adjudicate
    Column("key", String(64), nullable=False),  # the idempotency key: the same request again is the same event
    Column("verdict", String(16)),  # of the item's a and b, whichever side they were shown on
    Column("answers", JSON),  # rubric question -> answer
    Column("reason", Text),
    Column("flag", Boolean, nullable=False),  # harmful
    Column("milliseconds", Integer),  # between showing and sending
    Column("at", Double, nullable=False),
    UniqueConstraint("person_id", "key"),
    Index("ix_event_assignment_id_id", "assignment_id", "id"),
    Index("ix_event_campaign_id_id", "campaign_id", "id"),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Double, nullable=False),
    Column("person_id", ForeignKey("person.id")),
    Column("action", String(64), nullable=False),
    Column("target", String(256), nullable=False),
    Column("detail", JSON, nullable=False),
)
