"""The command line of `align data`: check data, make versioned datasets of it, and see it as a model does."""

import argparse

from align.artifacts.commands import add_root
from align.config.schema import FORMATS
from align.data.actions import check_data, import_data, list_rules, make_data, show_data
from align.stages.spec import STAGES

_SEVERITIES = ("info", "warning", "error", "never")
_STAGES = [name for name, spec in STAGES.items() if spec.trainer_config]


def data_group(groups: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`align data check | import | make | show | rules`."""
    group = groups.add_parser("data", help="check data, make versioned datasets of it, and see it as a model does")
    commands = group.add_subparsers(title="commands", metavar="COMMAND", required=True)

    check = commands.add_parser("check", help="what is this data, and is it sound", description=check_data.__doc__)
    check.add_argument("sources", nargs="+", metavar="FILE_OR_DIR", help="files, folders, hf:org/name@rev or hh:v1")
    _add_reading(check)
    check.add_argument("--json", action="store_true", help="print the report as JSON for programs")
    check.add_argument("--html", metavar="FILE", help="write the report as one page with plots")
    check.add_argument("--model", metavar="REF_OR_DIR", help="count tokens with this model's tokenizer and template")
    _add_chats(check)
    check.add_argument("--max-length", type=int, metavar="N", help="tokens per row (default: the context of --model)")
    check.add_argument("--strict", choices=_SEVERITIES, default="never", help="exit with 1 at this severity and above")
    check.set_defaults(command=check_data)
    add_root(check)

    take = commands.add_parser("import", help="make a versioned dataset", description=import_data.__doc__)
    take.add_argument("sources", nargs="+", metavar="FILE", help="files, folders, or hf:org/name@rev")
    take.add_argument("--name", required=True, help="of the dataset: hh makes hh:v1, hh:v2, ...")
    _add_reading(take)
    take.add_argument("--eval", action="append", default=[], metavar="FILE", help="files with the rows to evaluate on")
    take.add_argument(
        "--eval-fraction",
        type=float,
        default=0.05,
        metavar="X",
        help="share of the prompts to hold out without --eval (default: 0.05)",
    )
    take.add_argument("--max-rows", type=int, metavar="N", help="keep at most N train records")
    take.add_argument(
        "--fix",
        action="append",
        default=[],
        metavar="RULES",
        help="repairs, such as control,mojibake: see align data rules",
    )
    take.add_argument(
        "--drop",
        action="append",
        default=[],
        metavar="RULES",
        help="reasons to leave a record out: see align data rules",
    )
    take.add_argument(
        "--refuse", choices=_SEVERITIES, default="error", help="stop at findings of this severity (default: error)"
    )
    take.add_argument("--allow", action="append", default=[], metavar="FINDING", help="except for this finding")
    take.set_defaults(command=import_data)
    add_root(take)

    make = commands.add_parser(
        "make", help="make a dataset of datasets: split, mix, filter", description=make_data.__doc__
    )
    make.add_argument("parts", nargs="+", metavar="REF", help="hh:v1, hh:v1*0.3 (weight), hh:v1=5000 (at most)")
    make.add_argument("--name", required=True, help="of the new dataset")
    make.add_argument("--as", dest="format", choices=FORMATS, help="convert the records to this format")
    make.add_argument("--rows", type=int, metavar="N", help="train records in all")
    make.add_argument(
        "--eval-fraction", type=float, metavar="X", help="split again by prompt (default: keep the splits)"
    )
    make.add_argument("--min-chars", type=int, metavar="N", help="smallest length of the shortest answer")
    make.add_argument("--max-chars", type=int, metavar="N", help="largest length of prompt and longest answer")
    make.add_argument(
        "--languages", default="", metavar="A,B", help="keep only these guessed languages: English,German"
    )
    make.add_argument(
        "--fix",
        action="append",
        default=[],
        metavar="RULES",
        help="repairs, such as control,mojibake: see align data rules",
    )
    make.add_argument(
        "--pairs",
        choices=("best_worst", "all"),
        default="best_worst",
        help="pairs of single answers: one per prompt, or all",
    )
    make.add_argument(
        "--by",
        choices=("label", "score"),
        help="what decides which answer is better (default: the label, if there is one)",
    )
    make.add_argument(
        "--min-score", type=float, metavar="X", help="lowest score of a completion, or of the chosen answer"
    )
    make.add_argument("--min-margin", type=float, metavar="X", help="lowest difference of the two scores of a pair")
    make.add_argument("--best", type=int, metavar="N", help="keep the N best answers per prompt, by score")
    make.add_argument(
        "--drop",
        action="append",
        default=[],
        metavar="RULES",
        help="reasons to leave a record out: see align data rules",
    )
    make.add_argument("--against", action="append", default=[], metavar="FILE", help="benchmarks, for --drop overlap")
    make.add_argument("--ngram", type=int, default=13, metavar="N", help="consecutive words that count as overlap")
    make.add_argument("--system", metavar="TEXT", help="a system message for conversations without one")
    make.add_argument("--seed", type=int, default=0, help="decides which records stay if not all can")
    make.add_argument("--refuse", choices=_SEVERITIES, default="error", help="stop at findings of this severity")
    make.add_argument("--allow", action="append", default=[], metavar="FINDING", help="except for this finding")
    make.set_defaults(command=make_data)
    add_root(make)

    show = commands.add_parser("show", help="see data as a model does", description=show_data.__doc__)
    show.add_argument("sources", nargs=1, metavar="REF_OR_FILE", help="hh:v1, or a file")
    show.add_argument("--stage", default="sft", choices=_STAGES, help="the stage whose loss is shown (default: sft)")
    show.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a key of that stage's config, such as trainer.max_length=512",
    )
    show.add_argument(
        "--model", metavar="REF_OR_DIR", help="the model whose tokenizer and template are used (default: sft:latest)"
    )
    _add_chats(show)
    show.add_argument("--chat-template", metavar="FILE", help="a Jinja template for a tokenizer without one")
    show.add_argument("--rows", type=int, default=5, metavar="N", help="how many records (default: 5)")
    show.add_argument("--skip", type=int, default=0, metavar="N", help="records to skip first")
    show.add_argument("--max-length", type=int, metavar="N", help="tokens per row (default: that of the stage)")
    show.add_argument("--tokens", action="store_true", help="draw a bar between tokens")
    show.add_argument("--color", choices=("auto", "always", "never"), default="auto")
    show.add_argument("--json", action="store_true", help="token ids and loss masks for programs")
    _add_reading(show, against=False)
    show.set_defaults(command=show_data)
    add_root(show)

    rules = commands.add_parser("rules", help="list layouts, repairs and reasons to leave a record out")
    rules.set_defaults(command=list_rules)


def _add_chats(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--as-chat", action="store_true", help="make chats of plain rows, like data.as_chat=true")
    parser.add_argument(
        "--fold-system",
        action="store_true",
        help="move system messages into the first user message, like data.fold_system=true",
    )


def _add_reading(parser: argparse.ArgumentParser, against: bool = True) -> None:
    parser.add_argument(
        "--as", dest="format", choices=FORMATS, help="the format to make (default: the one the rows hold)"
    )
    parser.add_argument(
        "--layout", help="how rows are written (default: detected from the first rows; see align data rules)"
    )
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
            "--against",
            action="append",
            default=[],
            metavar="FILE",
            help="benchmark files whose text must not be in the data",
        )
        parser.add_argument(
            "--ngram", type=int, default=13, metavar="N", help="consecutive words that count as overlap"
        )
    parser.add_argument(
        "--keep",
        action="append",
        metavar="COLUMNS",
        help="columns that stay with the records, for reward functions and judges: answer,level (default: all that "
        "the layout does not read; none: no column)",
    )
    parser.add_argument("--beside", metavar="FILE", help="a file with more columns for the rows, in the same order")
    parser.add_argument(
        "--first", type=int, metavar="N", help="read only the first N rows of each file or Hub dataset"
    )
    parser.add_argument("--config", help="the config of a Hub dataset")
    parser.add_argument("--split", default="train", help="the split of a Hub dataset (default: train)")
