"""Each layout on rows written for this project, and how a file is recognised."""

import pytest

from align.data.layouts.detect import recognise
from align.data.layouts.formats import LAYOUTS
from align.data.layouts.judged import read_annotators
from align.data.layouts.trees import gather
from align.data.layouts.verdicts import majority
from align.data.readers.row import Unreadable
from align.errors import UserError
from align.records import Demonstration, Preference, Prompt, RecordError, Text, UnpairedPreference, prompt_key
from tests.data.data_command import FILES, fixture, load


def user(text):
    return {"role": "user", "content": text}


def said(text):
    return [{"role": "assistant", "content": text}]


Q = "How many legs has a spider?"
P = [user(Q)]
TREE = {
    "message_tree_id": "t",
    "prompt": {
        "role": "prompter",
        "text": Q,
        "replies": [
            {"role": "assistant", "text": "six", "rank": 2, "replies": []},
            {
                "role": "assistant",
                "text": "eight",
                "rank": 0,
                "replies": [
                    {
                        "role": "prompter",
                        "text": "Sure?",
                        "replies": [
                            {"role": "assistant", "text": "yes", "rank": 0, "replies": []},
                            {"role": "assistant", "text": "no", "replies": []},
                        ],
                    }
                ],
            },
            {"role": "assistant", "text": "8", "rank": 1, "replies": []},
            {"role": "assistant", "text": "none", "rank": 3, "deleted": True, "replies": []},
        ],
    },
}
SHAREGPT = {"conversations": [{"from": "human", "value": Q}, {"from": "gpt", "value": "8"}]}

GOLDEN = [
    ("sharegpt", "prompt_completion", SHAREGPT, [Demonstration(P, said("8"))]),
    ("sharegpt", "language_modeling", SHAREGPT, [Text(P + said("8"))]),
    (
        "sharegpt",
        "prompt_completion",
        {"system": "Count.", **SHAREGPT},
        [Demonstration([{"role": "system", "content": "Count."}, *P], said("8"))],
    ),
    (
        "sharegpt",
        "preference",
        {
            "conversations": [{"from": "human", "value": Q}],
            "chosen": {"from": "gpt", "value": "8"},
            "rejected": {"from": "gpt", "value": "6"},
        },
        [Preference(P, said("8"), said("6"))],
    ),
    (
        "messages",
        "prompt_completion",
        {
            "messages": [
                user("Rain?"),
                {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "weather"}}]},
                {"role": "tool", "tool_call_id": "1", "content": "dry"},
                *said("No."),
            ]
        },
        [
            Demonstration(
                [
                    user("Rain?"),
                    {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "weather"}}]},
                    {"role": "tool", "tool_call_id": "1", "content": "dry"},
                ],
                said("No."),
            )
        ],
    ),
    (
        "messages",
        "prompt_completion",
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": Q[:9]}, {"type": "text", "text": Q[9:]}]},
                {"role": "assistant", "content": "8", "weight": 1},
            ]
        },
        [Demonstration(P, said("8"))],
    ),
    (
        "openai_preference",
        "preference",
        {"input": {"messages": P}, "preferred_output": said("8"), "non_preferred_output": said("6")},
        [Preference(P, said("8"), said("6"))],
    ),
    (
        "two_outputs",
        "preference",
        {"input": Q, "output_1": "6", "output_2": "8", "label": 2},
        [Preference(P, said("8"), said("6"))],
    ),
    (
        "two_outputs",
        "preference",
        {"instruction": "Count.", "input": "aa", "output_1": "2", "output_2": "3", "preference": "1"},
        [Preference([user("Count.\n\naa")], said("2"), said("3"))],
    ),
    (
        "two_outputs",
        "preference",
        {"conversation_a": P + said("6"), "conversation_b": P + said("8"), "winner": "model_b"},
        [Preference(P, said("8"), said("6"))],
    ),
    (
        "annotators",
        "preference",
        {"instruction": Q, "input": "", "response1": "8", "response2": "6", "annotator1": 1, "annotator2": 1}
        | {"annotator3": 2},
        [Preference(P, said("8"), said("6"))],
    ),
    (
        "responses",
        "preference",
        {"prompt": Q, "responses": ["6", "8", "eight"], "scores": [0, 2, 2]},
        [Preference(P, said("8"), said("6"), 2.0), Preference(P, said("eight"), said("6"), 2.0)],
    ),
    (
        "responses",
        "preference",
        {"instruction": Q, "completions": [{"response": "6", "rank": 2}, {"response": "8", "rank": 1}]},
        [Preference(P, said("8"), said("6"))],
    ),
    (
        "pairwise_votes",
        "preference",
        {"question": Q, "passages": [["Spiders", "They have eight legs."]], "preference": [2, 0, 1]}
        | {"prediction 1": "6", "prediction 2": "8", "prediction 3": "7"},
        [
            Preference([user(f"Spiders\nThey have eight legs.\n\n{Q}")], said("8"), said("6")),
            Preference([user(f"Spiders\nThey have eight legs.\n\n{Q}")], said("8"), said("7")),
        ],
    ),
    (
        "verdict",
        "unpaired_preference",
        {"prompt": Q, "response": "8", "thumbs": "up"},
        [UnpairedPreference(P, said("8"), True)],
    ),
    (
        "verdict",
        "unpaired_preference",
        {"question": Q, "solution": "6", "is_correct": False},
        [UnpairedPreference(P, said("6"), False)],
    ),
    (
        "message_tree",
        "preference",
        TREE,
        [
            Preference(P, said("eight"), said("8")),
            Preference(P, said("eight"), said("six")),
            Preference(P, said("8"), said("six")),
        ],
    ),
    (
        "message_tree",
        "prompt_completion",
        TREE,
        [Demonstration(P, said("eight")), Demonstration([*P, *said("eight"), user("Sure?")], said("yes"))],
    ),
    ("message_tree", "prompt_only", TREE, [Prompt(P)]),
    (
        "question_answer",
        "prompt_completion",
        {"id": "7", "QUESTION": Q, "CONTEXTS": ["A.", "B."], "LONG_ANSWER": "Eight.", "final_decision": "yes"},
        [Demonstration([user(f"A.\nB.\n\n{Q}")], said("Eight."))],
    ),
    (
        "question_answer",
        "prompt_completion",
        {"ID": "0", "section_header": "CC", "section_text": "Pain.", "dialogue": "Doctor: What?"},
        [Demonstration([user("Doctor: What?")], said("Pain."))],
    ),
    (
        "instances",
        "prompt_completion",
        {"instruction": "Add.", "instances": [{"input": "1 1", "output": "2"}, {"input": "", "output": "?"}]},
        [Demonstration([user("Add.\n\n1 1")], said("2")), Demonstration([user("Add.")], said("?"))],
    ),
    (
        "turns",
        "prompt_only",
        {"question_id": 1, "turns": [Q, "And an ant?"]},
        [Prompt(P, later_turns=("And an ant?",))],
    ),
    ("string", "prompt_only", {"string": Q}, [Prompt(P)]),
    ("alpaca", "prompt_completion", {"instruction": [Q], "input": "", "output": ["8"]}, [Demonstration(P, said("8"))]),
]


@pytest.mark.parametrize("layout, format, row, records", GOLDEN, ids=[f"{one[0]}-{i}" for i, one in enumerate(GOLDEN)])
def test_a_row_becomes_these_records(layout, format, row, records):
    assert LAYOUTS[layout](row, format) == records


@pytest.mark.parametrize("layout, format, row, records", GOLDEN, ids=[f"{one[0]}-{i}" for i, one in enumerate(GOLDEN)])
def test_a_layout_is_recognised_by_content(layout, format, row, records):
    found = recognise([row], "rows.jsonl")
    assert found.layout == layout
    assert found.format == format or format in ("language_modeling", "prompt_only", "prompt_completion")


@pytest.mark.parametrize(
    "layout, row, why",
    [
        ("two_outputs", {"input": "a", "output_1": "b", "output_2": "c", "label": "tie"}, "is a tie"),
        (
            "two_outputs",
            {"input": "a", "output_1": "b", "output_2": "c", "label": "x"},
            'label is "x", and nothing says',
        ),
        ("two_outputs", {"input": "a", "output_1": True, "output_2": "c", "label": 1}, "output_1 is true"),
        ("two_outputs", {"input": "a", "output_1": " ", "output_2": "c", "label": 1}, "output_1 is empty"),
        ("two_outputs", {"input": "a", "output_1": "b", "output_2": "b", "label": 1}, "same as chosen"),
        ("annotators", {"response1": "a", "response2": "b", "annotator1": 5}, "annotator1 is 5, and nothing"),
        ("annotators", {"response1": "a", "response2": "b"}, "annotator1 is missing"),
        ("responses", {"prompt": "a", "responses": ["b", "c"], "scores": [1, 1]}, "is a tie"),
        ("responses", {"prompt": "a", "responses": ["b", "c"]}, "scores are missing"),
        ("responses", {"prompt": "a", "responses": ["b", "c"], "scores": [1, float("nan")]}, "not a finite number"),
        ("responses", {"prompt": "a", "responses": ["b", "c"], "scores": [1]}, "are 1 for 2"),
        (
            "pairwise_votes",
            {"question": "a", "prediction 1": "b", "prediction 2": "c", "preference": []},
            "1 verdicts",
        ),
        ("verdict", {"prompt": "a", "response": "b", "thumbs": "sideways"}, "neither up nor down"),
        ("message_tree", {"prompt": {"role": "prompter", "text": "a", "replies": []}}, "hold no two ranked"),
        ("sharegpt", {"conversations": [{"from": "alien", "value": "a"}]}, 'from is "alien"'),
        ("sharegpt", {"conversations": [{"from": "human", "value": "a"}]}, "there is no completion"),
        ("turns", {"turns": []}, "not a list of questions"),
    ],
)
def test_a_malformed_row_says_why(layout, row, why):
    with pytest.raises(RecordError) as caught:
        LAYOUTS[layout](row, "preference")
    assert why in str(caught.value)


def test_majority_is_more_than_half():
    assert [majority(votes) for votes in ((1, 1, 2), (0, 1, 2), (1, 2), (2,), (0, 0, 1))] == [1, 0, 0, 2, 0]
    row = {"instruction": "a", "response1": "b", "response2": "c", "annotator1": 1, "annotator2": None}
    assert read_annotators(row).verdicts[0].votes == (1,)


def test_a_flat_list_of_messages_becomes_trees():
    flat = [
        (0, {"message_id": "a", "parent_id": None, "role": "prompter", "text": Q}),
        (1, {"message_id": "b", "parent_id": "a", "role": "assistant", "text": "8", "rank": 0}),
        (2, {"message_id": "c", "parent_id": "a", "role": "assistant", "text": "6", "rank": 1}),
        (3, {"message_id": "d", "parent_id": "gone", "role": "assistant", "text": "?"}),
    ]
    (first, tree), (orphan, row) = gather(flat)
    assert (first, orphan) == (0, 3)
    assert LAYOUTS["message_tree"](tree, "preference") == [Preference(P, said("8"), said("6"))]
    with pytest.raises(RecordError, match='no message "gone"'):
        LAYOUTS["message_tree"](row, "preference")


@pytest.mark.parametrize("layout", ["messages", "sharegpt"])
def test_an_answer_of_weight_0_is_not_learnt(layout):
    turns = [*P, {"role": "assistant", "content": "6", "weight": 0}]
    row = {"conversations" if layout == "sharegpt" else layout: turns}
    with pytest.raises(RecordError, match="answer of weight 0"):
        LAYOUTS[layout](row, "prompt_completion")
    assert LAYOUTS[layout](row, "language_modeling") == [Text(P + said("6"))]
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, *said("8")]
    with pytest.raises(RecordError, match="content has a part of type image_url: only text can be read"):
        LAYOUTS["messages"]({"messages": picture}, "prompt_completion")


def test_what_no_layout_fits_is_named_with_its_fields():
    with pytest.raises(UserError, match="rows.csv: no layout is known that has the fields Frage, Recall.*--columns"):
        recognise([{"Frage": "was?", "Recall": "0"}], "rows.csv")
    with pytest.raises(UserError, match="rows.csv: holds numbers alone.*--beside"):
        recognise([{"Precision": "1", "Recall": "0"}, {"Precision": "", "Recall": 0.5}], "rows.csv")
    with pytest.raises(UserError, match="no row of it can be read, the first: is bad"):
        recognise([Unreadable("is bad")], "rows.jsonl")


# TRL's own fields, and the layouts of public sets


def assistant(text):
    return {"role": "assistant", "content": text}


def test_trl_with_its_own_fields():
    rows = fixture("preference.jsonl")
    loaded = load(FILES / "preference.jsonl", "preference", eval_fraction=0)
    assert [record.to_row() for record in loaded.records] == [
        {key: row[key] for key in ("prompt", "chosen", "rejected", "margin")} for row in rows
    ]


@pytest.mark.parametrize("name", ["implicit_preference.jsonl", "ultrafeedback_binarized.jsonl"])
def test_trl_takes_the_prompt_out_of_both_sides(name):
    explicit = {prompt_key(r): r for r in load(FILES / "preference.jsonl", "preference", eval_fraction=0).records}
    records = load(FILES / name, "preference", eval_fraction=0).records
    assert len(records) == len(fixture(name))
    for record in records:
        other = explicit[prompt_key(record)]
        assert (record.prompt, record.chosen, record.rejected) == (other.prompt, other.chosen, other.rejected)


def test_trl_takes_a_repeated_prompt_off_the_sides():
    prompt = [user("a")]
    row = {"prompt": prompt, "chosen": [*prompt, assistant("b")], "rejected": [*prompt, assistant("c")]}
    assert LAYOUTS["trl"](row, "preference") == [Preference(prompt, [assistant("b")], [assistant("c")])]


@pytest.mark.parametrize(
    "row, why",
    [
        ({"chosen": [user("a"), assistant("b")], "rejected": [user("x"), assistant("c")]}, "share no prompt"),
        ({"chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("b")]}, "one conversation"),
        ({"chosen": [user("a"), assistant("b")], "rejected": [user("a")]}, "one begins the other"),
        (
            {"prompt": "z", "chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("c")]},
            "is not in the conversations",
        ),
        ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}, "layout: hh_rlhf"),
        ({"prompt": "a", "chosen": "b"}, "rejected is missing"),
    ],
)
def test_trl_refuses_a_preference_without_a_sure_prompt(row, why):
    with pytest.raises(RecordError) as caught:
        LAYOUTS["trl"](row, "preference")
    assert why in str(caught.value)


def test_messages():
    rows = fixture("messages.jsonl")
    options = {"layout": "messages", "eval_fraction": 0}
    records = load(FILES / "messages.jsonl", "prompt_completion", **options).records
    assert records[0] == Demonstration(rows[0]["messages"][:-1], rows[0]["messages"][-1:])
    tool_call = records[1].prompt[1]
    assert "content" not in tool_call and tool_call["tool_calls"][0]["function"]["name"] == "weather"
    whole = load(FILES / "messages.jsonl", "language_modeling", **options).records
    assert [record.prompt + record.completion for record in records] == [record.content for record in whole]
    assert LAYOUTS["messages"]({"messages": [user("a")]}, "prompt_only") == [Prompt([user("a")])]
    for turns, why in (([user("a")], "do not end"), ([assistant("a")], "have nothing before"), (None, "is missing")):
        with pytest.raises(RecordError, match=f"^messages {why}"):
            LAYOUTS["messages"]({"messages": turns}, "prompt_completion")


def test_hh_rlhf():
    options = {"layout": "hh_rlhf", "eval_fraction": 0}
    loaded = load(FILES / "hh_rlhf.jsonl", "preference", options={"on_bad_rows": "skip"}, **options)
    assert loaded.records == [
        Preference([user("Can a cat swim?")], [assistant("Yes, most can.")], [assistant("Who knows.")]),
        Preference(
            [user("Spell cat."), assistant("c-a-t"), user('And dog? I once read "Human: dog".')],
            [assistant("d-o-g")],
            [assistant("No.")],
        ),
    ]
    assert [(refusal.row, refusal.field) for refusal in loaded.refused] == [(2, "chosen"), (3, "rejected")]
    assert "is empty" in loaded.refused[0].why
    assert "shares no prompt with chosen: they part at turn 1" in loaded.refused[1].why
    for text, why in ((7, "not a transcript"), ("Hello", "does not start"), ("\n\nHuman: a", "does not end with an")):
        with pytest.raises(RecordError, match=f"^chosen.*{why}"):
            LAYOUTS["hh_rlhf"]({"chosen": text, "rejected": "\n\nHuman: a\n\nAssistant: b"}, "preference")


def test_alpaca():
    assert load(FILES / "alpaca.json", "prompt_completion", layout="alpaca", eval_fraction=0).records == [
        Demonstration([user("Sort the letters.\n\nc a b")], [assistant("a b c")]),
        Demonstration(
            [
                {"role": "system", "content": "Be brief."},
                user("Sort the letters: c a b"),
                assistant("a b c"),
                user("And backwards?"),
            ],
            [assistant("c b a")],
        ),
    ]
    for change, why in (
        ({"instruction": ["a", "b"]}, "instruction is"),
        ({"output": " "}, "output is empty"),
        ({"history": [["a"]]}, "history.0. is"),
        ({"history": 7}, "history is 7"),
    ):
        with pytest.raises(RecordError, match=why):
            LAYOUTS["alpaca"]({"instruction": "a", "output": "b", **change}, "prompt_completion")


def test_gsm8k_solutions():
    prompt = [user("Ann has 2 pens and buys 3. How many has she?")]
    options = {"layout": "gsm8k_solutions", "eval_fraction": 0}
    assert load(FILES / "gsm8k_solutions.jsonl", "unpaired_preference", **options).records == [
        UnpairedPreference(prompt, [assistant("2 * 3 = 6\nA: 6")], False, columns={"ground_truth": "A: 5"}),
        UnpairedPreference(prompt, [assistant("2 + 3 = 5\nA: 5")], True, columns={"ground_truth": "A: 5"}),
    ]
    with pytest.raises(RecordError, match="^small: label is missing"):
        LAYOUTS["gsm8k_solutions"]({"question": "a", "small": {"solution": "b"}}, "unpaired_preference")
    with pytest.raises(RecordError, match="^solution is missing"):
        LAYOUTS["gsm8k_solutions"]({"question": "a"}, "unpaired_preference")


def test_columns_rename(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("question,answer,prompt\nTwo?,2,shadowed\n")
    columns = {"prompt": "question", "completion": "answer"}
    assert load(path, "prompt_completion", columns=columns, eval_fraction=0).records == [Demonstration("Two?", "2")]
    with pytest.raises(UserError, match="row 0: prompt should be column 'qestion'"):
        load(path, "prompt_completion", columns={**columns, "prompt": "qestion"})
    with pytest.raises(UserError, match="columns: 'magin' is not a field"):
        load(path, "prompt_completion", columns={"magin": "answer"})
