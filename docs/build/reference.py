"""Writes docs/reference/: commands from argparse, configuration from the schema, stages from their declarations.

python docs/build/reference.py          # after a change; a test compares the pages with the program
"""

import argparse
import dataclasses
import inspect
import re
import sys
from pathlib import Path
from typing import Any, get_type_hints

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT))

from align import cli  # noqa: E402
from align.config import schema  # noqa: E402
from align.errors import ExitCode  # noqa: E402
from align.stages.spec import STAGES  # noqa: E402

REFERENCE = PROJECT / "docs" / "reference"


def commands() -> str:
    """Every command of `align`, with its arguments."""
    lines = ["# Commands", "", "`align run` and `align pipeline` take Hydra overrides: `align run --help`.", ""]

    def describe(parser: argparse.ArgumentParser) -> None:
        actions = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
        nested = next((action for action in actions if isinstance(action, argparse._SubParsersAction)), None)
        if nested is not None:
            for name, sub in nested.choices.items():
                if sub.prog.count(" ") == 1:
                    about = next((choice.help for choice in nested._choices_actions if choice.dest == name), "")
                    lines.extend([f"## `{sub.prog}`", "", f"{_sentence(about)}", ""])
                describe(sub)
            return
        if parser.prog.count(" ") > 1:
            lines.extend([f"### `{parser.prog}`", "", _sentence(parser.description or ""), ""])
        rows = [(_flags(action), _text(action.help)) for action in actions if action.help != argparse.SUPPRESS]
        if rows:
            lines.extend(
                ["| argument | meaning |", "|---|---|", *(f"| `{flag}` | {help} |" for flag, help in rows), ""]
            )

    describe(cli.build_parser())
    return "\n".join(lines).rstrip() + "\n"


def configuration() -> str:
    """Every key of a config, from the dataclasses and their comments."""
    lines = [
        "# Configuration",
        "",
        "Every key of a stage's config. `trainer` is TRL's config class, field for field.",
        "",
    ]

    def describe(cls: type, path: str) -> None:
        comments, inner = _comments(cls), []
        lines.extend([f"## `{path[:-1] or 'top level'}`", ""])
        if cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}("):
            lines.extend([inspect.cleandoc(cls.__doc__), ""])
        lines.extend(["| key | default | meaning |", "|---|---|---|"])
        for field in dataclasses.fields(cls):
            nested = _dataclass_in(get_type_hints(cls)[field.name])
            if nested is not None:
                inner.append((nested, f"{path}{field.name}."))
                continue
            choices = field.metadata.get("choices")
            words = f"one of {', '.join(choices)}" if choices else ""
            meaning = "; ".join(filter(None, (words, comments.get(field.name, ""))))
            lines.append(f"| `{path}{field.name}` | `{_default(field)}` | {_text(meaning)} |")
        lines.append("")
        for nested, name in inner:
            describe(nested, name)

    describe(schema.Config, "")
    text = "\n".join(lines)
    # the five formats have the same keys: one section stands for all
    for format in schema.FORMATS[1:]:
        text = re.sub(rf"## `data\.{format}`\n.*?(?=\n## )", "", text, flags=re.S)
    text = text.replace(f"data.{schema.FORMATS[0]}", "data.<format>")
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def stages() -> str:
    """What each stage reads and publishes."""
    lines = [
        "# Stages",
        "",
        "A role in italics is optional. An entry point adds a stage: `examples/plugin_stage`.",
        "",
    ]
    lines += ["| stage | `trainer` | data | inputs | publishes |", "|---|---|---|---|---|"]
    for name, spec in STAGES.items():
        roles = [
            f"{'' if role.required else '*'}{key}{'' if role.required else '*'}: {' or '.join(role.types)}"
            + (" (several)" if role.many else "")
            for key, role in spec.inputs.items()
        ]
        trainer = f"`{spec.trainer_config}`" if spec.trainer_config else "-"
        formats = ", ".join(spec.formats) or "any dataset with answers"
        lines.append(f"| `{name}` | {trainer} | {formats} | {'; '.join(roles)} | {spec.produces} |")
    lines += ["", "## Metrics that a list shows", "", "| stage | metric | better |", "|---|---|---|"]
    for name, spec in STAGES.items():
        for headline in spec.headlines:
            better = {True: "higher", False: "lower", None: "-"}[headline.higher]
            lines.append(f"| `{name}` | `{headline.metric}` | {better} |")
    return "\n".join(lines) + "\n"


def exit_codes() -> str:
    """What every command exits with."""
    lines = ["# Exit codes", "", "`align`, `launch/run.py` and `launch/pipeline.py` exit with:", ""]
    lines += ["| code | meaning |", "|---|---|", *(f"| {int(code)} | {code.meaning} |" for code in ExitCode)]
    lines += ["", "A sweep exits with the code of the first run that did not end with 0."]
    return "\n".join(lines) + "\n"


def _comments(cls: type) -> dict[str, str]:
    """Field -> the comment behind it, or above it."""
    comments: dict[str, str] = {}
    above: list[str] = []
    for line in inspect.getsource(cls).splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            above.append(stripped.lstrip("# "))
        elif match := re.match(r"(\w+): [^#]*(?:  # (.*))?$", stripped):
            comments[match[1]] = match[2] or " ".join(above)
            above = []
        elif comments and (match := re.search(r"  # (.*)$", stripped)):  # inside a field that takes several lines
            last = list(comments)[-1]
            comments[last] = comments[last] or match[1]
    return comments


def _default(field: dataclasses.Field) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return str(field.default_factory())
    words = {None: "null", True: "true", False: "false", dataclasses.MISSING: "required"}
    return next((word for value, word in words.items() if field.default is value), str(field.default))


def _dataclass_in(hint: Any) -> type | None:
    return next((part for part in (hint, *getattr(hint, "__args__", ())) if dataclasses.is_dataclass(part)), None)


def _flags(action: argparse.Action) -> str:
    name = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
    name = name if isinstance(name, str) else " ".join(name)
    return " ".join(filter(None, [", ".join(action.option_strings), name])).replace("|", "/")


def _text(text: str | None) -> str:
    return (text or "").replace("|", "\\|").replace("<", "&lt;").replace("%%", "%")


def _sentence(text: str | None) -> str:
    text = _text(text).strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") or not text else ".")


PAGES = {
    "commands.md": commands,
    "configuration.md": configuration,
    "stages.md": stages,
    "exit-codes.md": exit_codes,
}

if __name__ == "__main__":
    for name, write in PAGES.items():
        (REFERENCE / name).write_text(write(), "utf-8")
