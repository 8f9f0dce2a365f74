"""Functions that the config names as `path/to/file.py:function` or `package.module:function`: the judge, and rewards.

Only the config names code, never an artifact.
"""

import importlib
import importlib.util
import math
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from align.config.paths import local_path
from align.data.tokens.chat_template import text_of
from align.errors import UserError


def load_judge(name: str) -> Callable[[Any, str], float]:
    """`judge(prompt, completion) -> float`, the score of a completion; a failing judge is told by its name.

    Args:
        name: `file.py:function`, the file from the working folder or else from the project's root, or
            `package.module:function`.

    Raises:
        UserError: there is no such file, module or function, or it cannot be loaded. So does the judge, naming the
            prompt, if the function raises or gives no finite number.
    """
    score = load_function(name, "evaluate.judge")

    def judge(prompt: Any, completion: str) -> float:
        case = f"evaluate.judge={name!r} on prompt {text_of(prompt)!r}, completion {completion!r}"
        try:
            number = float(score(prompt, completion))
        except Exception as error:
            raise UserError(f"{case}: {_told(error)}; mend the judge") from error
        if not math.isfinite(number):
            raise UserError(f"{case}: it gives {number}, which is no score; mend the judge")
        return number

    return judge


def load_function(name: str, key: str) -> Callable[..., Any]:
    """The function that the config's `key` names.

    Raises:
        UserError: there is no such file, module or function, or it cannot be loaded.
    """
    place, _, function = name.rpartition(":")
    if not place or not function.isidentifier():
        raise UserError(f"{key}={name!r} names no function; write file.py:function or package.module:function")
    found = getattr(_load_module(f"{key}={name!r}", place), function, None)
    if not callable(found):
        raise UserError(f"{key}={name!r}: {place} has no function {function}")
    return found


def _load_module(where: str, place: str) -> ModuleType:
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        file = local_path(place)
        if not file.is_file():
            raise UserError(f"{where}: there is no file {file}; correct the path")
        spec = importlib.util.spec_from_file_location(f"named_{file.stem}", file)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise UserError(f"{where}: {error}; install it, or name a file") from error
    except Exception as error:
        raise UserError(f"{where} cannot be loaded: {_told(error)}; mend it") from error


def _told(error: Exception) -> str:
    """An error of the user's own code, with the line that it came from."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(last.filename).name}, line {last.lineno})"
