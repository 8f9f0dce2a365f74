"""Functions that the config names: `path/to/file.py:function`, `package.module:function` or `package.module.function`.

Where a function takes parameters, a mapping names both: `{function: align.rewards.format, tags: [think, answer]}`.
Only the config names code, never an artifact.
"""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from align.config.functions import describe, split_name
from align.config.paths import local_path
from align.data.loading.load import Loaded
from align.errors import UserError
from align.rewards.guard import guarded

REWARD_KEY = "online.reward_functions"
TRAINER_ARGUMENTS = ("trainer_state", "log_extra", "log_metric")
"""What TRL's online trainers hand to a reward function next to the columns."""


@dataclass(frozen=True)
class UserFunction:
    """A function that the config names, with the parameters given there.

    Attributes:
        key: the config's key that names it.
        label: how messages name it: `online.reward_functions='rules.py:score'`.
        name: the function's own name, as metrics use it.
        call: the function.
        parameters: name -> value, as the config gives them.
    """

    key: str
    label: str
    name: str
    call: Callable[..., Any]
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_async(self) -> bool:
        """Whether it is a coroutine function."""
        return inspect.iscoroutinefunction(self.call)

    @property
    def is_batched(self) -> bool:
        """Whether it takes lists, as a reward function does: it has a parameter `prompts` or `completions`."""
        signature = _signature(self.call)
        return signature is not None and bool({"prompts", "completions"} & signature.parameters.keys())

    def arguments(self, offered: Mapping[str, Any], *, given: int = 0) -> dict[str, Any]:
        """The keyword arguments of a call: what the function takes of `offered`, and its own parameters.

        Args:
            given: so many arguments are given by position.
        """
        signature = _signature(self.call)
        if signature is None:
            return dict(self.parameters) if given else {**offered, **self.parameters}
        taken = signature.parameters
        if any(one.kind is one.VAR_KEYWORD for one in taken.values()):
            taken = offered
        by_position = self._positional(signature)[:given]
        arguments = {name: value for name, value in offered.items() if name in taken and name not in by_position}
        return arguments | dict(self.parameters)

    def check_call(
        self, offered: Collection[str], columns: Collection[str], why_not: Mapping[str, str], *, given: int = 0
    ) -> None:
        """The function can be called with the arguments and columns there are, before anything is generated.

        Args:
            offered: names of the keyword arguments that every call has.
            columns: names of the data's columns.
            why_not: column -> why it is not among them.
            given: so many arguments are given by position.

        Raises:
            UserError: it needs an argument that nothing gives.
        """
        signature = _signature(self.call)
        if signature is None:
            return
        positional = self._positional(signature)
        anything = any(one.kind is one.VAR_POSITIONAL for one in signature.parameters.values())
        if len(positional) < given and not anything:
            raise UserError(f"{self.label} takes {len(positional)} arguments by position, and is called with {given}")
        for name, one in signature.parameters.items():
            if name in positional[:given] or one.default is not one.empty:
                continue
            if one.kind is one.POSITIONAL_ONLY:
                raise UserError(f"{self.label}: its parameter {name} is positional-only, but is given by keyword")
            if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) or name in (*self.parameters, *offered, *columns):
                continue
            reason = f" ({name} is not carried: {why_not[name]})" if name in why_not else ""
            have = f"have the columns {', '.join(sorted(columns))}" if columns else "have no columns"
            raise UserError(
                f"{self.label} needs {name}, and the prompts {have}{reason}; give every row a column {name}, name the "
                f"column that holds it (data.prompt_only.columns={{{name}: THEIRS}}), or set it as a parameter: "
                f"{{function: {self.name}, {name}: VALUE}}"
            )

    @staticmethod
    def _positional(signature: inspect.Signature) -> list[str]:
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return [name for name, one in signature.parameters.items() if one.kind in kinds]


def load_function(spec: str | Mapping[str, Any], key: str) -> UserFunction:
    """The function that the config's `key` names.

    Raises:
        UserError: there is no such file, module or function, it cannot be loaded, or it has no such parameter.
    """
    label = f"{key}={describe(spec)!r}"
    place, name, parameters = split_name(spec, label)
    found = getattr(_load_module(label, place), name, None)
    if not callable(found):
        raise UserError(f"{label}: {place} has no function {name}")
    function = UserFunction(key, label, name, found, parameters)
    _check_parameters(function)
    return function


def check_functions(specs: Sequence[str | Mapping[str, Any]], splits: Sequence[Loaded]) -> list[UserFunction]:
    """The reward functions that the config names, which TRL's trainers can call on these records.

    Raises:
        UserError: one cannot be loaded, or needs a column that the records of a split do not have.
    """
    functions = [load_function(spec, REWARD_KEY) for spec in specs]
    offered = ("prompts", "completions", "completion_ids", *TRAINER_ARGUMENTS)
    for function in functions:
        for loaded in splits:
            function.check_call(offered, loaded.carried, loaded.not_carried)
    return functions


def _check_parameters(function: UserFunction) -> None:
    signature = _signature(function.call)
    if signature is None:
        return
    by_keyword = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named = {name: one for name, one in signature.parameters.items() if one.kind in by_keyword}
    for name in function.parameters:
        if name not in named:
            has = f"it has {', '.join(named)}" if named else "it has none"
            raise UserError(f"{function.label}: {function.name} has no parameter {name}; {has}")
    if (function.call.__module__ or "").startswith("align.rewards."):
        # ours look at their parameters even if there is no completion
        lists = {name: [] for name, one in named.items() if one.default is one.empty}
        with guarded(function.label):
            function.call(**lists | dict(function.parameters))


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):  # some functions written in C do not say what they take
        return None


def _load_module(label: str, place: str) -> ModuleType:
    file = local_path(place) if place.endswith(".py") else None
    if file is not None and not file.is_file():
        raise UserError(f"{label}: there is no file {file}; correct the path")
    with guarded(f"{label}: loading {place}"):
        try:
            return importlib.import_module(place) if file is None else _execute(file)
        except ModuleNotFoundError as error:
            raise UserError(f"{label}: {error}; install it, or name a file") from error


def _execute(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"named_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
