"""Python code that comes with a model. An artifact holds data only, so it says where on the Hub its code is.

transformers' `auto_map` names a class as `file.Class`, in the model's own folder, or as `org/name--file.Class`, in a
repository; either way it is run only by who trusts it (`trust_remote_code=True`).
"""

import json
from pathlib import Path
from typing import Any

from align.artifacts.inputs import Input, parse_hub
from align.errors import UserError

_CONFIGS = ("config.json", "tokenizer_config.json")


def check_code(given: Input) -> None:
    """The code of a model that is trained can be found again by who loads what comes of it.

    Raises:
        UserError: it is in a local folder alone.
    """
    if given.kind == "path" and any(given.path.glob("*.py")):
        raise UserError(
            f"{given.text} comes with Python code of its own, and an artifact holds data only: put the model on the "
            "Hugging Face Hub and name it there (hf:org/name), or use an architecture that transformers has"
        )


def leave_code(folder: Path, source: Input) -> None:
    """Take the code that transformers saved with a model out of `folder`, and name the repository that has it.

    Args:
        source: what was trained: from the Hub, or itself an artifact that names a repository.
    """
    for file in folder.glob("*.py"):
        file.unlink()
    for name in _CONFIGS:
        settings, before = _read(folder / name), _read(source.path / name)
        if "auto_map" not in settings:
            continue
        theirs = before.get("auto_map", {})
        for key, value in settings["auto_map"].items():
            if source.kind == "hub":
                settings["auto_map"][key] = _in_repository(parse_hub(source.ref)[0], value)
            else:
                settings["auto_map"][key] = theirs.get(key, value)
        (folder / name).write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _in_repository(repository: str, value: Any) -> Any:
    """`file.Class`, or a list of such, as found in a repository; what names one already stays."""
    if isinstance(value, list):
        return [_in_repository(repository, one) for one in value]
    return value if value is None or "--" in value else f"{repository}--{value}"


def _read(file: Path) -> dict:
    return json.loads(file.read_text("utf-8")) if file.is_file() else {}
