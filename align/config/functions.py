"""How the config names a function of the user's: as text, or as a mapping with the function's parameters.

`file.py:function`, `package.module:function`, `package.module.function`, or
`{function: <one of these>, <parameter>: <value>}`.
"""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from align.errors import UserError

FUNCTION = "function"


def describe(spec: str | Mapping[str, Any]) -> str:
    """The name of the function, for people."""
    return spec if isinstance(spec, str) else str(spec.get(FUNCTION))


def split_name(spec: str | Mapping[str, Any], label: str) -> tuple[str, str, dict[str, Any]]:
    """File or module, function and parameters.

    Args:
        label: the key and what it holds, at the beginning of a message.

    Raises:
        UserError: it names no function.
    """
    parameters = dict(spec) if isinstance(spec, Mapping) else {}
    name = parameters.pop(FUNCTION, None) if isinstance(spec, Mapping) else spec
    if not isinstance(name, str):
        raise UserError(f"{label}: a mapping needs the key function, such as {{function: align.rewards.math_answer}}")
    place, colon, function = name.rpartition(":")
    if not colon and not name.endswith(".py"):
        place, _, function = name.rpartition(".")
    if not place or not function.isidentifier():
        raise UserError(f"{label} names no function; write file.py:function or package.module:function")
    return place, function, parameters


def version_of(spec: str | Mapping[str, Any]) -> str | None:
    """What a function's scores depend on next to its own code: the version of math-verify, for `math_answer`."""
    try:
        place, function, _ = split_name(spec, "")
        return version("math-verify") if (place, function) == ("align.rewards", "math_answer") else None
    except (UserError, PackageNotFoundError):
        return None


def place_of(spec: str | Mapping[str, Any]) -> str:
    """The file or module of the function, or the text itself where it names none."""
    try:
        return split_name(spec, "")[0]
    except UserError:
        return describe(spec)
