"""`align review ...`: the parsers alone, so that `align --help` answers at once and without the extra `review`."""

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

    serve = command("serve", "the web app")
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--host", default="127.0.0.1", help="whom to listen to (default: this machine alone)")
    serve.add_argument("--public-url", metavar="URL", help="how browsers reach it, such as https://review.example.org")

    serve.add_argument(
        "--trusted-proxy",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="a proxy whose X-Forwarded-For names the visitor, such as 127.0.0.1 or 10.0.0.0/8; may be repeated",
    )

    load = command("load", "put comparisons into a campaign, which is made if it is new")
    load.add_argument("source", metavar="REF_OR_FILE", help="comparisons:v1, or ./pairs.jsonl with or without ratings")
    load.add_argument("--campaign", required=True, metavar="NAME")
    load.add_argument("--title", help="for raters (default: the name)")
    load.add_argument("--instructions", metavar="FILE", help="Markdown for raters")
    load.add_argument("--rubric", metavar="FILE", help="questions, one a line: Which is safer? (sides)")
    load.add_argument("--overlap", type=int, metavar="N", help="ratings an item (default: 2)")
    load.add_argument("--strategy", choices=("random", "uncertain"), help="which pair next (default: random)")
    load.add_argument(
        "--control", type=float, metavar="X", help="share in random order under uncertain (default: 0.2)"
    )
    load.add_argument("--gold", type=float, metavar="X", help="share of gold items a rater gets (default: 0.1)")
    load.add_argument("--repeats", type=float, metavar="X", help="share of items asked twice (default: 0.05)")
    load.add_argument("--lease", type=float, metavar="S", help="seconds until an unrated item is free again")
    load.add_argument("--seed", type=int, help="decides order, arms and sides")
    _add_gates(
        load, "what an export of the campaign demands (1 rating of an item, 1 rater, flags on 0.2 of the items)"
    )

    export = command("export", "make datasets of a campaign's ratings")
    export.add_argument("campaign", metavar="CAMPAIGN")
    export.add_argument("--name", required=True, help="of the preference dataset; NAME-unpaired is the other")
    export.add_argument(
        "--ties", choices=("drop", "good", "bad"), default="drop", help="what unpaired rows a tie gives"
    )
    export.add_argument(
        "--min-margin", type=float, default=0.0, metavar="X", help="a mean strength up to this is a tie"
    )
    export.add_argument("--keep-flagged", action="store_true", help="use items that somebody flagged")
    _add_gates(export, "instead of the campaign's own")

    recall = command("recall", "withdraw a rater's ratings and make datasets with them again, without")
    recall.add_argument("--rater", required=True, metavar="HANDLE", help="the pseudonym: r17")

    ratings = command("ratings", "the ratings behind a model or dataset")
    ratings.add_argument("ref", metavar="REF", help="dpo:v3")
    ratings.add_argument("--json", action="store_true", help="every rating as a line of JSON")

    invite = command("invite", "a link that lets one person in")
    invite.add_argument("--campaign", metavar="NAME", help="where they may rate")
    invite.add_argument("--role", choices=("rater", "admin"), default="rater")
    invite.add_argument("--url", default="http://127.0.0.1:8000", help="where the app is reached")

    command("ls", "campaigns and how far they are")


def _add_gates(parser: argparse.ArgumentParser, what: str) -> None:
    gates = parser.add_argument_group("gates", what)
    gates.add_argument("--min-ratings", type=int, metavar="N", help="leave items with fewer out")
    gates.add_argument("--min-raters", type=int, metavar="N", help="refuse with fewer people")
    gates.add_argument("--min-agreement", type=float, metavar="X", help="refuse below this Krippendorff's alpha")
    gates.add_argument("--min-gold", type=float, metavar="X", help="refuse below this accuracy on gold items")
    gates.add_argument("--max-flags", type=float, metavar="X", help="refuse above this share of flagged items")


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
