"""`align data ...`: what is this data, is it sound, and a versioned set of it."""

import argparse

from align.artifacts.commands import add_root
from align.config.schema import FORMATS
from align.data.actions import check_data, import_data, list_rules, make_data, show_data
from align.stages.spec import STAGES

_SEVERITIES = ("info", "warning", "error", "never")
_STAGES = [name for name, spec in STAGES.items() if spec.trainer_config]


def data_group(groups: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`align data check | import | make | show | rules`."""
    group = groups.add_parser("data", help="check data, make versioned sets of it, and see it as a model will")
    commands = group.add_subparsers(title="commands", metavar="COMMAND", required=True)

    check = commands.add_parser("check", help="what is this data, and is it sound", description=check_data.__doc__)
    check.add_argument("sources", nargs="+", metavar="FILE_OR_DIR", help="files, folders, hf:org/name@rev or hh:v1")
    _add_reading(check)
    check.add_argument("--json", action="store_true", help="print the report as JSON for programs")
    check.add_argument("--html", metavar="FILE", help="write the report as one page with plots")
    check.add_argument("--model", metavar="REF_OR_DIR", help="count tokens with this model's tokenizer and template")
    _add_chats(check)
    check.add_argument("--max-length", type=int, metavar="N", help="tokens of a row (default: the context of --model)")
    check.add_argument("--strict", choices=_SEVERITIES, default="never", help="exit with 1 at this severity and above")
    check.set_defaults(command=check_data)
    add_root(check)

    take = commands.add_parser("import", help="make a versioned dataset", description=import_data.__doc__)
    take.add_argument("sources", nargs="+", metavar="FILE", help="files, folders, or hf:org/name@rev")
    take.add_argument("--name", required=True, help="of the dataset: hh makes hh:v1, hh:v2, ...")
    _add_reading(take)
    take.add_argument("--eval", action="append", default=[], metavar="FILE", help="rows to evaluate on")
    take.add_argument(
        "--eval-fraction", type=float, default=0.05, metavar="X", help="of prompts held out without them"
    )
    take.add_argument("--max-rows", type=int, metavar="N", help="at most so many train records")
    take.add_argument("--fix", action="append", default=[], metavar="RULES", help="repairs: see align data rules")
    take.add_argument("--drop", action="append", default=[], metavar="RULES", help="leave out: see align data rules")
    take.add_argument(
        "--refuse", choices=_SEVERITIES, default="error", help="stop at findings of this severity (default: error)"
    )
    take.add_argument("--allow", action="append", default=[], metavar="FINDING", help="but not at this one")
    take.set_defaults(command=import_data)
    add_root(take)

    make = commands.add_parser("make", help="a set out of sets: split, mix, filter", description=make_data.__doc__)
    make.add_argument("parts", nargs="+", metavar="REF", help="hh:v1, hh:v1*0.3 (weight), hh:v1=5000 (at most)")
    make.add_argument("--name", required=True, help="of the new dataset")
    make.add_argument("--as", dest="format", choices=FORMATS, help="convert, such as preference to unpaired")
    make.add_argument("--rows", type=int, metavar="N", help="train records in all")
    make.add_argument(
        "--eval-fraction", type=float, metavar="X", help="split anew by prompt (default: keep the splits)"
    )
    make.add_argument("--min-chars", type=int, metavar="N", help="of the shortest answer")
    make.add_argument("--max-chars", type=int, metavar="N", help="of prompt and longest answer")
    make.add_argument("--languages", default="", metavar="A,B", help="keep these only (guessed): English,German")
    make.add_argument("--fix", action="append", default=[], metavar="RULES", help="repairs: see align data rules")
    make.add_argument(
        "--pairs", choices=("best_worst", "all"), default="best_worst", help="of single answers: one a prompt, or all"
    )
    make.add_argument("--by", choices=("label", "score"), help="which answer is better (default: by label, if it has)")
    make.add_argument("--min-score", type=float, metavar="X", help="of a completion, or of the chosen answer")
    make.add_argument("--min-margin", type=float, metavar="X", help="of the chosen answer's score over the other's")
    make.add_argument("--best", type=int, metavar="N", help="only so many answers a prompt, by score")
    make.add_argument("--drop", action="append", default=[], metavar="RULES", help="leave out: see align data rules")
    make.add_argument("--against", action="append", default=[], metavar="FILE", help="benchmarks, for --drop overlap")
    make.add_argument("--ngram", type=int, default=13, metavar="N", help="words in a row that count as overlap")
    make.add_argument("--system", metavar="TEXT", help="a system message for conversations that have none")
    make.add_argument("--seed", type=int, default=0, help="decides who stays where not all can")
    make.add_argument("--refuse", choices=_SEVERITIES, default="error", help="stop at findings of this severity")
    make.add_argument("--allow", action="append", default=[], metavar="FINDING", help="but not at this one")
    make.set_defaults(command=make_data)
    add_root(make)

    show = commands.add_parser("show", help="see data as the model will", description=show_data.__doc__)
    show.add_argument("sources", nargs=1, metavar="REF_OR_FILE", help="hh:v1, or a file")
    show.add_argument("--stage", default="sft", choices=_STAGES, help="whose loss to show (default: sft)")
    show.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="of that stage's config, as run.py takes it"
    )
    show.add_argument("--model", metavar="REF_OR_DIR", help="whose tokenizer and template (default: sft:latest)")
    _add_chats(show)
    show.add_argument("--chat-template", metavar="FILE", help="a Jinja template for a tokenizer that has none")
    show.add_argument("--rows", type=int, default=5, metavar="N", help="how many records (default: 5)")
    show.add_argument("--skip", type=int, default=0, metavar="N", help="records to pass over first")
    show.add_argument("--max-length", type=int, metavar="N", help="tokens (default: what the stage would take)")
    show.add_argument("--tokens", action="store_true", help="draw a line between tokens")
    show.add_argument("--color", choices=("auto", "always", "never"), default="auto")
    show.add_argument("--json", action="store_true", help="token ids and loss masks for programs")
    _add_reading(show, against=False)
    show.set_defaults(command=show_data)
    add_root(show)

    rules = commands.add_parser("rules", help="layouts, repairs and reasons to leave a record out")
    rules.set_defaults(command=list_rules)


def _add_chats(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--as-chat", action="store_true", help="make chats of plain rows, as data.as_chat=true does")
    parser.add_argument(
        "--fold-system", action="store_true", help="system messages into the user's, as data.fold_system=true does"
    )


def _add_reading(parser: argparse.ArgumentParser, against: bool = True) -> None:
    parser.add_argument("--as", dest="format", choices=FORMATS, help="what to make of it (default: what it holds)")
    parser.add_argument("--layout", help="how rows are written (default: told from the first rows; see data rules)")
    parser.add_argument("--columns", action="append", metavar="OURS=THEIRS", help="fields that have another name")
    parser.add_argument(
        "--labels",
        action="append",
        metavar="THEIRS=OURS",
        help="what labels mean: 0=first,1=second,2=tie or 1=good,0=bad",
    )
    parser.add_argument("--roles", action="append", metavar="THEIRS=OURS", help="speakers: client=user,bot=assistant")
    if against:
        parser.add_argument(
            "--against", action="append", default=[], metavar="FILE", help="benchmarks that must not be in it"
        )
        parser.add_argument("--ngram", type=int, default=13, metavar="N", help="words in a row that count as overlap")
    parser.add_argument(
        "--keep",
        action="append",
        metavar="COLUMNS",
        help="columns that stay with the records, for reward functions and judges: answer,level (default: all that "
        "the layout does not read; none: no column)",
    )
    parser.add_argument("--beside", metavar="FILE", help="columns to put beside the rows, in their order: scores")
    parser.add_argument("--first", type=int, metavar="N", help="read only so many rows of each file or hub set")
    parser.add_argument("--config", help="a hub set's config")
    parser.add_argument("--split", default="train", help="a hub set's split (default: train)")
