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
    """The templates, read once; all values are escaped."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=select_autoescape(default=True),
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(turns=turns, as_code=as_code, plots=plots, languages=LANGUAGES, role_name=role_name)
    environment.filters["share"] = lambda value: "–" if value is None else f"{value:.0%}"
    environment.filters["number"] = lambda value, digits=2: "–" if value is None else f"{value:.{digits}f}"
    environment.filters["plain"] = lambda value: "" if value is None else f"{value:g}"
    environment.filters["when"] = lambda at: time.strftime("%Y-%m-%d %H:%M", time.gmtime(at))
    environment.filters["left_range"] = lambda report: (report.rater, report.left, report.left_low, report.left_high)
    environment.filters["seconds_of"] = lambda report: (report.rater, round(report.seconds, 1))
    environment.filters["json"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment
