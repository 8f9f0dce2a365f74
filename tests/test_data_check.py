"""`align data check`: dirt that was put in is found with its rows, and nothing else; broken input is told."""

import gzip
import json
import random
import string
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from align.artifacts.store import Store
from align.cli import main
from align.data.agreement import auc, krippendorff_alpha, pairwise_agreement, wilson
from align.data.layouts.formats import LAYOUTS
from align.data.layouts.recognise import recognise
from align.data.readers import SUFFIXES, read_rows
from align.data.repairs import DROPS, FIXES
from align.data.report import patterns
from align.data.report.balance import kto_weights
from align.data.report.findings import MENDS, Report
from align.data.report.nearness import near_groups, signature, word_hashes
from align.data.report.page import to_html
from align.data.sides import role_problem
from align.errors import UserError
from align.records import RecordError

SHARED = Path(__file__).parents[2] / "shared" / "data"
WORDS = [one + two for one in ("ri", "sto", "la", "co", "ga") for two in ("ver", "ne", "mp", "pper", "rden")]


def shared(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"shared/data/{name} is not on this machine")
    return path


def said(count, seed):
    """Words that are nobody's: two seeds share hardly a triple."""
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) + draw.choice(string.ascii_lowercase) for _ in range(count))


def clean(count, start=0):
    """Pairs whose sides are as long as each other."""
    return [
        {
            "prompt": [{"role": "user", "content": said(12, f"p{i}")}],
            "chosen": [{"role": "assistant", "content": said(20, f"c{i}")}],
            "rejected": [{"role": "assistant", "content": said(20, f"r{i}")}],
        }
        for i in range(start, start + count)
    ]


def change(row, side, text):
    return row | {side: [{**row[side][-1], "content": text}]}


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def check(capsys, *arguments):
    status = main(["data", "check", *map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    assert status == 0, err
    return json.loads(out)


def found(report):
    return {finding["name"]: finding for finding in report["findings"]}


def test_clean_data_is_sound(tmp_path, capsys):
    report = check(capsys, write(tmp_path / "rows.jsonl", clean(200)))
    assert report["findings"] == [] and report["verdict"] == "sound"
    assert report["rows_in"] == report["rows_used"] == report["records"] == 200


DIRT = [
    ("control_characters", "chosen", "a bell \x07 and more", "warning"),
    ("control_characters", "prompt", "hidden \u202e turn", "warning"),
    ("replacement_characters", "rejected", "lost \ufffd bytes", "warning"),
    ("mojibake", "chosen", "the cafÃ© is open", "warning"),
    ("mojibake", "chosen", "itâ€™s open", "warning"),
    ("turn_markers", "chosen", "yes\nHuman: and then?", "warning"),
    ("turn_markers", "prompt", "[INST] go [/INST]", "warning"),
    ("end_markers", "rejected", "all done<|im_end|>", "warning"),
    ("emails", "chosen", "write to ann.lee@example.org today", "warning"),
    ("phones", "chosen", "call +1 (555) 010-7788 now", "warning"),
    ("phones", "rejected", "call 555-010-7788 now", "warning"),
    ("secrets", "chosen", "key AKIAABCDEFGHIJKLMNOP here", "error"),
    ("secrets", "prompt", "-----BEGIN RSA PRIVATE KEY-----", "error"),
    ("refusals", "chosen", "I'm sorry, but I can't help with that.", "info"),
    ("outer_space", "chosen", " leading space", "info"),
]


@pytest.mark.parametrize("name, side, text, severity", DIRT, ids=[f"{one[0]}-{i}" for i, one in enumerate(DIRT)])
def test_dirt_in_a_text_is_found_with_its_row(tmp_path, capsys, name, side, text, severity):
    rows = clean(40)
    rows[17] = change(rows[17], side, text)
    report = check(capsys, write(tmp_path / "rows.jsonl", rows))
    finding = found(report)[name]
    assert (finding["count"], finding["of"], finding["rows"], finding["severity"]) == (1, 40, ["17"], severity)
    assert side in finding["message"] and finding["examples"][0][0] == "17"
    assert set(found(report)) <= {name, "turn_markers"}  # an end marker is a marker too


@pytest.mark.parametrize(
    "text",
    [
        "a line\nand a tab\tare fine",
        "naïve café, Ångström, Ärger",
        "3.14159, 2024-05-06 10:20:30, 192.168.10.12, 1,234,567.89, $1000-2000-3000",
        "sk-learn and a hf_model, x@y, @here",
        "I cannot recommend it enough. Sorry about that!",
        "a < b > c, ## heading, the human: a mystery",
        "👩\u200d👧 family",
    ],
)
def test_what_is_no_dirt_is_not_found(tmp_path, capsys, text):
    rows = clean(40)
    rows[3] = change(rows[3], "chosen", text)
    assert found(check(capsys, write(tmp_path / "rows.jsonl", rows))) == {}


def test_duplicates_contradictions_and_near_duplicates(tmp_path, capsys):
    rows = clean(60)
    rows[10] = rows[4]
    rows[20] = rows[5] | {"chosen": rows[5]["rejected"], "rejected": rows[5]["chosen"]}
    text = said(80, "near")
    rows[30], rows[31] = change(rows[30], "chosen", text), rows[30] | {"chosen": [{**rows[30]["chosen"][0]}]}
    rows[31] = change(rows[30], "chosen", text.replace(text.split()[40], "changed"))
    findings = found(check(capsys, write(tmp_path / "rows.jsonl", rows)))
    assert findings["exact_duplicates"]["rows"] == ["10"]
    assert findings["contradictions"]["rows"] == ["20"] and findings["contradictions"]["severity"] == "error"
    assert findings["near_duplicates"]["rows"] == ["31"]


def test_one_answer_with_both_labels_is_a_contradiction(tmp_path, capsys):
    rows = [{"prompt": f"q {i}", "completion": f"a {i}", "label": i % 2 == 0} for i in range(30)]
    rows.append(rows[3] | {"label": True})
    findings = found(check(capsys, write(tmp_path / "rows.jsonl", rows)))
    assert findings["contradictions"]["rows"] == ["30"]


def test_length_and_position_bias(tmp_path, capsys):
    rows = [
        {
            "instruction": said(9, i),
            "output_1": said(30, f"a{i}"),
            "output_2": said(10, f"b{i}"),
            "label": 1 + (i % 5 == 0),
        }
        for i in range(200)
    ]
    report = check(capsys, write(tmp_path / "rows.jsonl", rows))
    findings = found(report)
    assert findings["length_bias"]["count"] == findings["position_bias"]["count"] == 160
    assert "longer" in findings["length_bias"]["message"] and "first" in findings["position_bias"]["message"]


def test_labels_and_the_kto_weights_they_imply(tmp_path, capsys):
    rows = [{"prompt": said(5, i), "completion": said(9, -i), "label": i % 10 == 0} for i in range(200)]
    finding = found(check(capsys, write(tmp_path / "rows.jsonl", rows)))["label_balance"]
    assert (finding["count"], finding["of"]) == (180, 200) and "trainer.desirable_weight=9" in finding["remedy"]
    assert kto_weights(50, 100) == {"desirable_weight": 2.0, "undesirable_weight": 1.0}
    assert kto_weights(0, 5) == {}


def test_conversations_out_of_turn():
    def turns(*roles):
        return [{"role": role, "content": "x"} for role in roles]

    for good in (("user", "assistant"), ("system", "user", "assistant", "tool", "assistant"), ("user",)):
        assert role_problem(turns(*good)) is None
    for bad, why in (
        (("assistant", "user"), "starts with assistant"),
        (("user", "user"), "user after user at turn 1"),
        (("user", "system"), "system at turn 1"),
        (("user", "assistant", "assistant"), "assistant after assistant at turn 2"),
    ):
        assert role_problem(turns(*bad)) == why


def test_overlap_with_a_benchmark_and_leaks_of_the_prompt(tmp_path, capsys):
    question = said(30, "question")
    bench = tmp_path / "bench.json"
    bench.write_text(json.dumps([{"turns": [question, "then?"]}]))
    rows = clean(30)
    rows[6] = change(rows[6], "prompt", f"Please answer: {question}")
    rows[7] = change(rows[7], "rejected", rows[7]["prompt"][0]["content"] + " again")
    rows[8] = change(rows[8], "prompt", "Which? " + rows[8]["chosen"][0]["content"])
    findings = found(check(capsys, write(tmp_path / "rows.jsonl", rows), "--against", bench))
    assert findings["overlap_bench.json"]["rows"] == ["6"]
    assert findings["overlap_bench.json"]["severity"] == "error"
    assert findings["prompt_in_answer"]["rows"] == ["7"] and findings["answer_in_prompt"]["rows"] == ["8"]


def test_tokens_and_what_max_length_cuts(tmp_path, tiny_store, capsys):
    rows = clean(20)
    rows[2] = change(rows[2], "chosen", said(400, "long"))
    file = write(tmp_path / "rows.jsonl", rows)
    arguments = [file, "--model", "sft:v1", "--max-length", "400", "--artifacts", tiny_store]
    report = check(capsys, *arguments)
    assert found(report)["truncation"]["count"] == 1
    assert report["statistics"]["chosen tokens (of 20)"]["longest"] > 400
    assert set(report["histograms"]["Tokens a side"]["series"]) == {"prompt", "chosen", "rejected"}


def test_severities_decide_the_exit_code(tmp_path, capsys):
    rows = clean(30)
    rows[3] = change(rows[3], "chosen", "a \ufffd b")
    file = write(tmp_path / "rows.jsonl", rows)
    assert [main(["data", "check", str(file), "--strict", one]) for one in ("never", "error", "warning")] == [0, 0, 1]
    capsys.readouterr()


def test_text_and_page_say_what_json_says_and_need_nothing_else(tmp_path, capsys):
    rows = clean(60)
    rows[3] = change(rows[3], "chosen", "<script>alert(1)</script> \ufffd & more")
    rows[4] = rows[4] | {"chosen": ""}
    file = write(tmp_path / "rows.jsonl", rows)
    assert main(["data", "check", str(file), "--html", str(tmp_path / "out" / "r.html")]) == 0
    text = capsys.readouterr().out
    assert "60 in = 59 used + 1 refused" in text and "WARNING: replacement_characters: 1 of 59" in text
    page = (tmp_path / "out" / "r.html").read_text("utf-8")
    assert "<svg" in page and "replacement characters" in page and "&lt;script&gt;alert" in page
    for outside in ("<script", "http:", "https:", "url(", "@import", "src=", "<link"):
        assert outside not in page


def test_answers_that_sft_would_not_learn_are_counted(tmp_path, capsys):
    def chat(turns):
        roles = ["user", "assistant"] * turns
        return {"messages": [{"role": role, "content": f"{role} {i}"} for i, role in enumerate(roles)]}

    report = check(capsys, write(tmp_path / "chats.jsonl", [chat(1), chat(2), chat(3), chat(1)]))
    earlier = found(report)["earlier_answers"]
    assert (earlier["count"], earlier["of"]) == (2, 4) and "experiment=every_turn" in earlier["remedy"]
    assert report["statistics"]["messages before the answer"] == {"1": "50.0%", "3": "25.0%", "5": "25.0%"}
    assert "earlier_answers" not in found(check(capsys, write(tmp_path / "short.jsonl", [chat(1)] * 2)))


def test_what_the_report_says_mends_the_set_does(tmp_path, capsys):
    rows = clean(40)
    rows[3] = change(rows[3], "chosen", "call me: a\u200bb")
    rows[4] = change(rows[4], "chosen", "write to someone@example.com")
    rows[5] = change(rows[5], "rejected", "yes</s>")
    rows[6] = change(rows[6], "rejected", "lost \ufffd")
    rows[7] = rows[8]
    file = write(tmp_path / "rows.jsonl", rows)
    assert main(["data", "check", str(file)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("mend all")]
    options = line.split(" ... ")[1].split()
    assert {*options[1].split(","), *options[3].split(",")} == {
        *("replacement_characters", "emails", "duplicates", "turn_markers"),
        *("control", "end_markers"),
    }
    store = ["--artifacts", str(tmp_path / "store")]
    assert main(["data", "import", str(file), "--name", "mended", *options, *store]) == 0
    assert not {*Store(tmp_path / "store").resolve("mended").manifest.notes["findings"]} & {*MENDS} - {"outer_space"}
    for mend in MENDS.values():
        option, rule = mend.split()
        assert rule in {"--fix": FIXES, "--drop": DROPS}[option]


def test_files_of_several_layouts_are_reported_apart(tmp_path, capsys):
    write(tmp_path / "a.jsonl", clean(5))
    write(tmp_path / "b.jsonl", clean(5, start=5))
    write(tmp_path / "c.jsonl", [{"text": "one text"}])
    (tmp_path / "README.md").write_text("not data")
    (tmp_path / "scores.csv").write_text("precision,recall\n1,0\n")
    assert main(["data", "check", str(tmp_path), "--json"]) == 0
    out, err = capsys.readouterr()
    pairs, text = json.loads(out)
    assert [file["name"] for file in pairs["files"]] == ["a.jsonl", "b.jsonl"] and pairs["records"] == 10
    assert text["format"] == "language_modeling"
    assert err.startswith("left out: scores.csv: no layout is known that has the fields precision, recall")


# The measures


def test_krippendorffs_alpha_as_in_the_literature():
    # Krippendorff, "Computing Krippendorff's alpha-reliability" (2011), part C: nominal data of four observers: 0.743
    data = [
        (1, 1, 1), (2, 2, 3, 2), (3, 3, 3, 3), (3, 3, 3, 3), (2, 2, 2, 2), (1, 2, 3, 4), (4, 4, 4, 4), (1, 1, 2, 1),
        (2, 2, 2, 2), (5, 5, 5), (1, 1), (3,),
    ]  # fmt: skip
    assert krippendorff_alpha(data) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha([(1, 1), (1, 1)]) is None and krippendorff_alpha([(1,)]) is None
    assert pairwise_agreement([(1, 1, 2), (1, 2)]) == 0.25


def test_auc_and_wilson_against_other_ways():
    draw = np.random.default_rng(0)
    one, other = draw.integers(0, 20, 60), draw.integers(3, 23, 50)
    pairs = [(a > b) + (a == b) / 2 for a in one for b in other]
    assert auc(one, other) == pytest.approx(np.mean(pairs))
    low, high = wilson(30, 100)  # statsmodels.stats.proportion.proportion_confint(30, 100, method="wilson")
    assert (low, high) == pytest.approx((0.21895, 0.39585), abs=1e-4)


def test_signatures_estimate_the_share_of_common_triples():
    errors = []
    for seed in range(60):
        words = said(120, seed).split()
        other = [*words]
        for place in random.Random(seed).sample(range(120), seed % 20):
            other[place] = f"other{place}"
        sets = [{tuple(text[i : i + 3]) for i in range(118)} for text in (words, other)]
        truth = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
        hashes = [signature(word_hashes(" ".join(one)))["hashes"] for one in (words, other)]
        estimate = (hashes[0] == hashes[1]).mean()
        errors.append(estimate - truth)
    # a share p from 64 hashes has a standard deviation of at most 1/16
    assert abs(np.mean(errors)) < 0.03 and np.std(errors) < 1 / 16
    assert near_groups(np.concatenate([signature(word_hashes(text)) for text in ("a b c d", "x y z", "a b c d")])) == [
        [0, 2]
    ]


@pytest.mark.parametrize(
    "text, language",
    [
        ("The cat is on the table and what do you want", "English"),
        ("Der Hund ist nicht auf dem Tisch und das ist gut", "German"),
        ("Le chat est sur la table et je ne sais pas pour vous", "French"),
        ("医生，我得了感冒，应该怎么办？", "Chinese"),
        ("これはペンです。とても良い。", "Japanese"),
        ("Привет, как дела сегодня", "Cyrillic"),
        ("12345 !!", "?"),
    ],
)
def test_language_is_guessed(text, language):
    assert patterns.language_of(text) == language


def test_mojibake_comes_back_only_where_it_is_sure():
    for text in ("café", "naïve “quotes”", "straße", "it’s"):
        broken = text.encode("utf-8").decode("cp1252", "replace")
        assert "\ufffd" in broken or patterns.unmix(broken) == text
    assert patterns.unmix("plain") is None and patterns.unmix("Ã la carte") is None


# Broken input: a sentence or a refused row, never a traceback


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = """
prompt chosen rejected completion label text messages conversations role from value content output_1 output_2
responses scores ranks annotator1 response1 response2 preference question answer instances turns replies rank
instruction input output is_correct margin solution history string message_id parent_id user_message_id
"""
NAMES = st.sampled_from(FIELDS.split())
ROWS = st.dictionaries(NAMES, JSONS, max_size=6)


@given(row=ROWS, format=st.sampled_from(["preference", "prompt_completion", "prompt_only", "language_modeling"]))
@settings(max_examples=150, deadline=None)
def test_no_row_breaks_a_layout(row, format):
    for name, layout in LAYOUTS.items():
        try:
            records = layout(row, format)
        except RecordError:
            continue
        assert records, name
        json.dumps([record.to_row() for record in records])


@given(rows=st.lists(ROWS, min_size=1, max_size=5))
@settings(max_examples=100, deadline=None)
def test_no_rows_break_recognition(rows):
    try:
        recognise(rows, "rows.json")
    except UserError as error:
        assert "\n" not in str(error)


GOOD = "".join(json.dumps(row) + "\n" for row in clean(3)).encode()
DEEP = b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}\n"


@given(
    suffix=st.sampled_from(SUFFIXES),
    data=st.binary(max_size=200)
    | st.sampled_from([b"", GOOD[:101], GOOD[:100] + b"\xff" + GOOD[100:], DEEP, b"PK\x03\x04"])
    | JSONS.map(lambda value: json.dumps(value).encode()),
    packed=st.booleans(),
)  # fmt: skip
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_file_gives_a_traceback(tmp_path, capsys, suffix, data, packed):
    file = tmp_path / f"rows{suffix}{'.gz' if packed else ''}"
    file.write_bytes(gzip.compress(data) if packed else data)
    status = main(["data", "check", str(file)])
    err = capsys.readouterr().err
    assert status == 0 or (status == 2 and err.startswith("error: ")), err


WORDS_OF_SIDES = {side: st.text(max_size=20) for side in ("prompt", "chosen", "rejected")}
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": st.none() | st.text(max_size=20)}
)
NODE = st.fixed_dictionaries(
    {
        "message_id": st.text(max_size=2),
        "parent_id": st.none() | st.text(max_size=2),
        "role": st.sampled_from(["prompter", "assistant", "nobody"]),
        "text": st.text(max_size=9),
        "rank": st.none() | st.integers(0, 3),
    }
)
NEARLY = (
    st.fixed_dictionaries(WORDS_OF_SIDES)
    | st.fixed_dictionaries({side: st.lists(MESSAGE, max_size=3) for side in WORDS_OF_SIDES})
    | st.fixed_dictionaries({"prompt": st.text(), "completion": st.text(), "label": st.booleans() | JSONS})
    | NODE
    | ROWS
)
EVERY_RULE = ["--fix", ",".join(FIXES), "--drop", ",".join(DROPS)]


@pytest.mark.slow
@given(rows=st.lists(NEARLY, min_size=1, max_size=6), more=st.sampled_from([[], EVERY_RULE, ["--as", "prompt_only"]]))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_import_accounts_for_every_row_or_says_a_sentence(tmp_path, capsys, rows, more):
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        file, root = Path(folder, "rows.json"), Path(folder, "store")
        file.write_text(json.dumps(rows))
        command = ["data", "import", str(file), "--name", "x", "--refuse", "never", "--artifacts", str(root)]
        status = main([*command, *more])
        err = capsys.readouterr().err
        if status:
            assert status == 2 and err.startswith("error: ") and err.count("\n") == 1 and not Store(root).names()
            return
        notes = Store(root).resolve("x").manifest.notes
        assert notes["rows_in"] == len(rows) == notes["rows_used"] + sum(notes["rows_refused"].values())


def test_deeply_nested_values_are_refused(tmp_path, capsys):
    for depth in (100, 900, 5000):
        nested = "[" * depth + "]" * depth
        file = tmp_path / "rows.jsonl"
        file.write_text(json.dumps(clean(1)[0]) + f'\n{{"prompt": {nested}, "chosen": "a", "rejected": "b"}}\n')
        report = check(capsys, file)
        assert (report["records"], report["rows_refused"]) == (1, 1)


# The public sets: the dirt that their README lists is found


def test_the_dirt_of_hh_rlhf(capsys):
    report = check(capsys, shared("hh-rlhf-harmless"))
    assert {why: entry["rows"] for why, entry in report["refused"].items()} == {
        "chosen is empty": ["86", "516", "925", "1103"],
        "rejected shares no prompt with chosen": ["1254"],
    }
    # an independent count: rows whose chosen side has a turn's word anywhere but at the start of a turn
    inline = []
    for number, row in read_rows(shared("hh-rlhf-harmless/harmless-base.test.jsonl")):
        if "Human:" in row["chosen"].replace("\n\nHuman:", ""):
            inline.append(str(number))
    assert len(inline) == 26
    marked = found(report)["turn_markers"]
    assert set(inline) - {"86", "516", "925", "1103", "1254"} <= set(marked["rows"]) and marked["count"] < 40


def test_line_separators_and_other_dirt_do_not_hide_rows(capsys):
    assert check(capsys, shared("gsm8k/train.jsonl"))["rows_used"] == 3000
    pandalm = check(capsys, shared("pandalm-human"))
    assert pandalm["refused"]["response1 is true"]["count"] + pandalm["refused"]["response2 is true"]["count"] == 6
    report = check(capsys, shared("llmbar/Processed_MT-Bench.json"), "--against", shared("mt-bench"))
    assert found(report)["overlap_question.jsonl"]["count"] > 50
    assert to_html([Report(**{key: report[key] for key in Report.__dataclass_fields__ if key != "findings"})])
