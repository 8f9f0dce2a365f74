"""A file's own words for columns, verdicts and speakers, on the command line and in a run's config."""

import json

import pytest

from align.data.layouts.mapping import Names
from align.data.layouts.parse import Refusal, read_outcomes, reason
from align.data.layouts.recognition import recognise_source
from align.data.loading.sources import DatasetSource, digest
from align.data.record_texts import flat
from align.errors import UserError
from align.records import Demonstration, Preference, RecordError, columns_of, shown
from tests.data.data_command import FILES, load, run, write
from tests.data.test_unread import Rows

CHAT = {"conversations": [{"from": "client", "value": "Two?"}, {"from": "bot", "value": "2"}]}
ROLES = {"client": "user", "bot": "assistant"}
JUDGED = {"frage": "Two?", "output_1": "2", "output_2": "3", "label": "A"}


def test_roles_of_ones_own(tmp_path, capsys):
    file = write(tmp_path / "chat.jsonl", [CHAT] * 3)
    status, _, err = run(capsys, tmp_path / "store", "check", file)
    assert status == 2 and 'is "client", not one of' in err
    status, out, _ = run(capsys, tmp_path / "store", "check", file, "--roles", "client=user,bot=assistant")
    assert status == 0 and "3 in = 3 used" in out
    (record, *_) = load(file, "prompt_completion", layout="auto", roles=ROLES, eval_fraction=0).records
    assert record == Demonstration([{"role": "user", "content": "Two?"}], [{"role": "assistant", "content": "2"}])
    deep = {"conversations": CHAT["conversations"], "more": json.loads("[" * 900 + "]" * 900)}
    with pytest.raises(RecordError, match="nested too deep"):
        Names(roles=ROLES).apply(deep)


def test_a_config_says_which_answer_is_better(tmp_path):
    file = write(tmp_path / "judged.jsonl", [JUDGED])
    words = {"columns": {"question": "frage"}, "eval_fraction": 0, "layout": "two_outputs"}
    (record,) = load(file, "preference", labels={"A": "1", "B": "2"}, **words).records
    assert isinstance(record, Preference) and record.chosen[0]["content"] == "2"
    (record,) = load(file, "preference", labels={"A": "2", "B": "1"}, **words).records
    assert record.chosen[0]["content"] == "3"


def test_the_words_are_part_of_what_a_run_is():
    source = {"train": "preference.jsonl", "eval_fraction": 0.0}
    digests = [
        digest(DatasetSource(**source, **words), "preference", FILES, ["train"])["digest"]
        for words in ({}, {"labels": {}}, {"labels": {"A": "1"}}, {"labels": {"A": "2"}}, {"roles": ROLES})
    ]
    assert digests[0] == digests[1] and len(set(digests)) == 4


@pytest.mark.parametrize(
    "words, message",
    [
        ({"columns": {"magin": "m"}}, "data.preference.columns: 'magin' is not a field"),
        ({"roles": {"bot": "robot"}}, "data.preference.roles: bot is 'robot', which is not one of user, assistant"),
    ],
)
def test_words_that_are_not_ours_are_named(words, message):
    with pytest.raises(UserError, match=message):
        load(FILES / "preference.jsonl", "preference", **words)


QA = {"QUESTION": "Does it help?", "LONG_ANSWER": "It does, in most trials.", "final_decision": "yes"}
PAIR = {"prompt": "Two?", "response_a": "2", "response_b": "3", "vote": "left", "label": "ignored"}


@pytest.mark.parametrize(
    "row, columns, sides",
    [
        (QA, {"completion": "final_decision"}, {"completion": "yes"}),
        (QA | {"answer": "no"}, {"completion": "final_decision"}, {"completion": "yes"}),
        (QA, {"answer": "final_decision"}, {"completion": "yes"}),
        ({"question": "a", "query": "b", "answer": "c"}, {"prompt": "query"}, {"prompt": "b"}),
        ({"system": "x", "question": "a", "persona": "y", "answer": "c"}, {"system": "persona"}, {"prompt": "y\na"}),
        ({"q": "a", "best": "c", "chosen": "d", "worst": "e"}, {"prompt": "q", "chosen": "best", "rejected": "worst"},
         {"chosen": "c", "rejected": "e"}),
        (PAIR, {"output_1": "response_b", "output_2": "response_a", "label": "vote"}, {"chosen": "3"}),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}],
          "chat": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]},
         {"messages": "chat"}, {"completion": "d"}),
    ],
)  # fmt: skip
def test_a_column_that_is_mapped_is_the_one_that_is_read(row, columns, sides):
    names = Names(columns, {"left": "1", "right": "2"} if "vote" in row else {})
    source = Rows("rows.jsonl", None, held=[row] * 3)
    reading = recognise_source(source, names=names)
    record = next(iter(read_outcomes([source], reading))).records[0]
    for side, text in sides.items():
        assert flat(getattr(record, side)) == text


def test_a_column_that_gives_way_to_a_mapped_one_is_reported_as_not_read(tmp_path, capsys):
    file = write(tmp_path / "rows.jsonl", [QA | {"id": i} for i in range(3)])
    status, out, _ = run(capsys, tmp_path, "check", file, "--columns", "completion=final_decision")
    assert status == 0 and "columns not read: LONG_ANSWER (replaced by a mapped column)" in out


def test_a_column_that_gives_way_keeps_its_name_for_reward_functions(tmp_path):
    rows = [{"question": f"q{i}", "answer": f"r{i}", "solution": f"s{i}", "query": f"p{i}"} for i in range(3)]
    file = write(tmp_path / "rows.jsonl", rows)
    loaded = load(file, "prompt_only", layout="auto", columns={"prompt": "query"}, eval_fraction=0)
    assert columns_of(loaded.records[1])["question"] == "q1" and loaded.records[1].prompt[-1]["content"] == "p1"


def test_a_thumb_that_is_mapped_makes_unpaired_preferences(tmp_path, capsys):
    rows = [{"question": "a", "answer": f"b{i}", "thumb": ("up", "down")[i % 2]} for i in range(6)]
    file = write(tmp_path / "rows.jsonl", rows)
    status, out, _ = run(capsys, tmp_path, "check", file, "--columns", "verdict=thumb")
    assert status == 0 and "format     unpaired_preference" in out and "up -> good (3)" in out
    numbers = write(tmp_path / "numbers.jsonl", [row | {"thumb": i % 2} for i, row in enumerate(rows)])
    status, _, err = run(capsys, tmp_path, "check", numbers, "--columns", "verdict=thumb")
    assert status == 2 and "verdict=thumb" in err and "question_answer, which does not read verdict" in err


@pytest.mark.parametrize(
    "row, names, message",
    [
        (
            QA,
            {"columns": {"margin": "final_decision"}},
            "columns margin=final_decision: rows have the layout",
        ),
        (
            QA,
            {"columns": {"completion": "final_decision", "answer": "LONG_ANSWER"}},
            "which does not read completion",
        ),
        (
            PAIR,
            {"labels": {"A": "1", "B": "2"}},
            'labels A=1, B=2: no row has one of these labels; the rows have vote "left"',
        ),
        (QA, {"labels": {"A": "1"}}, "labels A=1: no row has a label column: map one with label=<column>"),
        (QA | {"label": "A"}, {"labels": {"A": "2"}}, "labels A=2: column label holds them, and rows have the layout"),
        (
            CHAT,
            {"roles": {"klient": "user"}},
            "roles klient=user: no row has one of these roles; the speakers are cl",
        ),
        (
            QA,
            {"roles": {"bot": "assistant"}},
            "roles bot=assistant: no row has one of these roles; the rows are not conv",
        ),
        (QA, {"columns": {"prompt": "Frage"}}, "column .Frage., which is missing .the row has QUESTION, LONG_ANSWER"),
    ],
)
@pytest.mark.parametrize("layout", [None, "given"])
def test_a_word_without_effect_is_refused_wherever_rows_are_read(tmp_path, row, names, message, layout):
    file = write(tmp_path / "rows.jsonl", [row] * 3)
    source, words = Rows("rows.jsonl", None, held=[row] * 3), Names(**names)
    chosen = {True: "two_outputs", False: "question_answer"}["vote" in row] if row != CHAT else "sharegpt"
    with pytest.raises(UserError, match=message):
        recognise_source(source, names=words, layout=layout and chosen)
    if "is missing" not in message:
        with pytest.raises(UserError, match=message.replace("rows.jsonl", ".*")):
            load(file, "prompt_completion", layout=chosen if layout else "auto", eval_fraction=0, **names)


def test_prompts_are_made_of_rows_whose_mapping_says_more_than_a_prompt(tmp_path):
    file = write(tmp_path / "rows.jsonl", [{"q": "a", "good": "b", "bad": "c"}] * 3)
    columns = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    assert len(load(file, "prompt_only", layout="auto", columns=columns, eval_fraction=0).records) == 3


def test_a_mapping_that_fits_later_rows_only_is_found_there(tmp_path, capsys):
    later = [{"frage": f"q{i}", "antwort": f"a{i}"} for i in range(5)]
    file = write(tmp_path / "rows.jsonl", [{"kind": "header", "n": i} for i in range(300)] + later)
    columns = ["--columns", "prompt=frage,completion=antwort"]
    status, out, _ = run(capsys, tmp_path, "check", file, *columns)
    assert status == 0 and "305 in = 5 used + 300 refused" in out


@pytest.mark.parametrize(
    "why, reason_of_it",
    [
        ('is "a, b: c (d)", not one of x, y', "is …, not one of x, y"),
        (f"is {shown('x' * 100)}, not a list", "is …, not a list"),
        ('is a list (["a", {"b": 1}]), neither this nor that', "is a list, neither this nor that"),
        ("is 7, not 0 (a tie), 1 or 2", "is …, not 0 (a tie), 1 or 2"),
        ("is true, neither up nor down", "is …, neither up nor down"),
        ("are 5 for 3 answers", "are … for … answers"),
        ("has 12 cells, the header has 3", "has … cells, the header has …"),
        ("is missing (the row has a, b)", "is missing (the row has a, b)"),
    ],
)
def test_refusals_of_one_kind_are_counted_together_and_not_cut(why, reason_of_it):
    assert reason(Refusal("rows.jsonl", 3, "label", why)) == f"label {reason_of_it}"
