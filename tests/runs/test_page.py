"""Curves: as a page that needs no network, and in a terminal."""

import json
import math
import re
import xml.etree.ElementTree

import pytest

from align.runs.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Line, chart, frame_of, thinned, ticks
from align.runs.metrics_file import Curves
from align.runs.page import metric_groups, page
from align.runs.record import Run
from align.runs.terminal import plot


def made(name: str = "dpo", **points) -> tuple[Run, Curves]:
    run = Run(
        "ab" * 32, None, "published", name=name, stage="dpo", metrics={"eval_loss": 0.5}, published=(f"{name}:v1",)
    )
    return run, Curves(points)


def figures(text: str) -> list[xml.etree.ElementTree.Element]:
    """The figures of a page."""
    return [xml.etree.ElementTree.fromstring(part) for part in re.findall(r"<figure.*?</figure>", text, re.S)]


def test_a_page_fetches_nothing_and_shows_what_each_run_logged():
    hostile = "</script><script>alert(1)</script>"
    pairs = [
        made("dpo", **{"loss": [(1, 0.7), (2, 0.5)], "eval_loss": [(2, 0.6)], "time/update": [(1, 3.0)]}),
        made("kto", **{"loss": [(1, 0.9)], hostile: [(1, 1.0), (2, math.nan)]}),
    ]
    text = page(f"Runs {hostile}", pairs)
    assert "http" not in text.replace("http-equiv", "") and "src=" not in text and "@import" not in text
    assert "default-src 'none'" in text and "<script>alert" not in text
    captions = [one.find("figcaption").text for one in figures(text)]
    assert captions == ["loss", hostile, "time/update"]  # the headline's first, clocks last
    assert text.index("<details>") > text.index(">loss<")
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    assert data["chart0"] == [
        {"label": "dpo abababababab", "held": False, "points": [[1, 0.7], [2, 0.5]]},
        {"label": "dpo abababababab", "held": True, "points": [[2, 0.6]]},
        {"label": "kto abababababab", "held": False, "points": [[1, 0.9]]},
    ]
    assert data["chart1"][0]["points"] == [[1, 1.0]]  # NaN leaves a gap


def test_a_page_of_a_run_that_has_logged_nothing():
    assert "these runs have logged nothing" in page("Runs", [made()])


def test_a_metric_and_its_held_out_twin_share_a_chart():
    groups = metric_groups([made(**{"loss": [], "eval_loss": [], "a": [], "rewards/accuracies": []})])
    assert list(groups.items()) == [
        ("rewards/accuracies", ["rewards/accuracies"]),
        ("loss", ["loss", "eval_loss"]),
        ("a", ["a"]),
    ]


@pytest.mark.parametrize(
    "points",
    [
        [(0, 1e-9), (10**6, 1e12)],
        [(5, 0.0), (6, 0.0)],
        [(5, -3.0)],
        [(1, math.inf), (2, math.nan), (3, 0.5), (4, -0.5)],
        [(step, math.sin(step)) for step in range(5000)],
    ],
    ids=["huge", "zero", "one point", "not finite", "long"],
)
def test_nothing_leaves_the_drawing(points):
    (figure,) = figures(chart("loss", [Line("a", 0, points), Line("b", 9, points[:1], held_out=True)], 0))
    svg = figure.find("svg")
    for line in svg.iter("polyline"):
        for place in line.get("points").split():
            x, y = map(float, place.split(","))
            assert LEFT - 0.1 <= x <= WIDTH - RIGHT + 0.1 and TOP - 0.1 <= y <= HEIGHT - BOTTOM + 0.1
    for text in svg.iter("text"):
        width = len(text.text) * 0.62 * 11
        anchor = {"end": width, "middle": width / 2}[text.get("text-anchor")]
        assert float(text.get("x")) - anchor >= -0.5 and float(text.get("x")) - anchor + width <= WIDTH + 0.5, (
            text.text
        )
    labels = [text.text for text in svg.iter("text")]
    assert len(labels) >= 3 and labels[-1] == "step"


def test_a_chart_without_a_finite_value_says_so():
    assert "no finite value" in chart("loss", [Line("a", 0, [(1, math.nan)])], 0) and frame_of([]) is None


def test_a_thinned_line_keeps_its_peaks():
    points = [(step, 0.0) for step in range(10_000)]
    points[7_777] = (7_777, 9.0)
    points[3] = (3, -9.0)
    kept = thinned(points)
    assert len(kept) <= 802 and {(7_777, 9.0), (3, -9.0), (9_999, 0.0)} <= set(kept)
    assert thinned(points[:100]) == points[:100]


def test_ticks_are_round():
    assert ticks(0.0, 1.0) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(-37, 212) == [0, 50, 100, 150, 200]
    assert ticks(3.0, 3.0) == [3.0]


def test_a_plot_in_a_terminal():
    rising = [(step, float(step)) for step in range(11)]
    lines = plot("loss", {"a": rising}, width=10, height=4).splitlines()
    assert lines[0] == "loss" and lines[1].startswith("10 ┤") and lines[4].startswith(" 0 ┤")
    assert lines[5] == "   └──────────" and lines[6] == "    0  step 10"
    assert lines[1].rstrip()[-1] in "⠉⠁⠈⠊⡠⢀⠔⠒" and lines[4][4] != " "
    both = plot("loss", {"up": rising, "down": [(s, 10 - v) for s, v in rising], "none": []}, width=10, height=4)
    assert "a up" in both and "b down" in both and "c none (none)" in both
    rows = [line.partition("┤")[2] for line in both.splitlines()[1:5]]
    assert rows[0][0] == "b" and rows[3][0] == "a"
    assert plot("loss", {"a": [(1, math.nan)]}) == "loss: no finite value"
    assert plot("loss", {"a": [(1, 2.0)]}, width=4, height=2).count("\n") == 4
