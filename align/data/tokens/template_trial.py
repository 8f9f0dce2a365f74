"""A chat template that comes with a model is a program: it is run once in a process of its own, with limits.

The sandbox of transformers keeps a template from files and attributes, not from time and memory: two nested loops over
`range(100000)` never end, and `"%1000000000d" % 1` takes a gigabyte. What passes here is run without limits later.

The file is also the child's program, so it imports nothing of align at its top.
"""

import hashlib
import json
import subprocess
import sys
from functools import cache

SECONDS = 10  # of a core
BYTES = 1 << 30  # of memory
CHARACTERS = 10_000_000  # of the text that comes out
CONVERSATION = (
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "Thank you."},
)
_TOO_LONG, _TOO_LARGE = 3, 4  # exit codes


def check_template_runs(template: str, name: str, messages: list[dict] | None = None) -> None:
    """Render a short conversation in a child process; errors that the template raises itself are left for later.

    Args:
        template: the Jinja text.
        name: of the model, for the message.
        messages: a conversation of the data at hand, in place of one of three short messages.

    Raises:
        UserError: it did not end in time, or took too much memory, or wrote too long a text.
    """
    from align.errors import UserError

    if hashlib.sha256(template.strip().encode()).hexdigest() in _shipped():
        return
    if problem := _try(template, json.dumps(messages if messages is not None else CONVERSATION)):
        raise UserError(
            f"the chat template of {name} {problem} for a conversation of a few messages: it is broken or hostile. "
            "Use another model, or replace the template (model.chat_template, 'model.accept_drift=[chat_template]')"
        )


@cache
def _try(template: str, messages: str) -> str | None:
    """What is wrong with a template, in words; None if nothing is."""
    task = json.dumps({"template": template, "messages": json.loads(messages)})
    command = [sys.executable, "-I", __file__]
    try:
        done = subprocess.run(command, input=task.encode(), capture_output=True, timeout=3 * SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"does not end within {3 * SECONDS} seconds"
    if done.returncode == _TOO_LONG:
        return f"writes more than {CHARACTERS} characters"
    if done.returncode == _TOO_LARGE:
        return f"takes more than {BYTES >> 20} MiB of memory"
    if done.returncode < 0:
        return f"does not end within {SECONDS} seconds"
    return None


@cache
def _shipped() -> frozenset[str]:
    """Digests of the templates that come with align."""
    from align.config.paths import PROJECT

    files = (PROJECT / "conf" / "model").glob("*.jinja")
    return frozenset(hashlib.sha256(file.read_text("utf-8").strip().encode()).hexdigest() for file in files)


def _render(template: str, messages: list[dict]) -> int:
    """In the child: render as transformers does (5.20, utils/chat_template_utils.py); the exit code."""
    from datetime import datetime

    import jinja2
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}`, which marks what the assistant says; here only its body counts."""

        tags = {"generation"}

        def parse(self, parser):
            next(parser.stream)
            return parser.parse_statements(["name:endgeneration"], drop_needle=True)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: object, **options: object) -> str:
        return json.dumps(value, ensure_ascii=False, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    try:
        compiled = environment.from_string(template)
        for prompts in (False, True):
            length = 0
            for piece in compiled.generate(messages=messages, add_generation_prompt=prompts, tools=None):
                length += len(piece)
                if length > CHARACTERS:
                    return _TOO_LONG
    except MemoryError:
        return _TOO_LARGE
    except Exception:  # noqa: BLE001 - what the template itself does not take is said where it is used
        return 0
    return 0


def _main() -> int:
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    task = json.load(sys.stdin)
    return _render(task["template"], task["messages"])


if __name__ == "__main__":
    sys.exit(_main())
