"""Does a value fit an annotation that is known only as text, such as `int | None`?

The schema's annotations and those of TRL's and transformers' dataclasses (read from their source, not imported) are
checked by this one reader.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from typing import Any

UNFIT = object()
_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "None": "null"}
_PLURALS = {
    "dict[str, Any]": "mappings",
    "int": "whole numbers",
    "float": "numbers",
    "bool": "booleans",
    "str": "texts",
}


def fit(value: Any, annotation: str, loose: bool = False) -> Any:
    """`value` as the annotation wants it, or UNFIT. `loose`: a bare number or boolean may stand for text."""
    for slack in (False, True) if loose else (False,):
        fitted = _fit(value, _parse(annotation), slack)
        if fitted is not UNFIT:
            return fitted
    return UNFIT


def words(annotation: str) -> str:
    """The annotation for people: `int | None` is "a whole number or null"."""
    return " or ".join(dict.fromkeys(_word(side) for side in _sides(_parse(annotation))))


def nearest(name: str, names: Iterable[str], path: str = "") -> str:
    """`; did you mean path.X?` where one of `names` is near, or has `name` as its initials (`lr`), else nothing."""
    names = list(names)
    near = [one for one in names if "_" in one and "".join(word[:1] for word in one.split("_")) == name]
    near = near or get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean {path}{near[0]}?" if near else ""


@cache
def _parse(annotation: str) -> ast.expr:
    return ast.parse(annotation, mode="eval").body


def _sides(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp):
        return _sides(node.left) + _sides(node.right)
    return [node]


def _fit(value: Any, node: ast.expr, loose: bool) -> Any:
    for side in _sides(node):
        fitted = _fit_one(value, side, loose)
        if fitted is not UNFIT:
            return fitted
    return UNFIT


def _fit_one(value: Any, node: ast.expr, loose: bool) -> Any:
    if isinstance(node, ast.Subscript):
        outer, inner = ast.unparse(node.value), node.slice
        if outer == "Literal":
            allowed = [e.value for e in (inner.elts if isinstance(inner, ast.Tuple) else [inner])]
            return value if any(value is a or (value == a and type(value) is type(a)) for a in allowed) else UNFIT
        if outer == "list" and isinstance(value, list):
            fitted = [_fit(item, inner, loose) for item in value]
            return UNFIT if any(item is UNFIT for item in fitted) else fitted
        if outer == "dict" and isinstance(value, dict):
            fitted = {str(key): _fit(item, inner.elts[1], loose) for key, item in value.items()}
            return UNFIT if any(item is UNFIT for item in fitted.values()) else fitted
        return UNFIT
    name = ast.unparse(node)
    if name == "Any":
        return value
    if name == "None":
        return value if value is None else UNFIT
    if name == "bool":
        return value if isinstance(value, bool) else UNFIT
    if name == "int":
        return value if isinstance(value, int) and not isinstance(value, bool) else UNFIT
    if name == "float":
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) else UNFIT
    if name in ("list", "dict"):
        return value if isinstance(value, {"list": list, "dict": dict}[name]) else UNFIT
    # str, or the name of a class: in transformers those beside `str` are enums of words
    if isinstance(value, str):
        return value
    if loose and name == "str" and isinstance(value, (bool, int, float)):
        return str(value).lower() if isinstance(value, bool) else str(value)
    return UNFIT


def _word(node: ast.expr) -> str:
    if isinstance(node, ast.Subscript):
        outer, inner = ast.unparse(node.value), node.slice
        if outer == "Literal":
            return ast.unparse(inner).lower()
        if outer == "list":
            return "a list of " + " or ".join(_PLURALS.get(ast.unparse(side), "texts") for side in _sides(inner))
        return "a mapping"
    name = ast.unparse(node)
    return {"dict": "a mapping", "list": "a list", "Any": "anything"}.get(name) or _WORDS.get(name, "text")
