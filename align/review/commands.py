"""`align review ...`: the parsers alone, so that `align --help` is quick and does not need the extra `review`."""

import argparse
from collections.abc import Callable

from align.artifacts.commands import add_root
from align.errors import UserError


def review_group(groups: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`align review serve | load | export | recall | ratings | invite | ls`."""
    group = groups.add_parser("review", help="people rate answers in a browser; their ratings become datasets")
    commands = group.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, summary: str) -> argparse.ArgumentParser:
        parser = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        parser.add_argument(
            "--database",
            metavar="FILE_OR_URL",
            help="a SQLite file or postgresql://user@host/name (default: $ALIGN_REVIEW_DATABASE, else "
            ".review/review.db in the artifact directory)",
        )
        add_root(parser)
        parser.set_defaults(command=_run(name))
        return parser

    serve = command("serve", "run the web app")
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: this machine only)")
    serve.add_argument(
        "--public-url", metavar="URL", help="the address in browsers, such as https://review.example.org"
    )

    serve.add_argument(
        "--trusted-proxy",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="a proxy whose X-Forwarded-For names the visitor, such as 127.0.0.1 or 10.0.0.0/8; may be repeated",
    )

    load = command("load", "put comparisons into a campaign, which is created if it does not exist")
    load.add_argument("source", metavar="REF_OR_FILE", help="comparisons:v1, or a file such as ./pairs.jsonl")
    load.add_argument("--campaign", required=True, metavar="NAME")
    load.add_argument("--title", help="shown to raters (default: the name)")
    load.add_argument("--instructions", metavar="FILE", help="a Markdown file, shown to raters")
    load.add_argument("--rubric", metavar="FILE", help="a file of questions, one per line: Which is safer? (sides)")
    load.add_argument("--overlap", type=int, metavar="N", help="ratings per item (default: 2)")
    load.add_argument("--strategy", choices=("random", "uncertain"), help="which pair comes next (default: random)")
    load.add_argument(
        "--control",
        type=float,
        metavar="X",
        help="share in random order under --strategy uncertain (default: 0.2)",
    )
    load.add_argument("--gold", type=float, metavar="X", help="share of gold items per rater (default: 0.1)")
    load.add_argument("--repeats", type=float, metavar="X", help="share of items shown twice (default: 0.05)")
    load.add_argument(
        "--lease",
        type=float,
        metavar="S",
        help="seconds until an unrated item is given away (default: 1800)",
    )
    load.add_argument("--seed", type=int, help="seed of the order, the arms and the sides")
    _add_gates(load, "what an export requires (default: 1 rating per item, 1 rater, at most 0.2 of the items flagged)")

    export = command("export", "publish a campaign's ratings as datasets")
    export.add_argument("campaign", metavar="CAMPAIGN")
    export.add_argument("--name", required=True, help="of the preference dataset; NAME-unpaired is the other")
    export.add_argument(
        "--ties",
        choices=("drop", "good", "bad"),
        default="drop",
        help="unpaired rows of a tie (default: none)",
    )
    export.add_argument(
        "--min-margin", type=float, default=0.0, metavar="X", help="count a mean strength of up to X as a tie"
    )
    export.add_argument("--keep-flagged", action="store_true", help="include items that were flagged as harmful")
    _add_gates(export, "replace the campaign's own")

    recall = command("recall", "withdraw a rater's ratings and publish the datasets that contain them again")
    recall.add_argument("--rater", required=True, metavar="HANDLE", help="the rater's pseudonym, such as r17")

    ratings = command("ratings", "the ratings behind a model or dataset")
    ratings.add_argument("ref", metavar="REF", help="dpo:v3")
    ratings.add_argument("--json", action="store_true", help="print one JSON object per rating")

    invite = command("invite", "print a link with which one person creates an account")
    invite.add_argument("--campaign", metavar="NAME", help="the campaign they may rate in")
    invite.add_argument("--role", choices=("rater", "admin"), default="rater")
    invite.add_argument(
        "--url", default="http://127.0.0.1:8000", help="the app's address (default: http://127.0.0.1:8000)"
    )

    command("ls", "list campaigns and their progress")


def _add_gates(parser: argparse.ArgumentParser, description: str) -> None:
    gates = parser.add_argument_group("gates", description)
    gates.add_argument("--min-ratings", type=int, metavar="N", help="leave out items with fewer ratings")
    gates.add_argument("--min-raters", type=int, metavar="N", help="refuse if fewer people rated")
    gates.add_argument("--min-agreement", type=float, metavar="X", help="refuse if Krippendorff's alpha is lower")
    gates.add_argument("--min-gold", type=float, metavar="X", help="refuse if the accuracy on gold items is lower")
    gates.add_argument("--max-flags", type=float, metavar="X", help="refuse if a larger share of items is flagged")


def _run(name: str) -> Callable[[argparse.Namespace], int]:
    def command(arguments: argparse.Namespace) -> int:
        try:
            from align.review import actions
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("align"):
                raise
            raise UserError(
                f"align review needs the extra `review` ({error.name} is not installed): pip install 'align[review]'"
            ) from None
        return actions.ACTIONS[name](arguments)

    return command
