"""`align`: stages, pipelines, artifacts, runs, data and review from a shell.

`align run` and `align pipeline` are `launch/run.py` and `launch/pipeline.py`, for use without a checkout.

Each group of commands is one function in GROUPS that adds its parsers, kept beside what it is about. What a command
needs is imported when it runs, so that `align --help` answers at once.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from align.artifacts.commands import add_root, artifacts_group
from align.data.commands import data_group
from align.errors import ExitCode, UserError
from align.review.commands import review_group
from align.runs.commands import runs_group


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, or 2 after a mistake of the user's, printed as `error: ...`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in TRAINING:
        return TRAINING[argv[0]](argv[1:])
    arguments = build_parser().parse_args(argv)
    # Names are ASCII, but a terminal that cannot show the lines of a tree should not be an error.
    if sys.stdout is None:  # closed by whoever started this
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    sys.stdout.reconfigure(errors="replace")
    try:
        status = arguments.command(arguments)
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.MISTAKE
    except BrokenPipeError:
        # The reader (`head`, a pager) has left; without this Python complains when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    return status


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(prog="align", description="Aligned models that can say where they came from.")
    parser.add_argument("--version", action=_PrintVersion, help="show the version and exit")
    add_root(parser, default=None)
    groups = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    about = "make a small project of your own that runs as it is"
    init = groups.add_parser("init", help=about, description=about)
    init.add_argument("folder", metavar="DIR", help="a folder that does not exist yet, or is empty")
    init.set_defaults(command=_init)
    groups.add_parser("run", help="run one stage: align run stage=dpo (align run --help)")
    groups.add_parser("pipeline", help="run stages in order: align pipeline pipeline=demo (align pipeline --help)")
    for add_group in GROUPS:
        add_group(groups)
    return parser


def _init(arguments: argparse.Namespace) -> int:
    from align.config.init import init_project

    print(init_project(arguments.folder))
    return 0


def _run(argv: list[str]) -> int:
    from align.run.stage import main as run

    return run(argv, prog="align run")


def _pipeline(argv: list[str]) -> int:
    from align.pipeline.runner import main as pipeline

    return pipeline(argv, prog="align pipeline")


class _PrintVersion(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None):
        super().__init__(option_strings, dest=argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"align {version('align')}")
        except PackageNotFoundError:
            print("align from a source tree that is not installed")
        parser.exit()


GROUPS = (artifacts_group, runs_group, data_group, review_group)
TRAINING = {"run": _run, "pipeline": _pipeline}  # they read their own command lines, overrides and all


if __name__ == "__main__":
    sys.exit(main())
