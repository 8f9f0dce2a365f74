"""The layouts of public sets, on a few rows written for this project in each: the records that come of them.

The files are in tests/data/files/layouts; each is named after the project whose layout it has.
"""

import re

import pytest

from align.config.paths import PROJECT
from align.data.layouts.columns import answer_number, canonical
from align.data.layouts.detect import UndefinedLabels
from align.data.layouts.formats import LAYOUTS, READS
from align.data.layouts.parse import read_outcomes
from align.data.layouts.recognition import recognise_source
from align.data.layouts.unread import ColumnUse
from align.data.quality.columns import column_findings
from align.data.readers.files import find_sources
from align.errors import UserError
from align.records import Demonstration, Preference, Prompt, Text, UnpairedPreference, without_columns
from tests.data.data_command import FILES, check, found, run
from tests.data.test_layouts import GOLDEN
from tests.data.test_unread import Rows

LAYOUT_FILES = FILES / "layouts"


def system(text):
    return {"role": "system", "content": text}


def user(text):
    return {"role": "user", "content": text}


def said(text):
    return {"role": "assistant", "content": text}


def result(text):
    return {"role": "tool", "content": text}


def call(name, **arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def pair(prompt, chosen, rejected, margin=None, tools=None):
    prompt = [user(prompt)] if isinstance(prompt, str) else prompt
    return Preference(prompt, [said(chosen)], [said(rejected)], margin, tools)


def shown(prompt, answer, tools=None):
    prompt = [user(prompt)] if isinstance(prompt, str) else prompt
    return Demonstration(prompt, [said(answer)], tools)


def judged(prompt, answer, label):
    return UnpairedPreference([user(prompt)], [said(answer)], label)


TEMPERATURE = {"type": "object", "properties": {"city": {"type": "string"}}}
TEMPERATURE = {"name": "temperature", "description": "Degrees in a city", "parameters": TEMPERATURE}
DISTANCE = {"a": {"type": "string"}, "b": {"type": "string"}}
DISTANCE = {"type": "dict", "properties": DISTANCE, "required": ["a", "b"]}
DISTANCE = {"name": "distance", "description": "Between two cities", "parameters": DISTANCE}
MOSS = system("You are MOSS.\n- Calculator: enabled. API: Calculate(expression)\n")
CHILD = system("Explain to a child.")

RECORDS = {
    "llama_factory_alpaca": [
        shown(
            [
                system("Answer in one word."),
                user("Which country has Oslo?"),
                said("Norway."),
                user("Name the capital.\n\nFrance"),
            ],
            "Paris.",
        ),
        shown("Say hello.", "Hello!"),
    ],
    "llama_factory_alpaca_preference": [
        pair("Put this in order.\n\n3 1 2", "1 2 3", "3 2 1"),
        pair("Say thanks.", "Thank you!", "OK."),
    ],
    "llama_factory_alpaca_kto": [judged("Add.\n\n2 and 3", "5", True), judged("Add.\n\n2 and 4", "7", False)],
    "llama_factory_messages_kto": [judged("Is ice cold?", "Yes.", True), judged("Is fire cold?", "Yes.", False)],
    "llama_factory_sharegpt_kto": [judged("Is the sea salty?", "No.", False), judged("Is sugar sweet?", "Yes.", True)],
    "llama_factory_sharegpt_preference": [
        pair(
            [user("Hi."), said("Hello!"), user("Where do penguins live?")],
            "Mostly in the Antarctic.",
            "At the North Pole.",
        )
    ],
    "llama_factory_sharegpt_tools": [
        shown(
            [
                system("You may look up the weather."),
                user("How warm is it in Bergen?"),
                {"role": "assistant", "tool_calls": [call("temperature", city="Bergen")]},
                result('{"celsius": 11}'),
            ],
            "It is 11 degrees in Bergen.",
            [TEMPERATURE],
        )
    ],
    "llama_factory_images": [shown("<image>What is on the table?", "A blue cup.")],
    "swift_rejected_response": [
        pair([system("Be exact."), user("How many days has a week?")], "Seven.", "Five or so.")
    ],
    "swift_rejected_messages": [pair("How many legs has an ant?", "Six.", "Eight.")],
    "swift_query_response": [
        shown(
            [
                system("Talk like a sailor."),
                user("How is the weather?"),
                said("Storm ahead, mate."),
                user("And tomorrow?"),
            ],
            "Fair winds, mate.",
        ),
        shown("Who are you?", "The helmsman."),
    ],
    "swift_conversation": [
        shown([system("Be brief."), user("Is glass hard?"), said("Yes."), user("Is wool?")], "No."),
    ],
    "swift_tool_calls": [
        shown(
            [
                user("Time in Rome and in Lima?"),
                {"role": "assistant", "tool_calls": [call("clock", city="Rome"), call("clock", city="Lima")]},
                result("18:00"),
                result("11:00"),
            ],
            "18:00 in Rome, 11:00 in Lima.",
            [{"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}],
        )
    ],
    "safe_rlhf": [
        pair("How do I open a jar?", "Warm the lid.", "Smash it."),
        pair("How do I dry boots?", "With newspaper inside.", "In the oven."),
    ],
    "align_anything": [pair("What is in the picture?", "A brown horse on a meadow.", "A horse.")],
    "helpsteer": [
        shown("Why is snow white?", "Its crystals scatter all colours alike."),
        shown("Why is snow white?", "Because."),
    ],
    "helpsteer2_preference": [
        pair("How do I boil an egg?", "In water, for eight minutes.", "Boil it.", 2.0),
        pair("Name a fruit.", "A plum.", "Stone.", 3.0),
    ],
    "helpsteer3": [
        pair("Name a fruit.", "A plum.", "Stone.", 3.0),
        pair([user("Hi"), said("Hello"), user("Name a tool.")], "A saw.", "A plum.", 1.0),
    ],
    "ratings": [shown("Name a river.", "The Danube."), shown("Name a lake.", "Water.")],
    "nectar": [
        pair("Name a spice.", "Cinnamon.", "Soup."),
        pair("Name a spice.", "Cinnamon.", "Salt."),
        pair("Name a spice.", "Salt.", "Soup."),
    ],
    "ultrafeedback": [pair("Give a rhyme for day.", "Way.", "Night.", 6.0)],
    "orca_dpo": [
        pair([CHILD, user("Why do we sleep?")], "So that body and head can rest.", "Adenosine."),
        pair("What is dew?", "Water that settles at night.", "Rain."),
    ],
    "orca_dpo_distilabel": [pair([CHILD, user("Why do we sleep?")], "So that body and head can rest.", "Adenosine.")],
    "medicalgpt_reward": [
        pair(
            [system("你是一名助手。"), user("你好"), said("你好！"), user("怎样泡茶？")],
            "用热水泡三分钟。",
            "不知道。",
        )
    ],
    "medicalgpt_tools": [
        pair(
            "现在几点？",
            "Action: clock\nAction Input: {}",
            "大概中午。",
            tools=[{"name": "clock", "parameters": {"type": "object", "properties": {}}}],
        )
    ],
    "oasst_messages": [pair("Name a bird.", "The wren.", "The bat.")],
    "fastchat_question": [
        Prompt([user("Write a line about rain.")], later_turns=("Now about snow.",)),
        Prompt([user("What is 2 + 2?")], later_turns=("And times 3?",)),
    ],
    "bfcl": [
        Prompt([user("How far is it from Bonn to Kiel?")], [{"type": "function", "function": DISTANCE}]),
        Prompt(
            [user("How far is it from Rome to Bari?")],
            [{"type": "function", "function": DISTANCE}],
            later_turns=("And back?",),
        ),
    ],
    "moss_plugins": [
        shown(
            [
                MOSS,
                user("What is 17 times 3?"),
                {
                    "role": "assistant",
                    "reasoning_content": "This needs the calculator.",
                    "tool_calls": [call("Calculate", expression="17*3")],
                },
                result('Calculate("17*3") => 51'),
                said("It is 51."),
                user("Thanks."),
            ],
            "You are welcome.",
        )
    ],
    "alpaca_text": [shown("Say the opposite.\n\nhot", "cold")],
    "spreadsheet": [pair("Name a tree.", "Oak.", "Stone."), pair("Name a fish.", "Trout.", "Cow.")],
}
UNREAD = {
    "llama_factory_images": "images",
    "safe_rlhf": "safer_response_id",
    "align_anything": "image",
    "helpsteer": "correctness",
    "helpsteer2_preference": "preference_statement",
    "helpsteer3": "individual_preference",
    "nectar": "good_natured",
    "ultrafeedback": "completions.custom_system_prompt",
    "orca_dpo_distilabel": "rating",
    "oasst_messages": "labels",
}
"""A file -> the first column that its layout does not read and that looks as if it should have been."""


def source_of(name):
    (path,) = LAYOUT_FILES.glob(f"{name}.*")
    (source,) = find_sources([str(path)])
    return source


def read(source, **options):
    reading = recognise_source(source, **options)
    use = ColumnUse(reading)
    records = []
    for outcome in read_outcomes([source], reading):
        use.observe(outcome)
        records += map(without_columns, outcome.records)
    return records, use


@pytest.mark.parametrize("name", RECORDS)
def test_a_file_becomes_these_records(name):
    records, use = read(source_of(name))
    assert records == RECORDS[name]
    findings = []
    column_findings(use, findings, rows=len(records), chosen=False)
    unread = [column.name for column in use.unread() if column.looks_like]
    assert (unread == []) == (findings == []) == (name not in UNREAD)
    assert UNREAD.get(name) in [None, *unread]


def test_every_file_is_tried():
    names = {path.stem for path in LAYOUT_FILES.iterdir()}
    assert names == RECORDS.keys() | {"auto_j", "fastchat_answer"}


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize(
    "column, value", [("human_label", True), ("score_of_judge", 3), ("my_rejected_answer", "No.")]
)
def test_no_file_hides_a_judgement(name, column, value):
    """A judgement added to every row of a file in a public layout is a finding."""
    source = source_of(name)
    rows = [{**row, column: value} for _, row in source.rows()]
    _, use = read(Rows(source.name, None, held=rows))
    assert column in [one.name for one in use.unread() if one.looks_like]


SIBLINGS = {"annotators": "two_outputs", "verdict": "question_answer"}
RARE = {"deleted", "review_result", "contexts", "long_answer", "section_text"}


def test_the_columns_that_a_layout_is_said_to_read_are_those_it_reads():
    """`align data rules` and the guide name every layout, and the columns that its samples are read from."""
    guide = (PROJECT / "docs/guides/data.md").read_text("utf-8")
    table = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|$", guide, re.MULTILINE))
    assert {name: columns.replace("`", "") for name, columns in table.items()} == READS
    assert READS.keys() == LAYOUTS.keys()
    samples = [[row] for _, _, row, _ in GOLDEN] + [[row for _, row in source_of(name).rows()] for name in RECORDS]
    for rows in samples:
        _, use = read(Rows("rows.jsonl", None, held=rows))
        layout = use.reading.layout
        named = set(re.findall(r"[\w.]+", f"{READS[layout]} {READS.get(SIBLINGS.get(layout), '')}"))
        columns = {canonical(column) for column in use.read()} - named - RARE
        assert not {one for one in columns if not answer_number(one) and not re.search(r"\d$", one)}, layout


def test_auto_j_must_be_told_what_its_numbers_mean(tmp_path, capsys):
    with pytest.raises(UndefinedLabels, match="--labels 0=first,1=second,2=tie or --labels 0=tie,1=first,2=second"):
        read(source_of("auto_j"))
    status, out, _ = run(
        capsys, tmp_path, "check", LAYOUT_FILES / "auto_j.jsonl", "--labels", "0=first,1=second,2=tie"
    )
    assert status == 0
    assert "label 0 -> first answer better (1), 1 -> second answer better (1), 2 -> tie (1)" in out


def test_fastchats_answers_need_their_questions(tmp_path, capsys):
    with pytest.raises(UserError, match="put the questions next to them with --beside question.jsonl"):
        read(source_of("fastchat_answer"))
    from dataclasses import replace

    records, _ = read(replace(source_of("fastchat_answer"), beside=source_of("fastchat_question")))
    assert records == [
        shown(
            [user("Write a line about rain."), said("Rain drums on tin."), user("Now about snow.")],
            "Snow makes no sound.",
        ),
        shown([user("What is 2 + 2?"), said("4"), user("And times 3?")], "12"),
    ]


def test_answers_with_ratings_are_not_demonstrations_without_a_word(tmp_path, capsys):
    for name, column, worst, best in (("ratings", "rating", 1, 5), ("helpsteer", "helpfulness", 0, 4)):
        report = check(capsys, LAYOUT_FILES / f"{name}.jsonl")
        finding = found(report)["rated_answers"]
        assert f"a {column} from {worst} to {best}, all read as demonstrations" in finding["message"]
        assert {"column": column, "value": "number", "meaning": "score, kept next to the answer", "count": 2} in (
            report["labels"]
        )
    ratings = LAYOUT_FILES / "ratings.jsonl"
    status, _, err = run(capsys, tmp_path, "import", ratings, "--name", "x")
    assert status == 2 and "rated_answers" in err and "--labels 1=bad,5=good" in err
    status, out, _ = run(capsys, tmp_path, "import", ratings, "--name", "x", "--labels", "1=bad,5=good")
    assert status == 0 and "rating 1 -> bad (1), 5 -> good (1)" in out
    status, out, _ = run(capsys, tmp_path, "import", ratings, "--name", "y", "--as", "prompt_completion")
    assert status == 0 and "WARNING: rated_answers" in out


def test_a_picture_is_a_finding_and_its_placeholder_too(tmp_path, capsys):
    finding = found(check(capsys, LAYOUT_FILES / "llama_factory_images.jsonl"))["media"]
    assert finding["severity"] == "warning" and finding["message"].endswith("(image 1)")
    status, _, err = run(capsys, tmp_path, "import", LAYOUT_FILES / "llama_factory_images.jsonl", "--name", "x")
    assert status == 2 and "unread_columns" in err
    for text, there in (("<image>What?", True), ("<|image_pad|> What?", True), ("a <video> tag in HTML", False)):
        rows = Rows("rows.jsonl", None, held=[{"question": text, "answer": "A cup."}])
        from align.data.layouts.omissions import remarks

        records, use = read(rows)
        names = [name for name, _ in remarks(use.reading.layout, rows.held[0], records[0].format)]
        assert ("media" in names) == there


def test_a_text_column_is_text_where_a_text_is_wanted():
    (record,), _ = read(source_of("alpaca_text"), wanted="language_modeling")
    assert isinstance(record, Text) and record.content.startswith("Below is an instruction.")
