"""Tools that a record names or calls: kept by an import, rendered for the model, and trained on as they are shown."""

import json

import pytest

from align.artifacts.store import Store
from align.config.schema import DataConfig, DatasetConfig
from align.data.conversions import convert
from align.data.loading.examples import load_examples
from align.data.loading.tables import to_dataset
from align.data.tokens.chat_template import render
from align.data.tokens.preview import show_record
from align.data.tools import tools_of
from align.errors import UserError
from align.records import (
    Answer,
    Comparison,
    Demonstration,
    Preference,
    Prompt,
    RecordError,
    Text,
    UnpairedPreference,
)
from tests.data.data_command import rows_of, run

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
TEMPLATE = (
    "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}{% for m in messages %}<{{ m.role }}>"
    "{% if m.content is defined %}{{ m.content }}{% endif %}"
    "{% for call in m.tool_calls or [] %}<call>{{ call.function | tojson }}</call>{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def call(**arguments):
    return [{"type": "function", "function": {"name": "weather", "arguments": arguments}}]


ASKED = [{"role": "user", "content": "Rain?"}]
TURNS = [
    *ASKED,
    {"role": "assistant", "tool_calls": call(city="Bonn")},
    {"role": "tool", "name": "weather", "content": "dry"},
]
RECORDS = [
    Demonstration(TURNS, [{"role": "assistant", "content": "No."}], TOOLS),
    Demonstration(ASKED, [{"role": "assistant", "tool_calls": call(city="Rome", days=3)}], TOOLS),
    Demonstration(ASKED, [{"role": "assistant", "content": "Who knows?"}]),
]
PAIRS = [
    Preference(one.prompt, one.completion, [{"role": "assistant", "content": "Go away."}], tools=one.tools)
    for one in RECORDS
]


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    bpe = Tokenizer(models.BPE(letters, []))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|end|>", chat_template=TEMPLATE
    )


def test_the_template_gets_tools_and_calls_as_they_were_written(tokenizer):
    prompt, completion = render(tokenizer, RECORDS[1].prompt, RECORDS[1].completion, TOOLS)
    assert tokenizer.decode(prompt) == f"<tools>{json.dumps(TOOLS)}</tools><user>Rain?<|end|><assistant>"
    asked = '{"name": "weather", "arguments": {"city": "Rome", "days": 3}}'
    assert tokenizer.decode(completion) == f"<call>{asked}</call><|end|>"


@pytest.mark.slow  # imports TRL
@pytest.mark.parametrize("stage", ["sft", "dpo", "kto", "reward"])
def test_trl_trains_on_the_tokens_that_are_shown(tokenizer, tmp_path, stage):
    import trl
    from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

    shape = {"n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 512}
    config = GPT2Config(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, num_labels=1, **shape)
    name = {"sft": "SFT", "dpo": "DPO", "kto": "KTO", "reward": "Reward"}[stage]
    labelled = [UnpairedPreference(one.prompt, one.completion, True, one.tools) for one in RECORDS]
    records = {"sft": RECORDS, "kto": labelled}.get(stage, PAIRS)
    kind = GPT2ForSequenceClassification if stage == "reward" else GPT2LMHeadModel
    reference = {"ref_model": kind(config)} if stage in ("dpo", "kto") else {}
    plain = {"report_to": [], "use_cpu": True, "bf16": False, "max_length": 512}
    arguments = getattr(trl, f"{name}Config")(tmp_path, **plain)
    given = {"args": arguments, "train_dataset": to_dataset(records), "processing_class": tokenizer, **reference}
    made = getattr(trl, f"{name}Trainer")(kind(config), **given)
    for record, row in zip(records, made.train_dataset, strict=True):
        for one in show_record(record, tokenizer, stage):
            theirs = row["input_ids"] if stage == "sft" else row.get("prompt_ids", []) + row[f"{one.side}_ids"]
            assert one.ids == theirs
            if stage == "sft":
                assert one.loss == [label != -100 for label in row["labels"]]


def test_a_table_gives_no_call_the_arguments_of_another():
    table = to_dataset(RECORDS)
    assert [row["prompt"] for row in table] == [one.prompt for one in RECORDS]
    assert [row["completion"] for row in table] == [one.completion for one in RECORDS]
    assert [row["tools"] and json.loads(row["tools"]) for row in table] == [TOOLS, TOOLS, None]


def test_what_a_chat_template_leaves_out_stops_a_stage(tokenizer, tmp_path):
    plain = "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"

    def load(records, format="prompt_completion", template=TEMPLATE, **options):
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(one.to_row()) + "\n" for one in records))
        data = DataConfig(**{format: DatasetConfig(train=str(file), eval_fraction=0.0)}, **options)
        tokenizer.chat_template = template
        try:
            return load_examples(data, None, format, tokenizer=tokenizer, max_length=512).train
        finally:
            tokenizer.chat_template = TEMPLATE

    assert len(load(RECORDS)) == 3
    with pytest.raises(UserError, match=r"2 of 3 records name tools or call them.*data\.drop=\[tools\]"):
        load(RECORDS, template=plain)
    assert len(load(RECORDS, template=plain, drop=["tools"])) == 1
    with pytest.raises(UserError, match=r"1 of 1 prompts name tools"):
        load([Prompt(ASKED, TOOLS)], "prompt_only")


def test_a_template_that_does_not_take_a_conversation_is_one_sentence(tokenizer):
    strict = "{{ raise_exception('roles must alternate') }}"
    tokenizer.chat_template = strict
    with pytest.raises(UserError, match="refuses the conversation .*roles must alternate"):
        render(tokenizer, ASKED, RECORDS[2].completion)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(UserError, match="does not render the tools"):
        render(tokenizer, ASKED, RECORDS[2].completion, TOOLS)
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="has no chat template"):
        render(tokenizer, ASKED, RECORDS[2].completion)
    tokenizer.chat_template = TEMPLATE


@pytest.mark.parametrize(
    "row",
    [
        {"tools": TOOLS},
        {"tools": json.dumps(TOOLS)},
        {"functions": [TOOLS[0]["function"]]},
        {"input": {"messages": ASKED, "tools": TOOLS}},
    ],
)
def test_tools_are_found_where_rows_have_them(row):
    assert tools_of(row) == TOOLS


@pytest.mark.parametrize("value", ["hammer", [1], {"name": "f"}, "[1]", "[" * 100_000])
def test_what_is_no_list_of_tools_is_refused(value):
    with pytest.raises(RecordError, match="not a list of tool definitions"):
        tools_of({"tools": value})
    with pytest.raises(RecordError, match="tools"):
        Prompt.from_row({"prompt": ASKED, "tools": value})


def test_tools_go_with_a_record_wherever_it_goes():
    answer = RECORDS[0].completion
    for record in (
        *RECORDS,
        *PAIRS,
        Prompt(ASKED, TOOLS),
        Text(TURNS, TOOLS),
        UnpairedPreference(ASKED, answer, True),
        Comparison(ASKED, (Answer(answer, "sft:v1"), Answer(TURNS[1:2])), TOOLS),
    ):
        assert type(record).from_row(record.to_row()) == record
    assert tools_of({"tools": []}) is None and Prompt.from_row({"prompt": "a", "tools": None}).tools is None
    for format in ("prompt_completion", "unpaired_preference", "prompt_only"):
        assert all(one.tools == TOOLS for one in convert(PAIRS[0], format))


def test_import_make_and_show_keep_them(tmp_path, capsys, tokenizer):
    file, root = tmp_path / "chats.jsonl", tmp_path / "store"
    rows = [{"messages": TURNS + RECORDS[0].completion, "functions": [TOOLS[0]["function"]]}]
    rows.append({"messages": [*ASKED, *RECORDS[2].completion]})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, out, _ = run(capsys, root, "import", file, "--name", "chats", "--eval-fraction", "0")
    assert status == 0 and "INFO: tools: 1 of 2" in out
    kept, plain = rows_of(Store(root).resolve("chats"))
    assert kept["prompt"] + kept["completion"] == rows[0]["messages"] and kept["tools"] == TOOLS
    assert "tools" not in plain
    assert run(capsys, root, "make", "chats:v1", "--name", "fewer", "--drop", "tools")[0] == 0
    assert [row["id"] for row in rows_of(Store(root).resolve("fewer"))] == ["chats:v1:chats.jsonl:1"]
    tokenizer.save_pretrained(tmp_path / "model")
    shown = run(capsys, root, "show", "chats:v1", "--model", tmp_path / "model", "--rows", "1", "--color", "never")[1]
    assert f"<tools>{json.dumps(TOOLS)}</tools>" in shown and '<call>{"name": "weather"' in shown
    assert "[[No.<|end|>]]" in shown
    checked = run(capsys, root, "check", file, "--model", tmp_path / "model")[1]
    assert "ERROR" not in checked
    (tmp_path / "model" / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    checked = run(capsys, root, "check", file, "--model", tmp_path / "model")[1]
    assert "ERROR: unseen_tools: 1 of 2" in checked and "--drop tools" in checked
