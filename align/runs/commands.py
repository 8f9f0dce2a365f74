"""`align runs ...`: what people do with runs from a shell.

What a command needs is imported when it runs, so that `align --help` answers at once.
"""

import argparse
import sys

from align.artifacts.commands import add_root, open_store, print_json, write_text
from align.errors import ExitCode


def runs_group(groups: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The parsers of `align runs`."""
    group = groups.add_parser("runs", help="list, follow and compare runs, and clear what they left")
    add_root(group)
    commands = group.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: object, summary: str) -> argparse.ArgumentParser:
        parser = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        add_root(parser)
        parser.add_argument("--json", action="store_true", help="print JSON for programs")
        parser.set_defaults(command=run)
        return parser

    parser = command("ls", list_runs, "runs with their state, progress, metrics and size on disk")
    parser.add_argument("names", metavar="NAME", nargs="*", help="only runs of these names: sft, 'dpo*'")
    parser.add_argument(
        "--state",
        metavar="STATE",
        action="append",
        default=[],
        help="only in this state: running, stopped, interrupted, failed, died, published, resumable (repeat for more)",
    )
    parser.add_argument("--stage", metavar="STAGE", help="only of this stage")
    parser.add_argument("--group", metavar="GROUP", help="only of this pipeline or sweep, by tracking.group")
    parser.add_argument(
        "--where",
        metavar="CONDITION",
        action="append",
        default=[],
        help="only where a metric fulfils a condition: 'loss<0.5' (repeat it for more)",
    )
    parser.add_argument(
        "--sort",
        metavar="KEY",
        default="started",
        help="started, name, size, or a metric, the best first: eval_loss, eval_loss:min (default: started)",
    )
    parser.add_argument("--reverse", action="store_true", help="in the opposite order")
    parser.add_argument("-n", dest="count", type=int, metavar="N", help="no more than N rows")
    parser = command("show", show_run, "all about one run, and its curves")
    _add_run(parser)
    _add_metrics(parser)
    _add_html(parser)
    parser = command("compare", compare_runs, "what differs between runs, and their curves in one plot")
    parser.add_argument("runs", metavar="RUN", nargs="+", help=_RUN)
    _add_metrics(parser)
    _add_html(parser)
    parser = command("watch", watch_run, "follow a run: what it logs, as it logs it, until it ends")
    parser.add_argument("run", metavar="RUN", nargs="?", help=f"{_RUN}; left out, the run at work")
    parser.add_argument("--every", type=float, default=2.0, metavar="S", help="seconds between two looks (default: 2)")
    parser = command("clean", clean_runs, "what dead runs left on disk; removes it only with --apply")
    parser.add_argument("runs", metavar="RUN", nargs="*", help="these runs whole, also if they could resume")
    parser.add_argument("--apply", action="store_true", help="remove it")
    parser.add_argument("--resumable", action="store_true", help="also runs that could resume from a checkpoint")
    parser.add_argument("--published", action="store_true", help="also logs and records of runs that have published")
    parser.add_argument("--grace-days", type=float, default=7, metavar="D", help="keep what is younger (default: 7)")


_RUN = "a run's artifact (its newest run), a version such as dpo:v2, or the first digits of an identity"


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help=_RUN)


def _add_metrics(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--metric",
        metavar="METRIC",
        action="append",
        default=[],
        help="this metric, or a pattern such as 'eval_*' (repeat it for more; default: those of the stage's headline)",
    )


def _add_html(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--html", metavar="FILE", help="write every curve as a page that needs no network")


def list_runs(arguments: argparse.Namespace) -> int:
    """`align runs ls`."""
    from align.artifacts.metrics import Condition
    from align.runs.listing import Selection, run_table
    from align.runs.record import read_runs

    store = open_store(arguments)
    selection = Selection(
        names=arguments.names,
        states=arguments.state,
        stage=arguments.stage,
        group=arguments.group,
        conditions=[Condition.parse(text) for text in arguments.where],
        sort=arguments.sort,
        reverse=arguments.reverse,
        count=arguments.count,
    )
    runs = read_runs(store)
    chosen = selection.select(runs)
    if arguments.json:
        print_json([run.to_json() for run in chosen])
    elif chosen:
        print(run_table(chosen, selection.metrics))
    elif runs:
        print(f"none of the {len(runs)} runs in {store.runs_root} is of that kind")
    else:
        print(f"no runs in {store.runs_root} yet; start one: python launch/pipeline.py pipeline=demo")
    return 0


def show_run(arguments: argparse.Namespace) -> int:
    """`align runs show RUN`."""
    from align.artifacts.metrics import named_metric
    from align.runs.describe import charted, description
    from align.runs.metrics_file import read_curves
    from align.runs.record import METRICS_FILE, find_run

    run = find_run(open_store(arguments), arguments.run)
    curves = read_curves(run.folder / METRICS_FILE)
    wanted = [named_metric(text) for text in arguments.metric]
    _check_metrics(arguments.metric, [*curves.names(), *run.metrics])
    if arguments.html:
        _write_page(arguments.html, f"{run.name} {run.short}", [(run, curves)])
    elif arguments.json:
        names = charted(run, curves, wanted) if wanted else curves.names()
        print_json(run.to_json() | {"curves": {name: _for_json(curves.points[name]) for name in names}})
    else:
        print(description(run, curves, wanted))
    return 0


def compare_runs(arguments: argparse.Namespace) -> int:
    """`align runs compare RUN RUN ...`."""
    from align.errors import UserError
    from align.runs.compare import compare, labels_of, overlaid
    from align.runs.metrics_file import read_curves
    from align.runs.record import METRICS_FILE, find_run

    store = open_store(arguments)
    runs = list(
        {(run.identity, run.label): run for run in (find_run(store, text) for text in arguments.runs)}.values()
    )
    if len(runs) < 2:
        raise UserError("compare takes two runs or more: align runs compare dpo:v1 dpo:v2")
    pairs = [(run, read_curves(run.folder / METRICS_FILE)) for run in runs]
    names = [name for run, curves in pairs for name in (*curves.names(), *run.metrics)]
    _check_metrics(arguments.metric, names)
    comparison = compare(runs, labels_of(runs), metrics=arguments.metric)
    if arguments.html:
        _write_page(arguments.html, f"Comparison of {len(runs)} runs", pairs, comparison)
    elif arguments.json:
        print_json(comparison.to_json() | {"runs": [run.to_json() for run in runs]})
    else:
        print("\n\n".join([str(comparison), *overlaid(pairs, comparison.labels, arguments.metric)]))
    return 0


def watch_run(arguments: argparse.Namespace) -> int:
    """`align runs watch [RUN]`: 0 if it publishes, 75 if it stops, 1 if it ends otherwise."""
    import json

    from align.runs.record import PUBLISHED, STOPPED
    from align.runs.watch import Screen, follow, json_line, the_run_at_work

    store = open_store(arguments)
    run = the_run_at_work(store, arguments.run)
    screen = Screen(lambda text: print(text, end="", flush=True), is_terminal=sys.stdout.isatty())
    state = run.state
    for look in follow(store, run, every=arguments.every):
        state = look.run.state
        if not arguments.json:
            screen.show(look)
            continue
        for row in look.rows:
            print(json_line(row), flush=True)
        if look.is_last:
            print(json.dumps(look.run.to_json()))
    return {PUBLISHED: ExitCode.DONE, STOPPED: ExitCode.STOPPED}.get(state, ExitCode.FAILED)


def clean_runs(arguments: argparse.Namespace) -> int:
    """`align runs clean`."""
    from align.artifacts.text import human_size
    from align.runs.clean import leftovers, remove
    from align.runs.record import find_run, read_runs

    store = open_store(arguments)
    found = leftovers(
        store,
        read_runs(store),
        named=[find_run(store, text) for text in arguments.runs],
        resumable=arguments.resumable,
        published=arguments.published,
        grace_days=arguments.grace_days,
    )
    going = [leftover for leftover in found if not leftover.kept]
    gone = remove(store, going) if arguments.apply else going
    if arguments.json:
        kept = [leftover.to_json() for leftover in found if leftover not in gone]
        print_json({"applied": arguments.apply, "removed": [one.to_json() for one in gone], "kept": kept})
        return 0
    verb = "removed" if arguments.apply else "would remove"
    for leftover in found:
        name = f"{leftover.run.name} {leftover.run.short}" if leftover.run else leftover.path.name
        size = human_size(leftover.size)
        if leftover.kept:
            print(f"keep {name}  {size}  {leftover.why} ({leftover.kept})")
        elif leftover in gone:
            print(f"{verb} {name}  {size}  {leftover.why}")
        else:
            print(f"kept {name}  {size}  it has been started, or removed, meanwhile")
    freed = human_size(sum(leftover.size for leftover in gone))
    more = "" if arguments.apply or not gone else "; align runs clean --apply does it"
    print(f"{verb} {freed} of {len(gone)} leftovers{more}")
    return 0


def _check_metrics(wanted: list[str], known: list[str]) -> None:
    """Every metric that the user names is one that the runs have."""
    from align.artifacts.metrics import named_metric
    from align.config.types import nearest
    from align.errors import UserError

    names = dict.fromkeys(known)
    for text in wanted:
        if named_metric(text).best(dict.fromkeys(names, 0.0)) is None:
            near = nearest(text, list(names)) or ";"
            raise UserError(f"no run named here has the metric {text!r}{near} they have {', '.join(names) or 'none'}")


def _write_page(file: str, title: str, pairs: list, comparison: object = None) -> None:
    from align.runs.page import page

    write_text(file, page(title, pairs, comparison))
    print(f"wrote {file}")


def _for_json(points: list[tuple[int, float]]) -> list[list[float | str]]:
    return [[step, value if value - value == 0 else str(value)] for step, value in points]
