"""The pages' templates, and how they write numbers and times."""

import json
import time
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, select_autoescape

from align.review import plots
from align.review.messages import LANGUAGES, role_name
from align.review.rendering import as_code, turns

FOLDER = Path(__file__).parent / "templates"


def load_templates() -> Environment:
    """Every template, whose values are escaped; read once."""
    made = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=select_autoescape(default=True),
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(turns=turns, as_code=as_code, plots=plots, languages=LANGUAGES, role_name=role_name)
    made.filters["share"] = lambda value: "–" if value is None else f"{value:.0%}"
    made.filters["number"] = lambda value, digits=2: "–" if value is None else f"{value:.{digits}f}"
    made.filters["plain"] = lambda value: "" if value is None else f"{value:g}"
    made.filters["when"] = lambda at: time.strftime("%Y-%m-%d %H:%M", time.gmtime(at))
    made.filters["left_range"] = lambda one: (one.rater, one.left, one.left_low, one.left_high)
    made.filters["seconds_of"] = lambda one: (one.rater, round(one.seconds, 1))
    made.filters["json"] = lambda value: json.dumps(value, ensure_ascii=False)
    return made
