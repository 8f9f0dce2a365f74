"""Lineages: each source once, each file under its own digest, and drawings in which nothing overlaps."""

import itertools
import xml.etree.ElementTree

import pytest

from align.artifacts.lineage import lineage, tree
from align.artifacts.lineage_layout import Size, lay_out
from align.artifacts.lineage_svg import fit, text_width, to_svg
from align.artifacts.store import Store
from align.artifacts.version import Version
from align.cli import main
from tests.artifacts.versions import publish

SVG = "{http://www.w3.org/2000/svg}"


def record(version: Version) -> dict:
    return {"ref": version.ref, "digest": version.digest, "kind": "artifact", "type": version.manifest.type}


def files(first: str, digest: str, **parts: str) -> dict:
    """What a manifest records of a data set read from files, as `align.data.loading.sources.digest` gives it."""
    named = {split: {"file": file, "sha256": file[0] * 64, "size": 1} for split, file in parts.items()}
    return {"ref": parts[first], "digest": digest * 64, "format": "preference", **named}


@pytest.fixture
def store(tmp_path) -> Store:
    """A demo's worth: sft -> dpo, kto -> evaluate, with the files that each read."""
    store = Store(tmp_path / "store")
    sft = publish(
        store, "sft", inputs={"data.prompt_completion": files("train", "1", train="a.jsonl", eval="b.jsonl")}
    )
    both = {"policy": record(sft), "ref_model": record(sft)}
    pairs = files("train", "2", train="c.jsonl", eval="d.jsonl")
    models = [publish(store, name, inputs=both | {"data.preference": pairs}) for name in ("dpo", "kto")]
    commit = "e" * 40
    hub = {"dataset": "org/set", "config": None, "revision": commit, "source": "hf:org/set"}
    inputs = {
        "policy": [record(model) for model in models],
        "baseline": record(sft),
        "references": [record(sft), record(sft)],
        "data.preference": files("eval", "2", train="c.jsonl", eval="d.jsonl"),
        "data.prompt_only": {
            "ref": f"hf:org/set@{commit}",
            "digest": "3" * 64,
            "train": hub | {"split": "train"},
            "eval": hub | {"split": "test"},
        },
    }
    publish(store, "evaluate", {"report.json": b"{}"}, type="report", inputs=inputs)
    return store


def test_each_source_once_and_each_file_under_its_own_digest(store):
    short = {name: store.resolve(name).digest[:12] for name in store.names()}
    made = store.resolve("sft").manifest.ended[:16].replace("T", " ")
    shown = tree(lineage(store, store.resolve("evaluate"))).replace(f"  {made}", "")
    commit = "e" * 40
    assert shown.splitlines() == [
        f"evaluate:v1  report  {short['evaluate']}",
        f"├─ policy: dpo:v1  model  {short['dpo']}",
        f"│  ├─ policy, ref_model: sft:v1  model  {short['sft']}",
        "│  │  ├─ data.prompt_completion.train: a.jsonl  aaaaaaaaaaaa",
        "│  │  └─ data.prompt_completion.eval: b.jsonl  bbbbbbbbbbbb",
        "│  ├─ data.preference.train: c.jsonl  cccccccccccc",
        "│  └─ data.preference.eval: d.jsonl  dddddddddddd",
        f"├─ policy: kto:v1  model  {short['kto']}",
        f"│  ├─ policy, ref_model: sft:v1  model  {short['sft']}  (see above)",
        "│  ├─ data.preference.train: c.jsonl  cccccccccccc",
        "│  └─ data.preference.eval: d.jsonl  dddddddddddd",
        f"├─ baseline, references: sft:v1  model  {short['sft']}  (see above)",
        "├─ data.preference.eval: d.jsonl  dddddddddddd",  # all that an evaluation reads of it
        f"├─ data.prompt_only.train: hf:org/set@{commit}  split train  {'e' * 12}",
        f"└─ data.prompt_only.eval: hf:org/set@{commit}  split test  {'e' * 12}",
    ]


def boxes(drawing: xml.etree.ElementTree.Element) -> list[tuple[float, float, float, float, list[tuple[str, int]]]]:
    """x, y, width, height of each box, and its texts with their font size."""
    found = []
    for group in drawing.iter(f"{SVG}g"):
        rect = group.find(f"{SVG}rect")
        texts = [(one.text or "", 12 if one.get("class") == "name" else 10) for one in group.iter(f"{SVG}text")]
        found.append((*(float(rect.get(name)) for name in ("x", "y", "width", "height")), texts))
    return found


def check_drawing(text: str) -> int:
    """Nothing leaves its box or the drawing, no two boxes touch; the number of boxes."""
    drawing = xml.etree.ElementTree.fromstring(text)
    found = boxes(drawing)
    whole = [float(drawing.get(name)) for name in ("width", "height")]
    for x, y, width, height, texts in found:
        assert x >= 0 and y >= 0 and x + width <= whole[0] and y + height <= whole[1]
        for content, size in texts:
            assert 10 + text_width(content, size) <= width - 9, content
    for one, other in itertools.combinations(found, 2):
        apart = one[0] + one[2] < other[0] or other[0] + other[2] < one[0]
        assert apart or one[1] + one[3] < other[1] or other[1] + other[3] < one[1]
    return len(found)


def test_a_lineage_as_svg(store, capsys, tmp_path):
    place = tmp_path / "tree.svg"
    assert main(["artifacts", "lineage", "evaluate", "--svg", str(place), "--artifacts", str(store.root)]) == 0
    assert capsys.readouterr().out == f"wrote {place}\n"
    text = place.read_text()
    assert check_drawing(text) == 10
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert text == to_svg(lineage(store, store.resolve("evaluate")))
    words = ["artifacts", "lineage", "dpo", "--svg", str(tmp_path / "no" / "tree.svg"), "--artifacts", str(store.root)]
    assert main(words) == 2


@pytest.mark.parametrize(
    "file",
    [
        "W" * 200 + ".jsonl",
        "数据" * 60 + ".jsonl",
        "a/very/long/way/to/a/file/" * 4 + "pairs.train.jsonl",
        "x",
        "😀" * 50,
    ],
    ids=["wide", "Chinese", "path", "short", "emoji"],
)
def test_no_text_leaves_its_box(tmp_path, file):
    store = Store(tmp_path)
    metrics = {f"a_metric_with_a_name_of_great_length/{'z' * 80}": 0.123456}
    source = {"ref": file, "digest": "f" * 64, "kind": "data", "files": [file * 2, "b"]}
    version = publish(store, "m" * 100, inputs={f"role-{number}": source for number in range(20)}, metrics=metrics)
    assert check_drawing(to_svg(lineage(store, version))) == 2


def test_a_deep_lineage_is_drawn_in_order(tmp_path):
    store = Store(tmp_path)
    parents: dict = {}
    for name in "abcdefgh":
        version = publish(store, name, inputs={"policy": parents} if parents else {})
        parents = record(version)
    text = to_svg(lineage(store, version))
    assert check_drawing(text) == 8
    assert len({box[0] for box in boxes(xml.etree.ElementTree.fromstring(text))}) == 8


def test_no_line_crosses_a_box():
    """A line that is longer than one column has a lane of its own through those between."""
    edges = [
        ("root", "a"),
        ("a", "b"),
        ("b", "c"),
        ("root", "c"),
        ("root", "b"),
        ("a", "d"),
        ("c", "e"),
        ("root", "e"),
    ]
    sizes = {node: Size(100, 60, 40) for node in ("root", *"abcde")}
    layout = lay_out("root", edges, sizes)
    assert layout.routes.keys() == {(parent, child) for child, parent in edges}
    for points in layout.routes.values():
        for (x, y), (to_x, to_y) in itertools.pairwise(points):
            for node, (left, top) in layout.places.items():
                between = min(x, to_x) < left + layout.widths[node] and max(x, to_x) > left
                assert not (between and top < y < top + 60 and y == to_y), node


def test_a_circle_of_forged_manifests_is_drawn():
    layout = lay_out("a", [("a", "b"), ("b", "c"), ("c", "a"), ("b", "b")], dict.fromkeys("abc", Size(10, 10)))
    assert layout.places.keys() == set("abc") and layout.routes.keys() == {("b", "a"), ("c", "b")}


def test_a_text_is_cut_in_its_middle():
    assert fit("short", 10, 100) == "short"
    cut = fit("data/demo/preferences.train.jsonl", 10, 100)
    assert cut.startswith("data/") and cut.endswith(".jsonl") and "…" in cut and text_width(cut, 10) <= 100
