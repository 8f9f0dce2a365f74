"""People, invitations, sessions, and the members of campaigns. Exports contain a person's handle, never the name."""

import secrets
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from align.review.errors import Conflict
from align.review.tables import campaign, invite, membership, person, session


@dataclass(frozen=True)
class Person:
    """Somebody with an account, or who rated elsewhere."""

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
    """A new person with a handle of their own (r1, r2, ...); `password` is a hash."""
    # The handle contains the row's number, so until that is known it is something else that is unique.
    values = {"handle": secrets.token_hex(16), "name": name, "role": role, "password": password, "disabled": False}
    number = tx.execute(sa.insert(person).values(**values, created=now).returning(person.c.id)).scalar_one()
    tx.execute(sa.update(person).where(person.c.id == number).values(handle=f"r{number}"))
    return Person(number, f"r{number}", name, role, False)


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
    """Disable an account, at once, or enable it again."""
    tx.execute(sa.update(person).where(person.c.id == person_id).values(disabled=disabled))
    if disabled:
        end_sessions(tx, person_id)


def everybody(tx: sa.Connection) -> list[Person]:
    return [Person(*row) for row in tx.execute(sa.select(*_PERSON).order_by(person.c.id))]


def has_admin(tx: sa.Connection) -> bool:
    """Whether there is an admin yet."""
    query = sa.select(person.c.id).where(person.c.role == "admin", person.c.disabled.is_(False))
    return tx.execute(query.limit(1)).first() is not None


# -- campaigns they belong to ----------------------------------------------------------------------------------------


def join(tx: sa.Connection, campaign_id: int, person_id: int) -> None:
    """Make a person a member of a campaign, if they are not."""
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
    """Delete the unused invitations of admins."""
    tx.execute(sa.delete(invite).where(invite.c.role == "admin", invite.c.used_by.is_(None)))


def find_invite(tx: sa.Connection, digest: str, now: float) -> sa.Row | None:
    """(role, campaign_id, campaign's name) of an invitation that can still be accepted."""
    query = (
        sa.select(invite.c.role, invite.c.campaign_id, campaign.c.name.label("campaign"))
        .outerjoin(campaign)
        .where(invite.c.digest == digest, invite.c.used_by.is_(None), invite.c.expires > now)
    )
    return tx.execute(query).first()


def accept_invite(tx: sa.Connection, digest: str, *, name: str, password: str, now: float) -> Person:
    """The new person, in the invitation's campaign.

    Raises:
        Conflict: the invitation was used or has expired, or the name cannot be used.
    """
    row = find_invite(tx, digest, now)
    if row is None:
        raise Conflict("invitation_used")
    if ":" in name:  # import:alice stands for somebody who rated elsewhere
        raise Conflict("name_taken")
    try:
        new_person = add_person(tx, role=row.role, now=now, name=name, password=password)
    except IntegrityError:
        raise Conflict("name_taken") from None
    taken = (
        sa.update(invite).where(invite.c.digest == digest, invite.c.used_by.is_(None)).values(used_by=new_person.id)
    )
    if tx.execute(taken).rowcount != 1:
        raise Conflict("invitation_used")
    if row.campaign_id is not None:
        join(tx, row.campaign_id, new_person.id)
    return new_person


# -- sessions --------------------------------------------------------------------------------------------------------


def add_session(tx: sa.Connection, digest: str, person_id: int, *, now: float, expires: float) -> None:
    tx.execute(sa.delete(session).where(session.c.expires < now))
    tx.execute(sa.insert(session).values(digest=digest, person_id=person_id, created=now, expires=expires))


def session_person(tx: sa.Connection, digest: str, now: float) -> Person | None:
    """The person of a session that has not expired, unless the account is disabled."""
    row = tx.execute(_SESSION, {"known": digest, "now": now}).first()
    return Person(*row) if row else None


def end_session(tx: sa.Connection, digest: str) -> None:
    tx.execute(sa.delete(session).where(session.c.digest == digest))


def end_sessions(tx: sa.Connection, person_id: int) -> None:
    """End every session of a person."""
    tx.execute(sa.delete(session).where(session.c.person_id == person_id))
