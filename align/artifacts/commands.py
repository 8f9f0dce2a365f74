"""`align artifacts ...`: what people do with the store from a shell.

What a command needs is imported when it runs, so that `align --help` answers at once.
"""

import argparse
import sys
from typing import TYPE_CHECKING

from align.distributed.console import unbroken_output
from align.errors import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

    from align.artifacts.store import Store


def add_root(parser: argparse.ArgumentParser, default: object = argparse.SUPPRESS) -> None:
    """The option that says where the store is."""
    # SUPPRESS on the commands: their default would overwrite what stood in front of them.
    parser.add_argument(
        "--artifacts",
        metavar="ROOT",
        default=default,
        help="the artifact directory (default: $ALIGN_ARTIFACTS, else ./artifacts)",
    )


def artifacts_group(groups: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The parsers of `align artifacts`."""
    group = groups.add_parser("artifacts", help="list, verify, compare and hand on published versions")
    add_root(group)
    commands = group.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: object, summary: str, *, json: bool = True) -> argparse.ArgumentParser:
        parser = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        add_root(parser)
        if json:
            parser.add_argument("--json", action="store_true", help="print JSON for programs")
        parser.set_defaults(command=run)
        return parser

    parser = command("ls", list_artifacts, "the versions of the store, with their aliases, metrics and parents")
    _add_selection(parser)
    _add_ref(command("show", show_artifact, "all that a version's manifest says"))
    parser = _add_ref(command("lineage", show_lineage, "the tree of what a version was made from"))
    parser.add_argument("--svg", metavar="FILE", help="write a drawing of it instead")
    parser = command("verify", verify_artifacts, "hash files again and quarantine what is not as published")
    parser.add_argument("ref", metavar="REF", nargs="?", help="one version")
    parser.add_argument("--all", action="store_true", help="every version; goes on where an interrupted one stopped")
    parser.add_argument("--restart", action="store_true", help="with --all: start over")
    parser = _add_ref(command("alias", move_alias, "move an alias to a version", json=False))
    parser.add_argument("alias", metavar="ALIAS", help="best, promoted, or a word of your own")
    parser.add_argument("--expect", metavar="vN", help="only if it is at this version now (v0: only if it is new)")
    _add_ref(command("pin", pin_version, "keep a version from gc", json=False))
    _add_ref(command("unpin", unpin_version, "leave a version to gc again", json=False))
    parser = command("diff", show_difference, "what two versions disagree about")
    parser.add_argument("left", metavar="REF")
    parser.add_argument("right", metavar="REF")
    parser = _add_ref(command("export", export_version, "a plain Hugging Face directory with a card", json=False))
    parser.add_argument("folder", metavar="DIR", help="a new folder")
    parser.add_argument("--base", metavar="hf:ORG/NAME", help="an adapter's base on the Hub, instead of a copy of it")
    for name, run, summary in (
        ("push", push_version, "send a version to a remote store"),
        ("pull", pull_version, "fetch a version from a remote store"),
    ):
        parser = _add_ref(command(name, run, summary, json=False))
        parser.add_argument("url", metavar="URL", help="s3://bucket/folder, gs://..., file:///folder")
        parser.add_argument("--lineage", action="store_true", help="and all that it was made from")
    parser = command("gc", collect_garbage, "what nobody needs; removes it only with --apply")
    parser.add_argument("--apply", action="store_true", help="remove it")
    parser.add_argument("--grace-days", type=float, default=7, metavar="D", help="keep what is younger (default: 7)")
    parser.add_argument("--max-versions", type=int, metavar="N", help="remove the oldest only down to N of a name")
    parser.add_argument("--max-gb", type=float, metavar="GB", help="remove the oldest only down to GB (10^9 bytes)")
    parser.add_argument(
        "--release-sweep",
        metavar="SWEEP",
        action="append",
        default=[],
        help="a sweep whose versions nobody compares any more, or all; without it gc keeps them",
    )


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="NAME", nargs="*", help="only artifacts of these names: sft, 'dpo*'")
    parser.add_argument("--type", metavar="TYPE", help="only of this type: model, dataset, dataset/preference, ...")
    parser.add_argument("--stage", metavar="STAGE", help="only what this stage made: dpo, evaluate, import, ...")
    parser.add_argument("--alias", metavar="ALIAS", help="only versions that this alias points at: latest, best, ...")
    parser.add_argument(
        "--where",
        metavar="CONDITION",
        action="append",
        default=[],
        help="only where a metric fulfils a condition: 'eval_loss<0.5', '*/gold>=0.4' (repeat it for more)",
    )
    parser.add_argument(
        "--sort",
        metavar="KEY",
        default="name",
        help="name, created, size, or a metric, the best first: eval_loss, eval_loss:min (default: name)",
    )
    parser.add_argument("--reverse", action="store_true", help="in the opposite order")
    parser.add_argument("-n", dest="count", type=int, metavar="N", help="no more than N rows")


def _add_ref(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("ref", metavar="REF", help="sft:v2, sft:latest, or sft (the latest)")
    return parser


def list_artifacts(arguments: argparse.Namespace) -> int:
    """`align artifacts ls`; 2 if a version could not be read, after listing the others."""
    from align.artifacts.display import as_json
    from align.artifacts.listing import Selection, list_table, select
    from align.artifacts.metrics import Condition

    store = open_store(arguments)
    selection = Selection(
        names=arguments.names,
        type=arguments.type,
        stage=arguments.stage,
        alias=arguments.alias,
        conditions=[Condition.parse(text) for text in arguments.where],
        sort=arguments.sort,
        reverse=arguments.reverse,
        count=arguments.count,
    )
    listing = select(store, selection)
    if arguments.json:
        versions = [(row, store.version(row.name, row.summary.number)) for row in listing.rows]
        print_json([as_json(version) | {"aliases": list(row.aliases)} for row, version in versions])
    else:
        print(list_table(listing, selection) or _nothing_listed(store.root, listing.total))
        for removal in store.quarantined() if selection.is_empty else []:
            print(f"in quarantine: {removal.ref}, {removal.evidence[0] if removal.evidence else '?'}")
    for problem in listing.problems:
        print(f"error: {problem}", file=sys.stderr)
    return ExitCode.MISTAKE if listing.problems else ExitCode.DONE


def _nothing_listed(root: "Path", total: int) -> str:
    if total:
        return f"none of the {total} versions in {root} is of that kind"
    return f"no artifacts in {root} yet; make some: python launch/pipeline.py pipeline=demo"


def show_artifact(arguments: argparse.Namespace) -> int:
    """`align artifacts show REF`."""
    from align.artifacts.display import as_json, description

    store = open_store(arguments)
    version = store.resolve(arguments.ref)
    if arguments.json:
        print_json(as_json(version))
    else:
        print(description(store, version))
    return 0


def show_lineage(arguments: argparse.Namespace) -> int:
    """`align artifacts lineage REF`."""
    from align.artifacts.lineage import lineage, tree

    store = open_store(arguments)
    node = lineage(store, store.resolve(arguments.ref))
    if arguments.json:
        print_json(node.to_json())
    elif arguments.svg:
        from align.artifacts.lineage_svg import to_svg

        write_text(arguments.svg, to_svg(node))
        print(f"wrote {arguments.svg}")
    else:
        print(tree(node))
    return 0


@unbroken_output()
def verify_artifacts(arguments: argparse.Namespace) -> int:
    """`align artifacts verify`; 1 if something is corrupt, or could not be read."""
    from align.artifacts.text import human_size
    from align.artifacts.verification import quarantine, verify
    from align.artifacts.verify_all import Sweep
    from align.errors import UserError

    if bool(arguments.ref) == arguments.all:
        raise UserError("verify takes one REF, or --all: align artifacts verify sft:v2")
    store = open_store(arguments)
    if arguments.all:
        sweep = Sweep(store, restart=arguments.restart)
        findings, total, skipped = sweep.findings(), len(sweep.left), len(sweep.versions) - len(sweep.left)
    else:
        version = store.resolve(arguments.ref)
        findings, total, skipped = iter([verify(store, version.name, version.number)]), 1, 0
    if skipped and not arguments.json:
        print(f"going on: {skipped} of {skipped + total} versions were verified before the interruption")
    report, bad, hashed = [], 0, 0
    for number, finding in enumerate(findings, start=1):
        kept = quarantine(store, finding) if finding.evidence else None
        bad += not finding.whole
        hashed += finding.hashed
        report.append(vars(finding) | {"whole": finding.whole, "quarantined": str(kept) if kept else None})
        if arguments.json:
            continue
        state = "whole" if finding.whole else f"CORRUPT, kept in {kept}" if kept else "could not be read"
        print(f"[{number}/{total}] {finding.ref}  {human_size(finding.hashed)}  {state}", flush=True)
        for sentence in finding.evidence + finding.unread:
            print(f"    {sentence}")
    if arguments.json:
        print_json(report)
    elif arguments.all:
        print(f"{total} versions, {human_size(hashed)}: {f'{bad} not whole' if bad else 'all whole'}")
    return ExitCode.FAILED if bad else ExitCode.DONE


def move_alias(arguments: argparse.Namespace) -> int:
    """`align artifacts alias REF ALIAS`."""
    from align.artifacts.refs import LATEST
    from align.errors import UserError

    store = open_store(arguments)
    version = store.resolve(arguments.ref)
    expect = arguments.expect
    if expect is not None and not (expect.isascii() and expect.removeprefix("v").isdigit()):
        raise UserError(f"--expect {expect!r} is not a version: write v3, or v0 for an alias that must be new")
    before = store.aliases(version.name).get(arguments.alias)
    store.point(version, arguments.alias, expect=None if expect is None else int(expect.removeprefix("v")))
    now = store.aliases(version.name).get(arguments.alias)
    if now != version.number and arguments.alias == LATEST:
        raise UserError(f"{version.name}:latest is v{now} and moves forward only; take another alias, as `best`")
    print(f"{version.name}:{arguments.alias} is {version.ref}" + (f" (was v{before})" if before else ""))
    return 0


def pin_version(arguments: argparse.Namespace) -> int:
    """`align artifacts pin REF`."""
    store = open_store(arguments)
    version = store.resolve(arguments.ref)
    print(f"{version.ref} {'is pinned' if store.pin(version) else 'was pinned already'}: gc keeps it")
    return 0


def unpin_version(arguments: argparse.Namespace) -> int:
    """`align artifacts unpin REF`."""
    store = open_store(arguments)
    version = store.resolve(arguments.ref)
    print(f"{version.ref} {'is no longer pinned' if store.unpin(version) else 'was not pinned'}")
    return 0


@unbroken_output()
def collect_garbage(arguments: argparse.Namespace) -> int:
    """`align artifacts gc`."""
    from align.artifacts.gc import collect, plan_collection
    from align.artifacts.sweeps import check_released, release
    from align.artifacts.text import human_size, minute

    store = open_store(arguments)
    released = check_released(store, arguments.release_sweep)
    plan = plan_collection(
        store,
        grace_days=arguments.grace_days,
        max_versions=arguments.max_versions,
        max_gb=arguments.max_gb,
        released=released,
    )
    gone = collect(store, plan) if arguments.apply else plan.remove
    if arguments.apply:
        release(store, released)
    leftovers = [str(path) for path in plan.leftovers]
    for problem in plan.problems:
        print(f"kept: {problem}", file=sys.stderr)
    if arguments.json:
        refs = [version.ref for version in gone]
        body = {"applied": arguments.apply, "removed": refs, "leftovers": leftovers, "kept": plan.kept}
        print_json(body | {"unreadable": plan.problems})
        return 0
    verb = "removed" if arguments.apply else "would remove"
    for ref, why in () if arguments.apply else plan.kept.items():
        print(f"keep {ref}  ({why})")
    for version in gone:
        print(f"{verb} {version.ref}  {human_size(plan.sizes[version.ref])}  {minute(version.manifest.ended)}")
    for path in leftovers:
        print(f"{verb} {path}")
    for version in plan.remove:
        if version not in gone:
            print(f"kept {version.ref}: it came into use, or was removed, while gc ran")
    freed = human_size(sum(plan.sizes[version.ref] for version in gone))
    more = "" if arguments.apply or not (gone or leftovers) else "; align artifacts gc --apply does it"
    print(f"{verb} {len(gone)} versions, {freed}, and keep {len(plan.kept)}{more}")
    return 0


def show_difference(arguments: argparse.Namespace) -> int:
    """`align artifacts diff REF REF`."""
    from align.artifacts.diff import compare

    store = open_store(arguments)
    difference = compare(store.resolve(arguments.left), store.resolve(arguments.right))
    if arguments.json:
        print_json(difference.to_json())
    else:
        print(difference)
    return 0


def export_version(arguments: argparse.Namespace) -> int:
    """`align artifacts export REF DIR`."""
    from pathlib import Path

    from align.artifacts.export import export

    store = open_store(arguments)
    version = store.resolve(arguments.ref)
    folder = export(store, version, Path(arguments.folder).expanduser(), base=arguments.base)
    print(f"exported {version.ref} to {folder}")
    return 0


@unbroken_output()
def push_version(arguments: argparse.Namespace) -> int:
    """`align artifacts push REF URL`."""
    from align.artifacts.remote import Remote, explain_remote_errors
    from align.artifacts.transfer import push

    store = open_store(arguments)
    version = store.resolve(arguments.ref)
    with explain_remote_errors(f"push {version.ref}", arguments.url):
        push(store, version, Remote(arguments.url), lineage=arguments.lineage)
    return 0


@unbroken_output()
def pull_version(arguments: argparse.Namespace) -> int:
    """`align artifacts pull REF URL`."""
    from align.artifacts.remote import Remote, explain_remote_errors
    from align.artifacts.transfer import pull

    with explain_remote_errors(f"pull {arguments.ref}", arguments.url):
        pull(open_store(arguments), arguments.ref, Remote(arguments.url), lineage=arguments.lineage)
    return 0


def open_store(arguments: argparse.Namespace) -> "Store":
    """The store that the command line names."""
    from align.artifacts.store import Store

    return Store.open(arguments.artifacts)


def write_text(file: str, text: str) -> None:
    """Write a file that the user named; UserError if it cannot be written."""
    from pathlib import Path

    from align.errors import UserError

    try:
        Path(file).write_text(text, "utf-8")
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error.strerror}); name another file") from None


def print_json(value: object) -> None:
    """Print a value for programs."""
    from align.records import readable_json

    print(readable_json(value, indent=2))
