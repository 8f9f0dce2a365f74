"""Functions named in the config: `path/to/file.py:function` or `package.module:function`.

Only the config names code, never an artifact.
"""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

from align.errors import UserError


def load_judge(name: str, *, roots: list[Path]) -> Callable[..., float]:
    """The function that scores a completion: `judge(prompt, completion: str) -> float`.

    Args:
        name: `file.py:function`, the file relative to one of `roots`, or `package.module:function`.
        roots: folders to look in, in order.

    Raises:
        UserError: there is no such file, module or function.
    """
    place, _, function = name.rpartition(":")
    if not place or not function.isidentifier():
        raise UserError(
            f"evaluate.judge={name!r} names no function; write file.py:function or package.module:function"
        )
    if place.endswith(".py"):
        file = next((root / place for root in roots if (root / place).is_file()), None)
        if file is None:
            raise UserError(f"evaluate.judge={name!r}: there is no file {place} in {' or '.join(map(str, roots))}")
        spec = importlib.util.spec_from_file_location(file.stem, file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        try:
            module = importlib.import_module(place)
        except ModuleNotFoundError as error:
            raise UserError(f"evaluate.judge={name!r}: {error}; install it or name a file") from error
    if not callable(getattr(module, function, None)):
        raise UserError(f"evaluate.judge={name!r}: {place} has no function {function}")
    return getattr(module, function)
