"""People, the links that invite them, and who belongs to which campaign. Exports know a person by the handle alone."""

import secrets
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from align.review.errors import Conflict
from align.review.tables import campaign, invite, membership, person, session


@dataclass(frozen=True)
class Person:
    """Somebody who signs in."""

    id: int
    handle: str
    name: str | None
    role: str
    disabled: bool

    @property
    def is_admin(self) -> bool:
        return self.role == "admin"


_PERSON = (person.c.id, person.c.handle, person.c.name, person.c.role, person.c.disabled)
_SESSION = (
    sa.select(*_PERSON)
    .join(session)
    .where(
        session.c.digest == sa.bindparam("known"),
        session.c.expires > sa.bindparam("now"),
        person.c.disabled.is_(False),
    )
)


def add_person(
    tx: sa.Connection, *, role: str, now: float, name: str | None = None, password: str | None = None
) -> Person:
    """A new person under a handle of their own (r1, r2, ...); `password` is hashed already."""
    # Until its number is known the handle is something else that is unique.
    values = {"handle": secrets.token_hex(16), "name": name, "role": role, "password": password, "disabled": False}
    made = tx.execute(sa.insert(person).values(**values, created=now).returning(person.c.id)).scalar_one()
    tx.execute(sa.update(person).where(person.c.id == made).values(handle=f"r{made}"))
    return Person(made, f"r{made}", name, role, False)


def person_by_handle(tx: sa.Connection, handle: str) -> Person | None:
    row = tx.execute(sa.select(*_PERSON).where(person.c.handle == handle)).first()
    return Person(*row) if row else None


def person_by_name(tx: sa.Connection, name: str) -> Person | None:
    row = tx.execute(sa.select(*_PERSON).where(person.c.name == name)).first()
    return Person(*row) if row else None


def credentials(tx: sa.Connection, name: str) -> tuple[Person, str] | None:
    """The person who signs in as `name`, and the hash of the password."""
    row = tx.execute(sa.select(*_PERSON, person.c.password).where(person.c.name == name)).first()
    return (Person(*row[:-1]), row[-1]) if row and row[-1] and not row.disabled else None


def set_password(tx: sa.Connection, person_id: int, password: str) -> None:
    """Change a password; every session of that person ends with it."""
    tx.execute(sa.update(person).where(person.c.id == person_id).values(password=password))
    end_sessions(tx, person_id)


def set_disabled(tx: sa.Connection, person_id: int, disabled: bool) -> None:
    """Shut somebody out, at once, or let them in again."""
    tx.execute(sa.update(person).where(person.c.id == person_id).values(disabled=disabled))
    if disabled:
        end_sessions(tx, person_id)


def everybody(tx: sa.Connection) -> list[Person]:
    return [Person(*row) for row in tx.execute(sa.select(*_PERSON).order_by(person.c.id))]


def has_admin(tx: sa.Connection) -> bool:
    """Whether anybody can run campaigns yet."""
    found = sa.select(person.c.id).where(person.c.role == "admin", person.c.disabled.is_(False))
    return tx.execute(found.limit(1)).first() is not None


# -- campaigns they belong to ----------------------------------------------------------------------------------------


def join(tx: sa.Connection, campaign_id: int, person_id: int) -> None:
    """Let a person rate in a campaign; nothing is done for one who may already."""
    if not is_member(tx, campaign_id, person_id):
        values = {"random_cursor": -1.0, "uncertain_cursor": -1.0, "issued": 0}
        tx.execute(sa.insert(membership).values(campaign_id=campaign_id, person_id=person_id, **values))


def is_member(tx: sa.Connection, campaign_id: int, person_id: int) -> bool:
    where = (membership.c.campaign_id == campaign_id, membership.c.person_id == person_id)
    return tx.execute(sa.select(membership.c.issued).where(*where)).first() is not None


def members(tx: sa.Connection, campaign_id: int) -> list[Person]:
    joined = sa.select(*_PERSON).join(membership).where(membership.c.campaign_id == campaign_id)
    return [Person(*row) for row in tx.execute(joined.order_by(person.c.id))]


# -- invitations -----------------------------------------------------------------------------------------------------


def add_invite(tx: sa.Connection, digest: str, *, role: str, campaign_id: int | None, expires: float) -> None:
    tx.execute(sa.insert(invite).values(digest=digest, role=role, campaign_id=campaign_id, expires=expires))


def drop_admin_invites(tx: sa.Connection) -> None:
    """Links for a first admin that nobody has followed."""
    tx.execute(sa.delete(invite).where(invite.c.role == "admin", invite.c.used_by.is_(None)))


def find_invite(tx: sa.Connection, digest: str, now: float) -> sa.Row | None:
    """(role, campaign_id, campaign's name) of an invitation that can still be accepted."""
    found = (
        sa.select(invite.c.role, invite.c.campaign_id, campaign.c.name.label("campaign"))
        .outerjoin(campaign)
        .where(invite.c.digest == digest, invite.c.used_by.is_(None), invite.c.expires > now)
    )
    return tx.execute(found).first()


def accept_invite(tx: sa.Connection, digest: str, *, name: str, password: str, now: float) -> Person:
    """The new person, in the invitation's campaign.

    Raises:
        Conflict: the invitation is used up or too old, or nobody may be called so.
    """
    row = find_invite(tx, digest, now)
    if row is None:
        raise Conflict("invitation_used")
    if ":" in name:  # import:alice stands for somebody who rated elsewhere
        raise Conflict("name_taken")
    try:
        made = add_person(tx, role=row.role, now=now, name=name, password=password)
    except IntegrityError:
        raise Conflict("name_taken") from None
    taken = sa.update(invite).where(invite.c.digest == digest, invite.c.used_by.is_(None)).values(used_by=made.id)
    if tx.execute(taken).rowcount != 1:
        raise Conflict("invitation_used")
    if row.campaign_id is not None:
        join(tx, row.campaign_id, made.id)
    return made


# -- sessions --------------------------------------------------------------------------------------------------------


def add_session(tx: sa.Connection, digest: str, person_id: int, *, now: float, expires: float) -> None:
    tx.execute(sa.delete(session).where(session.c.expires < now))
    tx.execute(sa.insert(session).values(digest=digest, person_id=person_id, created=now, expires=expires))


def session_person(tx: sa.Connection, digest: str, now: float) -> Person | None:
    """Whose session this is, while it lasts and the person is not shut out."""
    row = tx.execute(_SESSION, {"known": digest, "now": now}).first()
    return Person(*row) if row else None


def end_session(tx: sa.Connection, digest: str) -> None:
    tx.execute(sa.delete(session).where(session.c.digest == digest))


def end_sessions(tx: sa.Connection, person_id: int) -> None:
    """End every session of a person."""
    tx.execute(sa.delete(session).where(session.c.person_id == person_id))
