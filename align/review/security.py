"""Tokens, passwords, and the secret of an installation."""

import asyncio
import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from align.errors import UserError

T = TypeVar("T")
SECRET_BYTES = 32
SECRET_VARIABLE = "ALIGN_REVIEW_SECRET"
SHORTEST_PASSWORD = 10
LONGEST_PASSWORD = 256
_WELL_KNOWN = ("secret", "changeme", "change-me", "password", "insecure", "default", "example", "align")
_HASHER = PasswordHasher()
# 64 MiB and a tenth of a second each: many sign-ins at once must fill neither the memory nor the threads of others.
_HASHING = ThreadPoolExecutor(2, "passwords")


def new_token() -> str:
    """256 bits that nobody can guess."""
    return secrets.token_urlsafe(32)


def digest(token: str) -> str:
    """What is kept of a token: with it alone nobody gets in."""
    return hashlib.sha256(token.encode()).hexdigest()


def load_secret(file: Path) -> bytes:
    """The secret of this installation: $ALIGN_REVIEW_SECRET, else the file, which the first start makes (mode 0600).

    Raises:
        UserError: it is empty, too short or well known, or others may read it.
    """
    given = os.environ.get(SECRET_VARIABLE)
    if given is not None:
        return _checked(given, f"${SECRET_VARIABLE}")
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error.strerror}); name another place: --database") from None
    else:
        with os.fdopen(handle, "w") as made:
            made.write(secrets.token_hex(SECRET_BYTES) + "\n")
    if stat.S_IMODE(file.stat().st_mode) & 0o077:
        raise UserError(f"{file} can be read by others; chmod 600 it, or delete it to have a new one made")
    return _checked(file.read_text().strip(), str(file))


def _checked(text: str, where: str) -> bytes:
    weak = len(text) < SECRET_BYTES or len(set(text)) < 8 or any(word in text.lower() for word in _WELL_KNOWN)
    if weak:
        raise UserError(
            f"the secret in {where} is empty, short or well known; make one: python -c 'import secrets; "
            "print(secrets.token_hex(32))'"
        )
    return text.encode()


def csrf_token(secret: bytes, token: str) -> str:
    """What a form must carry, from the token in the cookie: a page elsewhere can know neither."""
    return hmac.new(secret, b"csrf:" + token.encode(), hashlib.sha256).hexdigest()


def same(token: str, expected: str) -> bool:
    """Whether two tokens are equal; the time it takes does not depend on how nearly they are.

    A form can hold half a surrogate pair, which UTF-8 cannot.
    """
    return hmac.compare_digest(token.encode("utf-8", "replace"), expected.encode())


def hash_password(password: str) -> str:
    """argon2id, with its salt and parameters."""
    return _HASHER.hash(password)


def is_password(password: str, encoded: str | None) -> bool:
    """Whether the password is right; takes as long where there is nobody to compare with."""
    try:
        return _HASHER.verify(encoded or _nobody(), password) and encoded is not None
    except (VerificationError, InvalidHashError):
        return False


async def in_turn(work: Callable[..., T], *arguments: str | None) -> T:
    """Run `hash_password` or `is_password` in one of the threads for them."""
    return await asyncio.get_running_loop().run_in_executor(_HASHING, work, *arguments)


@cache
def _nobody() -> str:
    """The hash of a password that no one has."""
    return _HASHER.hash(secrets.token_hex(16))
