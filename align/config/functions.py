"""How the config names a function of the user's: as text, or as a mapping with the function's parameters.

`file.py:function`, `package.module:function`, `package.module.function`, or
`{function: <one of these>, <parameter>: <value>}`. A package may give its functions names of one word, with the entry
points `align.rewards` and `align.judges`.
"""

from collections.abc import Mapping
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from typing import Any

from align.errors import UserError

FUNCTION = "function"
ENTRY_POINTS = ("align.rewards", "align.judges")


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
    if name.isidentifier():
        name = _named(name, label).value
    place, colon, function = name.rpartition(":")
    if not colon and not name.endswith(".py"):
        place, _, function = name.rpartition(".")
    if not place or not function.isidentifier():
        raise UserError(f"{label} names no function; write file.py:function or package.module:function")
    return place, function, parameters


def _named(name: str, label: str) -> EntryPoint:
    """The entry point of that name. Raises UserError where there is none, or there are several."""
    entries = [entry for group in ENTRY_POINTS for entry in entry_points(group=group)]
    found = {entry.value: entry for entry in entries if entry.name == name}
    if len(found) > 1:
        raise UserError(f"{label}: {name} is the name of {' and of '.join(sorted(found))}; write the one you mean")
    if not found:
        names = ", ".join(sorted({entry.name for entry in entries})) or "none"
        raise UserError(
            f"{label} names no function; write file.py:function or package.module:function, or a name that an "
            f"installed package gives (there are: {names})"
        )
    return next(iter(found.values()))


def version_of(spec: str | Mapping[str, Any]) -> str | None:
    """What a function's scores depend on next to its own code.

    That is the version of math-verify for `math_answer`, and of the package for a name that a package gives.
    """
    name = spec.get(FUNCTION) if isinstance(spec, Mapping) else spec
    try:
        if isinstance(name, str) and name.isidentifier():
            package = _named(name, "").dist
            return package.version if package else None
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
