"""Kinds of values, and TRL's fields as they are read from its source."""

import json
import subprocess
import sys

import pytest

from align.config.paths import PROJECT
from align.config.trl_fields import OWNED, trainer_fields
from align.config.types import UNFIT, fit, words
from align.stages.spec import STAGES

CONF = PROJECT / "conf"
EXPERIMENTAL = ("CPOConfig", "ORPOConfig", "OnlineDPOConfig")


@pytest.mark.parametrize(
    ("value", "annotation", "fits"),
    [
        (1, "int", True),
        (True, "int", False),
        (1.0, "int", False),
        (1, "float", True),
        ("1", "float", False),
        (None, "float | None", True),
        (None, "float", False),
        (["a"], "None | str | list[str]", True),
        ([1], "list[str]", False),
        ({"a": 1}, "dict[str, Any] | str | None", True),
        ({"a": "b"}, "dict[str, bool]", False),
        (False, "str | None | Literal[False]", True),
        (True, "str | None | Literal[False]", False),
        (0, "Literal[False]", False),
        ("linear", "SchedulerType | str", True),
    ],
)
def test_kinds(value, annotation, fits):
    assert (fit(value, annotation) is not UNFIT) is fits


def test_kinds_loosely_and_in_words():
    assert fit(2, "str", loose=True) == "2" and fit({"a": True}, "dict[str, str]", loose=True) == {"a": "true"}
    assert fit(2, "int | str", loose=True) == 2
    assert words("int | None") == "a whole number or null"
    assert words("None | str | list[str]") == "null or text or a list of texts"


@pytest.fixture(scope="module")
def facts() -> dict:
    """What TRL's classes and a tokenizer say themselves, from one process that imports them."""
    script = """
import dataclasses, json, sys, trl
from align.ppo import PPOConfig
from trl.experimental import cpo, online_dpo, orpo
find = lambda name: next(getattr(place, name) for place in (trl, cpo, online_dpo, orpo, sys.modules["align.ppo"])
                         if hasattr(place, name))
from transformers.utils.chat_template_utils import render_jinja_template
template = open(sys.argv[1], encoding="utf-8").read()
chat = [{"role": "user", "content": "two plus two?"}, {"role": "assistant", "content": "four"}]
whole, spans = render_jinja_template([chat], chat_template=template, return_assistant_tokens_mask=True, eos_token="$")
prompt, _ = render_jinja_template([chat[:1]], chat_template=template, add_generation_prompt=True, eos_token="$")
print(json.dumps({
    "fields": {name: [f.name for f in dataclasses.fields(find(name)) if f.init] for name in sys.argv[2:]},
    "whole": whole[0], "prompt": prompt[0], "spans": spans[0],
}))
"""
    classes = sorted({stage.trainer_config for stage in STAGES.values()} - {None} | set(EXPERIMENTAL))
    command = [sys.executable, "-c", script, str(CONF / "model" / "chat.jinja"), *classes]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
def test_fields_read_from_source_are_those_of_trl(facts):
    assert len(facts["fields"]) > 4
    for name, fields in facts["fields"].items():
        assert set(trainer_fields(name)) == set(fields)
    assert OWNED.keys() <= {field for fields in facts["fields"].values() for field in fields}


@pytest.mark.slow
def test_the_chat_template_keeps_the_prompt_as_prefix_and_marks_the_answer(facts):
    assert facts["whole"] == "<|user|> two plus two?$<|assistant|> four$"
    assert facts["whole"].startswith(facts["prompt"]) and facts["prompt"].endswith("<|assistant|>")
    ((start, end),) = facts["spans"]
    assert facts["whole"][start:end] == " four$"
