"""`align data check`: dirt that was put in is found with its rows, and nothing else."""

import html
import json
import re
from pathlib import Path

import pytest

from align.artifacts.store import Store
from align.cli import main
from align.data.layouts.parse import TIE
from align.data.quality.balance import kto_weights
from align.data.quality.findings import REPAIRS, Report
from align.data.quality.html import to_html
from align.data.quality.plots import histogram
from align.data.quality.repairs import DROPS, FIXES
from align.data.readers.read import read_rows
from align.data.record_texts import role_problem
from tests.data.data_command import change, check, clean, found, said, write

SHARED = Path(__file__).parents[3] / "shared" / "data"


def shared(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"shared/data/{name} is not on this machine")
    return path


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
    ("line_ends", "chosen", "from Windows\r\nto here", "info"),
    ("line_ends", "prompt", "a separator\u2028of lines", "info"),
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
    assert findings["contradictions"]["rows"] == ["5", "20"] and findings["contradictions"]["severity"] == "error"
    assert findings["near_duplicates"]["rows"] == ["31"]


def test_one_answer_with_both_labels_is_a_contradiction(tmp_path, capsys):
    rows = [{"prompt": f"q {i}", "completion": f"a {i}", "label": i % 2 == 0} for i in range(30)]
    rows.append(rows[3] | {"label": True})
    rows += [rows[3], rows[7] | {"label": True}]
    finding = found(check(capsys, write(tmp_path / "rows.jsonl", rows)))["contradictions"]
    assert finding["rows"] == ["3", "7", "30", "31", "32"] and finding["count"] == 5
    assert "in 2 groups" in finding["message"] and finding["examples"] == [["30", "against 3"], ["32", "against 7"]]
    store, name = tmp_path / "store", ["--name", "kept", "--drop", "contradictions"]
    assert main(["data", "import", str(tmp_path / "rows.jsonl"), *name, "--artifacts", str(store)]) == 0
    assert Store(store).resolve("kept").manifest.notes["repairs"] == {"left out: contradictions": 5}


def test_records_that_differ_in_what_they_call_or_think_are_no_duplicates(tmp_path, capsys):
    def row(tool="get_weather", thought="It may rain.", tools=("a",)):
        call = {"type": "function", "function": {"name": tool, "arguments": {"city": "Oslo"}}}
        answer = {"role": "assistant", "content": "", "reasoning_content": thought, "tool_calls": [call]}
        question = {"role": "user", "content": "How is it outside?"}
        return {"prompt": [question], "completion": [answer], "tools": [{"name": name} for name in tools]}

    rows = [row(), row(tool="get_time"), row(thought="Let me look."), row(tools=("a", "b"))]
    assert "exact_duplicates" not in found(check(capsys, write(tmp_path / "rows.jsonl", rows)))
    finding = found(check(capsys, write(tmp_path / "rows.jsonl", [*rows, row(tool="get_time")])))["exact_duplicates"]
    assert finding["rows"] == ["4"] and finding["examples"] == [["4", "the same as 1"]]
    # what is only said in thought, or in the arguments of a call, is looked at like any other words
    rows[2] = row(thought="Write to ann.lee@example.org first.")
    assert found(check(capsys, write(tmp_path / "rows.jsonl", rows)))["emails"]["rows"] == ["2"]


def test_a_negative_margin_is_refused(tmp_path, capsys):
    rows = [row | {"margin": margin} for row, margin in zip(clean(3), (0.0, 1.5, -0.5), strict=True)]
    report = check(capsys, write(tmp_path / "rows.jsonl", rows))
    assert report["records"] == 2
    (refused,) = report["refused"].values()
    assert refused["rows"] == ["2"] and "-0.5, below 0" in refused["example"]


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
    assert set(report["histograms"]["Tokens per side"]["series"]) == {"prompt", "chosen", "rejected"}
    whole = found(check(capsys, file, "--model", "sft:v1", "--artifacts", tiny_store))["truncation"]
    assert "max_length 128;" in whole["message"]  # as a stage takes it: the model's context


def test_a_template_that_never_ends_an_answer_is_an_error(tmp_path, tiny_store, capsys):
    from align.artifacts.store import Store
    from align.models.load import load_tokenizer

    tokenizer = load_tokenizer(Store(tiny_store).resolve("sft:v1").path / "model")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + '\\n' }}{% endfor %}"
    tokenizer.save_pretrained(tmp_path / "model")
    file = write(tmp_path / "rows.jsonl", clean(3))
    end = found(check(capsys, file, "--model", tmp_path / "model"))["missing_end"]
    assert (end["count"], end["of"], end["severity"]) == (3, 3, "error")


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


def test_samples_on_the_page_show_what_is_called_and_thought(tmp_path, capsys):
    call = {"type": "function", "function": {"name": "get_weather", "arguments": {"城市": "Oslo"}}}
    answer = {"role": "assistant", "content": "", "reasoning_content": "It may rain.", "tool_calls": [call]}
    row = {
        "prompt": [{"role": "user", "content": "Rain?"}],
        "completion": [answer],
        "tools": [{"name": "get_weather"}],
    }
    page = tmp_path / "report.html"
    assert main(["data", "check", str(write(tmp_path / "rows.jsonl", [row])), "--html", str(page)]) == 0
    text = html.unescape(page.read_text("utf-8"))
    for shown in ("It may rain.", 'calls get_weather: {"城市": "Oslo"}', '[{"name": "get_weather"}]'):
        assert shown in text


def test_plots_have_both_axes():
    told = {"edges": [0, 10, 20], "series": {"chosen": [1, 3], "rejected": [2, 2]}}
    drawn = histogram("Characters", told)
    assert "share of records" in drawn
    assert re.findall(r">([\d.]+%)</text>", drawn) == ["0%", "37.5%", "75%"]
    heights = [float(y) for y in re.findall(r",([\d.]+)", re.search('points="([^"]*)"', drawn)[1])]
    axis = [float(y) for y in re.findall(r'x="35" y="([\d.]+)"', drawn)]
    assert min(heights) == pytest.approx(axis[2] - 4) and max(heights) == pytest.approx(axis[0] - 4)


def test_answers_that_sft_would_not_learn_are_counted(tmp_path, capsys):
    def chat(turns):
        roles = ["user", "assistant"] * turns
        return {"messages": [{"role": role, "content": f"{role} {i}"} for i, role in enumerate(roles)]}

    report = check(capsys, write(tmp_path / "chats.jsonl", [chat(1), chat(2), chat(3), chat(1)]))
    earlier = found(report)["earlier_answers"]
    assert (earlier["count"], earlier["of"]) == (2, 4) and "experiment=every_turn" in earlier["remedy"]
    assert report["statistics"]["messages before the answer"] == {"1": "50.0%", "3": "25.0%", "5": "25.0%"}
    assert "earlier_answers" not in found(check(capsys, write(tmp_path / "short.jsonl", [chat(1)] * 2)))


def test_every_number_of_messages_is_counted(tmp_path, capsys):
    def chat(turns):
        return {"messages": [{"role": ("user", "assistant")[i % 2], "content": f"{i}"} for i in range(2 * turns)]}

    few = check(capsys, write(tmp_path / "few.jsonl", [chat(turns) for turns in range(1, 11)]))
    assert few["statistics"]["messages before the answer"] == {str(2 * turns - 1): "10.0%" for turns in range(1, 11)}
    many = check(capsys, write(tmp_path / "many.jsonl", [chat(turns) for turns in range(1, 41)]))
    shares = many["statistics"]["messages before the answer"]
    assert list(shares) == ["1", "3", "5", "7-10", "11-20", "21-50", "51-79"]
    assert sum(float(share.rstrip("%")) for share in shares.values()) == pytest.approx(100)


def test_what_the_report_says_mends_the_set_does(tmp_path, capsys):
    rows = clean(40)
    rows[3] = change(rows[3], "chosen", "call me: a\u200bb")
    rows[4] = change(rows[4], "chosen", "write to someone@example.com")
    rows[5] = change(rows[5], "rejected", "yes</s>")
    rows[6] = change(rows[6], "rejected", "lost \ufffd")
    rows[7] = rows[8]
    file = write(tmp_path / "rows.jsonl", rows)
    assert main(["data", "check", str(file)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("fix all")]
    options = line.split(" ... ")[1].split()
    assert {*options[1].split(","), *options[3].split(",")} == {
        *("replacement_characters", "emails", "duplicates", "turn_markers"),
        *("control", "end_markers"),
    }
    store = ["--artifacts", str(tmp_path / "store")]
    assert main(["data", "import", str(file), "--name", "repaired", *options, *store]) == 0
    left = {*Store(tmp_path / "store").resolve("repaired").manifest.notes["findings"]}
    assert not left & {*REPAIRS} - {"outer_space"}
    for repair in REPAIRS.values():
        option, rule = repair.split()
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
    assert err.startswith("left out: scores.csv: holds numbers alone") and "--beside" in err


def test_what_each_stage_would_do_with_a_set(tmp_path, capsys):
    said = {"prompt": "a", "completion": "b"}
    chat = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    text, plain, talk, prompts = (
        check(capsys, write(tmp_path / f"{name}.jsonl", [row]), *more)["stages"]
        for name, row, more in (
            ("text", {"text": "a"}, []),
            ("plain", said, []),
            ("talk", chat, ["--as", "prompt_completion"]),
            ("prompts", {"prompt": "a"}, []),
        )
    )
    assert plain["pretrain"] == "makes 1 language_modeling records of it"
    assert talk["pretrain"] == "cannot read it: it needs language_modeling" and talk["sft"] == "reads its 1 records"
    # what measures takes each kind by itself, and the prompts of any
    assert text["evaluate"] == prompts["evaluate"] == "reads its 1 records"
    assert plain["evaluate"].startswith("makes 1 prompt_only records of it")
    assert plain["score"] == "scores the answers of its 1 records" and "no answers" in prompts["score"]


def test_what_a_layout_leaves_out_is_said(tmp_path, capsys):
    def message(role, text, *replies, **more):
        return {"role": role, "text": text, "replies": list(replies), **more}

    def answers(*ranks):
        return [
            message("assistant", f"answer {at}", **({} if r is None else {"rank": r})) for at, r in enumerate(ranks)
        ]

    tree = {"prompt": message("prompter", "q", *answers(0, 1, None))}
    tree["prompt"]["replies"][0]["replies"] = [message("prompter", "and?", *answers(0))]
    scored = {"prompt": "q", "responses": ["a", "b", "c"], "scores": [1, 2, None]}
    boxed = {"instruction": ["q"], "output": ["a"]}
    cases = [
        (tree, [], "unused_answers", "(unranked 1, alone 1)"),
        (tree, ["--as", "prompt_completion"], "unused_answers", "(not the best 2)"),
        (scored, [], "unscored_answers", "(unscored 1)"),
        ({"turns": ["one?", "two?", "three?"]}, [], "later_turns", "(questions 2)"),
        (boxed, [], "boxed_fields", "(instruction 1, output 1)"),
    ]
    for number, (row, more, name, told) in enumerate(cases):
        finding = found(check(capsys, write(tmp_path / f"{number}.jsonl", [row]), *more))[name]
        assert finding["count"] == 1 and finding["severity"] == "info" and told in finding["message"]
    whole = {"prompt": message("prompter", "q", *answers(0, 1))}
    assert "unused_answers" not in found(check(capsys, write(tmp_path / "whole.jsonl", [whole])))


def test_a_byte_order_mark_is_told(tmp_path, capsys):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfprompt,completion\na,b\n")
    (tmp_path / "b.csv").write_bytes(b"prompt,completion\nc,d\n")
    mark = found(check(capsys, tmp_path))["byte_order_mark"]
    assert (mark["count"], mark["of"], mark["rows"]) == (1, 2, ["a.csv"])


# The public sets: the dirt that their README lists is found


def test_the_dirt_of_hh_rlhf(capsys):
    report = check(capsys, shared("hh-rlhf-harmless"))
    assert {why: entry["rows"] for why, entry in report["refused"].items()} == {
        "chosen is empty: its last Assistant turn says nothing": ["86", "516", "925", "1103"],
        "rejected shares no prompt with chosen: they part at turn …, before the last answer": ["1254"],
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
    gsm8k = check(capsys, shared("gsm8k/train.jsonl"))
    assert gsm8k["rows_used"] == 3000 and found(gsm8k)["line_ends"]["rows"] == ["2381"]
    pandalm = check(capsys, shared("pandalm-human"))
    assert (
        sum(
            pandalm["refused"][f"response{side} is …, neither a string nor a list of messages"]["count"]
            for side in (1, 2)
        )
        == 6
    )
    report = check(capsys, shared("llmbar/Processed_MT-Bench.json"), "--against", shared("mt-bench"))
    assert found(report)["overlap_question.jsonl"]["count"] > 50
    assert to_html([Report(**{key: report[key] for key in Report.__dataclass_fields__ if key != "findings"})])


@pytest.mark.slow
def test_the_dirt_of_the_other_sets(capsys):
    dialogs = found(check(capsys, shared("mts-dialog")))
    assert dialogs["byte_order_mark"]["count"] == 1 and dialogs["line_ends"]["count"] > 1000
    trees = found(check(capsys, shared("open-assistant/en_100_tree.jsonl")))
    assert "unranked" in trees["unused_answers"]["message"]
    medical = found(check(capsys, shared("zhongjing-zh-medical")))
    assert medical["earlier_answers"]["count"] == 590 and medical["boxed_fields"]["count"] == 1500
    pandalm = check(capsys, shared("pandalm-human"))
    blank = [one["count"] for why, one in pandalm["refused"].items() if why.startswith("response") and "empty" in why]
    # two of the 91 ties are between answers one of which is blank, or no text
    assert sum(blank) == 14 and pandalm["refused"][TIE]["count"] == 89
