import math

import pytest

from align.data.conversions import NoConversion, convert
from align.records import (
    FIELDS,
    FORMATS,
    Demonstration,
    Preference,
    Prompt,
    RecordError,
    Text,
    UnpairedPreference,
    kind,
    prompt_key,
)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


STRINGS = {"prompt": "Two and two?", "completion": " four", "chosen": " four", "rejected": " five"}
CHATS = {
    "prompt": [user("Two and two?")],
    "completion": [assistant("four")],
    "chosen": [assistant("four")],
    "rejected": [assistant("five")],
}


@pytest.mark.parametrize("values", [STRINGS, CHATS], ids=["standard", "conversational"])
@pytest.mark.parametrize("format", [name for name in FORMATS if name != "language_modeling"])
def test_a_row_survives_the_round_trip(format, values):
    row = {field: True if field == "label" else values[field] for field in FIELDS[format]}
    record = FORMATS[format].from_row({**row, "id": "x7", "meta": {"a": 1}})
    assert record.to_row() == row
    assert record.format == format
    assert kind(record) == ("standard" if values is STRINGS else "conversational")


def test_text_is_a_string_or_messages():
    assert Text.from_row({"text": "abc"}).to_row() == {"text": "abc"}
    assert Text.from_row({"messages": [user("a")], "text": None}).to_row() == {"messages": [user("a")]}
    with pytest.raises(RecordError, match="^messages is a string"):
        Text.from_row({"messages": "abc"})
    with pytest.raises(RecordError, match="^text is a list"):
        Text.from_row({"text": [user("a")]})


def test_margin_is_kept_and_left_out_where_there_is_none():
    row = {key: STRINGS[key] for key in ("prompt", "chosen", "rejected")}
    assert Preference.from_row({**row, "margin": 2}).to_row()["margin"] == 2.0
    assert Preference.from_row({**row, "margin": "0.5"}).margin == 0.5
    assert "margin" not in Preference.from_row({**row, "margin": None}).to_row()
    for value in (math.nan, math.inf, "much", True, [1], 10**400):
        with pytest.raises(RecordError, match="^margin is "):
            Preference.from_row({**row, "margin": value})


@pytest.mark.parametrize(
    "value, label",
    [(True, True), (False, False), (1, True), (0, False), ("true", True), ("False", False), ("1", True), ("0", False)],
)
def test_labels(value, label):
    row = {"prompt": "a", "completion": "b", "label": value}
    assert UnpairedPreference.from_row(row).label is label


PREFERENCE = {"prompt": "a", "chosen": "b", "rejected": "c"}


@pytest.mark.parametrize(
    "format, row, field, why",
    [
        ("prompt_only", {}, "prompt", "is missing (the row has nothing)"),
        ("prompt_only", {"prompt": None, "question": "x"}, "prompt", "is missing (the row has question)"),
        ("prompt_only", {"prompt": " \n"}, "prompt", 'is empty (" \\n")'),
        ("prompt_only", {"prompt": []}, "prompt", "is empty ([])"),
        ("prompt_only", {"prompt": [user(" ")]}, "prompt", "is empty"),
        ("prompt_only", {"prompt": 7}, "prompt", "is an integer (7), neither a string nor a list of messages"),
        ("prompt_only", {"prompt": {"a": 1}}, "prompt", 'is an object ({"a": 1})'),
        ("prompt_only", {"prompt": ["a"]}, "prompt[0]", 'is a string ("a"), not a message'),
        ("prompt_only", {"prompt": [user("a"), {"content": "x"}]}, "prompt[1]", "has no role"),
        ("prompt_only", {"prompt": [{"role": "user"}]}, "prompt[0]", "has no content"),
        ("prompt_only", {"prompt": [{"role": "", "content": "x"}]}, "prompt[0].role", "is empty"),
        ("prompt_only", {"prompt": [{"role": 3, "content": "x"}]}, "prompt[0].role", "is an integer (3)"),
        ("prompt_only", {"prompt": [{"role": "user", "content": ["x"]}]}, "prompt[0].content", "is a list"),
        ("prompt_only", {"prompt": "a\ud800"}, "prompt", "holds half a surrogate pair at character 1"),
        ("prompt_completion", {"prompt": "a"}, "completion", "is missing"),
        ("prompt_completion", {"prompt": "a", "completion": ""}, "completion", 'is empty ("")'),
        ("prompt_completion", {"prompt": "a", "completion": [assistant("b")]}, "completion", "is a list of messages"),
        ("prompt_completion", {"prompt": [user("a")], "completion": "b"}, "completion", "is a string where prompt is"),
        ("prompt_completion", {"prompt": [user("a")], "completion": [assistant("")]}, "completion", "is empty"),
        ("prompt_completion", {"prompt": [user("a")], "completion": [user("b")]}, "completion", "of role user"),
        (
            "prompt_completion",
            {"prompt": [user("a")], "completion": [assistant("b"), assistant(" ")]},
            "completion",
            "is empty: its last message says nothing",
        ),
        ("preference", {**PREFERENCE, "rejected": "b"}, "rejected", 'is the same as chosen ("b")'),
        ("preference", {**PREFERENCE, "chosen": "\t"}, "chosen", "is empty"),
        ("preference", {**PREFERENCE, "rejected": [assistant("c")]}, "rejected", "is a list of messages where prompt"),
        ("unpaired_preference", {"prompt": "a", "completion": "b"}, "label", "is missing"),
        ("unpaired_preference", {"prompt": "a", "completion": "b", "label": "good"}, "label", 'is a string ("good")'),
        ("unpaired_preference", {"prompt": "a", "completion": "b", "label": 2}, "label", "is an integer (2)"),
        ("unpaired_preference", {"prompt": "a", "completion": "b", "label": 1.0}, "label", "is a float (1.0)"),
        ("language_modeling", {"txt": "a"}, "text", "is missing (the row has txt)"),
    ],
)
def test_a_malformed_row_is_named(format, row, field, why):
    with pytest.raises(RecordError) as caught:
        FORMATS[format].from_row(row)
    assert caught.value.field == field
    assert why in caught.value.why
    assert isinstance(caught.value, ValueError)


def test_tool_calls_stand_for_content():
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    record = Demonstration.from_row({"prompt": [user("a")], "completion": [{**call, "content": None}]})
    assert record.completion == [call]


def test_a_long_value_is_shown_short():
    with pytest.raises(RecordError) as caught:
        Prompt.from_row({"prompt": [{"role": "user", "text": "x" * 10_000}]})
    assert len(str(caught.value)) < 200


def test_conversions():
    pair = Preference.from_row({key: CHATS[key] for key in ("prompt", "chosen", "rejected")} | {"margin": 1.0})
    prompt, four, five = CHATS["prompt"], CHATS["chosen"], CHATS["rejected"]
    assert convert(pair, "preference") == [pair]
    assert convert(pair, "prompt_completion") == [Demonstration(prompt, four)]
    assert convert(pair, "unpaired_preference") == [
        UnpairedPreference(prompt, four, True),
        UnpairedPreference(prompt, five, False),
    ]
    for record in (pair, UnpairedPreference(prompt, five, False), Prompt(prompt)):
        assert convert(record, "prompt_only") == [Prompt(prompt)]
    assert convert(Demonstration("a", " b"), "language_modeling") == [Text("a b")]
    with pytest.raises(RecordError, match="only for strings"):
        convert(Demonstration(prompt, four), "language_modeling")


@pytest.mark.parametrize(
    "record, format",
    [
        (Prompt("a"), "preference"),
        (Demonstration("a", "b"), "unpaired_preference"),
        (UnpairedPreference("a", "b", True), "prompt_completion"),
        (Text("a"), "prompt_only"),
    ],
)
def test_no_conversion_names_both_formats(record, format):
    with pytest.raises(NoConversion, match=f"{record.format}.*{format}"):
        convert(record, format)


def test_prompt_key_is_of_words_and_roles():
    assert prompt_key(Prompt("Two  and\ntwo? ")) == prompt_key(Prompt([user("Two and two?")]))
    assert prompt_key(Demonstration("a", "b")) == prompt_key(Preference("a", "c", "d"))
    assert prompt_key(Prompt([user("a")])) != prompt_key(Prompt([{"role": "system", "content": "a"}]))
    chat = [user("a"), assistant("b"), user("c"), assistant("d")]
    assert prompt_key(Text(chat)) == prompt_key(Demonstration(chat[:-1], chat[-1:]))
    assert prompt_key(Text("a b")) == "a b"


def test_columns_go_along_and_a_demonstration_leaves_its_answer():
    four, level = CHATS["completion"], {"level": 3}
    pair = Preference("a", "b", "c", columns=level)
    assert [record.columns for record in convert(pair, "unpaired_preference")] == [level, level]
    assert convert(Demonstration(CHATS["prompt"], four), "prompt_only")[0].columns == {"answer": "four"}
    own = Demonstration("a", " b", columns={"answer": "B", **level})
    assert convert(own, "prompt_only") == [Prompt("a", columns={"answer": "B", "level": 3})]
    assert convert(own, "language_modeling") == [Text("a b")]
    assert own.to_row() == {"prompt": "a", "completion": " b", "answer": "B", "level": 3}


def test_later_turns_belong_to_a_conversation():
    row = {"prompt": [user("a")], "later_turns": ["b", "c"]}
    assert Prompt.from_row(row) == Prompt([user("a")], later_turns=("b", "c"))
    assert Prompt.from_row(row).to_row() == row
    for value, why in (("b", "is "), (["b", " "], "not a list of what the user says next"), ([3], "not a list")):
        with pytest.raises(RecordError, match=f"^later_turns.*{why}"):
            Prompt.from_row({**row, "later_turns": value})
    with pytest.raises(RecordError, match="later turns need a conversation"):
        Prompt.from_row({**row, "prompt": "a"})
