"""The report: JSON that any reader takes, a table whose columns line up, text that cannot break the page."""

import json
import math

from align.evaluation.report import COLUMNS, NOTES, gain, table, write_report

ROWS = [
    {"model": "reward:v1", "accuracy": 0.9, "ece": 0.03, "margin": 2.5},
    {"model": "sft:v1", "gold": 0.5, "length": 7.25, "ended": 1.0, "perplexity": math.inf},
    {
        "model": "dpo:v1",
        "gold": 0.75,
        "gold_gain": {"mean": 0.25, "low": 0.2, "high": 0.3},
        "win_rate": 0.8,
        "length": 8.0,
        "ended": 0.5,
        "perplexity": math.nan,
    },
]
SAMPLES = [
    {"model": "sft:v1", "prompt": "Say | it.", "completion": "yes\n# <b>Heading</b>", "gold": 0.5},
    {"model": "dpo:v1", "prompt": "Say | it.", "completion": "", "gold": None},
    {"model": "dpo:v1", "prompt": "Another.", "completion": "left out", "gold": 1.0},
]


def refuse(constant):
    raise ValueError(f"{constant} is not JSON")


def test_the_files(tmp_path):
    write_report(tmp_path, rows=ROWS, samples=SAMPLES, shown=1, baseline="sft:v1")
    report = json.loads((tmp_path / "report.json").read_text("utf-8"), parse_constant=refuse)
    assert report["baseline"] == "sft:v1" and [row["model"] for row in report["models"]] == [r["model"] for r in ROWS]
    assert report["models"][2]["gold_gain"] == {"mean": 0.25, "low": 0.2, "high": 0.3}
    assert float(report["models"][1]["perplexity"]) == math.inf
    lines = (tmp_path / "samples.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == SAMPLES


def test_the_page(tmp_path):
    write_report(tmp_path, rows=ROWS, samples=SAMPLES, shown=1, baseline="sft:v1")
    page = (tmp_path / "report.md").read_text("utf-8")
    assert "Baseline: sft:v1." in page and NOTES["gold"] in page and NOTES["kl"] not in page
    assert "- **sft:v1** (0.50): yes # &lt;b>Heading&lt;/b>" in page, page
    assert "- **dpo:v1**: (empty)" in page
    assert "left out" not in page
    assert not any(line.startswith("# ") for line in page.splitlines()[1:])


def test_the_table_lines_up_and_leaves_out_what_nobody_has():
    lines = table(ROWS).splitlines()
    assert len({len(line) for line in lines}) == 1 and len(lines) == 2 + len(ROWS)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == [
        "model",
        "gold score",
        "gain [95% interval]",
        "wins",
        "accuracy",
        "ECE",
        "perplexity",
        "tokens",
        "ended",
    ]
    assert cells[4] == ["dpo:v1", "0.750", "+0.250 [+0.200, +0.300]", "0.80", "", "", "nan", "8.0", "50%"]
    assert cells[2] == ["reward:v1", "", "", "", "0.900", "0.030", "", "", ""]


def test_every_note_is_on_a_column():
    assert set(NOTES) <= {key for key, _, _ in COLUMNS}
    assert gain({"mean": -0.1234, "low": -0.2, "high": 0.05}) == "-0.123 [-0.200, +0.050]"
