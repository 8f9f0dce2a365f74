"""`align`: what people do with artifacts from a shell. Training is `launch/run.py` and `launch/pipeline.py`.

Each group of commands is one function in GROUPS that adds its parsers. What a command needs is imported when it runs,
so that `align --help` answers at once.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from align.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, or 2 after a mistake of the user's, told as `error: ...`."""
    arguments = build_parser().parse_args(argv)
    # Names are ASCII, but a terminal that cannot show the lines of a tree should not be an error.
    sys.stdout.reconfigure(errors="replace")
    try:
        status = arguments.command(arguments)
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader (`head`, a pager) has left; without this Python complains when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    return status


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(prog="align", description="Aligned models that can say where they came from.")
    parser.add_argument("--version", action=_PrintVersion, help="show the version and exit")
    _add_root(parser, default=None)
    groups = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add_group in GROUPS:
        add_group(groups)
    return parser


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


def _add_root(parser: argparse.ArgumentParser, default: object = argparse.SUPPRESS) -> None:
    # SUPPRESS on the commands: their default would overwrite what stood in front of them.
    parser.add_argument(
        "--artifacts",
        metavar="ROOT",
        default=default,
        help="the artifact directory (default: $ALIGN_ARTIFACTS, else ./artifacts)",
    )


def artifacts_group(groups: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`align artifacts ls | show | lineage`."""
    group = groups.add_parser("artifacts", help="list published versions and see where they came from")
    _add_root(group)
    commands = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command, summary, takes_ref in (
        ("ls", list_artifacts, "every version, with its aliases, metrics and parents", False),
        ("show", show_artifact, "all that a version's manifest says", True),
        ("lineage", show_lineage, "the tree of what a version was made from", True),
    ):
        parser = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if takes_ref:
            parser.add_argument("ref", metavar="REF", help="sft:v2, sft:latest, or sft (the latest)")
        parser.add_argument("--json", action="store_true", help="print JSON for programs")
        _add_root(parser)
        parser.set_defaults(command=command)


def list_artifacts(arguments: argparse.Namespace) -> int:
    """`align artifacts ls`; 2 if a version could not be read, after listing the others."""
    from align.artifacts.display import list_json, list_table
    from align.artifacts.store import Store

    store = Store.open(arguments.artifacts)
    if arguments.json:
        versions, problems = list_json(store)
        _print_json(versions)
    else:
        text, problems = list_table(store)
        print(text or f"no artifacts in {store.root} yet; make some: python launch/pipeline.py pipeline=demo")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 2 if problems else 0


def show_artifact(arguments: argparse.Namespace) -> int:
    """`align artifacts show REF`."""
    from align.artifacts.display import as_json, description
    from align.artifacts.store import Store

    store = Store.open(arguments.artifacts)
    version = store.resolve(arguments.ref)
    if arguments.json:
        _print_json(as_json(version))
    else:
        print(description(store, version))
    return 0


def show_lineage(arguments: argparse.Namespace) -> int:
    """`align artifacts lineage REF`."""
    from align.artifacts.lineage import lineage, tree
    from align.artifacts.store import Store

    store = Store.open(arguments.artifacts)
    node = lineage(store, store.resolve(arguments.ref))
    if arguments.json:
        _print_json(node.to_json())
    else:
        print(tree(node))
    return 0


def _print_json(value: object) -> None:
    import json

    print(json.dumps(value, indent=2))


GROUPS = (artifacts_group,)


if __name__ == "__main__":
    sys.exit(main())
