"""A file's own words for columns, verdicts and speakers, on the command line and in a run's config."""

import json

import pytest

from align.data.layouts.mapping import Names
from align.data.loading.sources import DatasetSource, digest
from align.errors import UserError
from align.records import Demonstration, Preference, RecordError
from tests.data.data_command import FILES, load, run, write

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
        ({"columns": {"magin": "m"}}, "data.preference.columns: 'magin' is no field of ours"),
        ({"roles": {"bot": "robot"}}, "data.preference.roles: bot is 'robot', and a role is one of user, assistant"),
    ],
)
def test_words_that_are_not_ours_are_named(words, message):
    with pytest.raises(UserError, match=message):
        load(FILES / "preference.jsonl", "preference", **words)
