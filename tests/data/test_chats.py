"""Plain rows as chats, and system messages in the user's turn: the same wherever records are rendered."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from align.artifacts.store import Store
from align.config.compose import compose
from align.config.identity import identity_config
from align.data.chats import Chats, folded, to_chat
from align.data.loading.examples import load_split
from align.data.tokens.chat_template import apply_template, check_system, render_prompt
from align.data.tokens.loss_mask import Loss
from align.data.tokens.preview import show_record
from align.errors import UserError
from align.models.load import load_tokenizer
from align.records import Demonstration, Preference, Prompt, Text, UnpairedPreference
from align.run.plan import make_plan
from align.run.preflight import preflight
from tests.data.data_command import check, found, run, said, write

GEMMA = (
    "{{ bos_token or '' }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
DEAF = GEMMA.replace("{{ raise_exception('System role not supported') }}", "").replace(
    "{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}"
)
SYSTEM = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Two and two?"}]
ANSWER = [{"role": "assistant", "content": "Four."}]


def user(text):
    return [{"role": "user", "content": text}]


def assistant(text):
    return [{"role": "assistant", "content": text}]


@pytest.fixture(scope="module")
def template_of(tiny_models):
    """The tokenizer of the tiny models under another chat template."""

    def load(template):
        tokenizer = load_tokenizer(Store(tiny_models).resolve("sft:v1").path / "model")
        tokenizer.chat_template = template
        return tokenizer

    return load


@pytest.mark.parametrize(
    "record, chat",
    [
        (Prompt("a", columns={"answer": "4"}), Prompt(user("a"), columns={"answer": "4"})),
        (Demonstration("a", "b"), Demonstration(user("a"), assistant("b"))),
        (Preference("a", "b", "c", 1.0), Preference(user("a"), assistant("b"), assistant("c"), 1.0)),
        (UnpairedPreference("a", "b", False), UnpairedPreference(user("a"), assistant("b"), False)),
        (Text("a"), Text("a")),
        (Demonstration(SYSTEM, ANSWER), Demonstration(SYSTEM, ANSWER)),
    ],
)
def test_a_plain_record_becomes_a_chat(record, chat):
    assert to_chat(record) == chat == Chats(as_chat=True).apply(record)
    assert Chats().apply(record) == record


@pytest.mark.parametrize(
    "messages, without",
    [
        (SYSTEM, user("Be brief.\n\nTwo and two?")),
        ([*SYSTEM[:1], *SYSTEM], user("Be brief.\n\nBe brief.\n\nTwo and two?")),
        ([*SYSTEM[:1], *ANSWER], [*user("Be brief."), *ANSWER]),
        ([{"role": "developer", "content": ""}, *user("a")], user("a")),
        (user("a"), user("a")),
    ],
)
def test_a_system_message_goes_into_the_users_first_one(messages, without):
    assert folded(messages) == without
    assert Chats(fold_system=True).apply(Text(messages)) == Text(without)


def test_a_template_without_system_messages_says_what_to_do(template_of):
    tokenizer = template_of(GEMMA)
    with pytest.raises(
        UserError, match="System role not supported.*takes no system message. Set data.fold_system=true"
    ):
        render_prompt(tokenizer, SYSTEM)
    assert render_prompt(tokenizer, folded(SYSTEM)) == render_prompt(tokenizer, user("Be brief.\n\nTwo and two?"))
    with pytest.raises(UserError, match=r"do not alternate \(starts with assistant\).*data.drop=\[role_order\]"):
        apply_template(template_of(GEMMA.replace("'system'", "'assistant'")), ANSWER + user("a"))
    with pytest.raises(UserError, match="choose another template with model.chat_template, or remove such records"):
        apply_template(template_of("{{ raise_exception('no') }}"), user("a"))


def test_the_template_of_gemma_itself_takes_a_folded_system_message(template_of):
    folder = Path(find_spec("trl").submodule_search_locations[0]) / "chat_templates"
    tokenizer = template_of((folder / "gemma.jinja").read_text("utf-8"))
    with pytest.raises(UserError, match="Set data.fold_system=true"):
        render_prompt(tokenizer, SYSTEM)
    text = tokenizer.decode(render_prompt(tokenizer, folded(SYSTEM)))
    assert "<start_of_turn>user\nBe brief.\n\nTwo and two?<end_of_turn>" in text


def test_a_template_that_leaves_the_system_message_out_is_refused(template_of):
    records = [Demonstration(user("a"), ANSWER), Demonstration(SYSTEM, ANSWER)]
    with pytest.raises(UserError, match='rows.jsonl: .* leaves out the system message .*"Be brief.".*fold_system'):
        check_system(records, template_of(DEAF), "rows.jsonl")
    check_system([Chats(fold_system=True).apply(record) for record in records], template_of(DEAF), "rows.jsonl")
    check_system(records, template_of(DEAF.replace(" if m['role'] != 'system'", "")), "rows.jsonl")


def test_stages_agree_once_plain_rows_are_chats(template_of):
    tokenizer = template_of(GEMMA)
    pair = Preference("What is two?", "It is 2.", "It is 3.")
    records = [to_chat(record) for record in (Demonstration(pair.prompt, pair.chosen), pair)]
    shown = {
        stage: [show_record(record, tokenizer, stage, None, Loss())[0].ids for record in records]
        for stage in ("sft", "dpo")
    }
    assert shown["sft"][0] == shown["dpo"][1] and tokenizer.decode(shown["sft"][0]).startswith("<|user|> What is two?")


def test_tables_of_different_columns_give_stages_the_same_prompts(tmp_path, template_of):
    (tmp_path / "sft.csv").write_text("prompt,completion\nWhat is two?,It is 2.\n")
    (tmp_path / "dpo.csv").write_text("question,chosen,rejected\nWhat is two?,It is 2.,It is 3.\n")
    tokenizer = template_of(GEMMA)
    prompts = {}
    for as_chat in ("false", "true"):
        for stage, format in (("sft", "prompt_completion"), ("dpo", "preference")):
            options = [f"data.{format}.train={tmp_path / stage}.csv", f"data.{format}.eval_fraction=0"]
            cfg = compose([f"stage={stage}", "data=local", f"data.as_chat={as_chat}", *options])
            (record,) = load_split(cfg.data, None, format, "train").records
            prompts[stage, as_chat] = render_prompt(tokenizer, record.prompt)
    assert prompts["sft", "true"] == prompts["dpo", "true"] == prompts["dpo", "false"] != prompts["sft", "false"]


def test_what_is_held_out_does_not_depend_on_how_rows_are_rendered(tmp_path):
    rows = [{"messages": [SYSTEM[0], *user(f"q {i}"), *assistant(f"a {i}")]} for i in range(60)]
    plain = [{"prompt": f"q {i}", "completion": f"a {i}"} for i in range(60)]
    for number, held in enumerate((rows, plain)):
        file = write(tmp_path / f"{number}.jsonl", held)
        base = ["stage=sft", "data=local", f"data.prompt_completion.train={file}"]
        sides = []
        for options in ([], ["data.as_chat=true", "data.fold_system=true"]):
            cfg = compose([*base, *options, "data.prompt_completion.eval_fraction=0.2"])
            sides.append(load_split(cfg.data, None, "prompt_completion", "eval").records)
        assert [record.completion[-1:] for record in sides[1]] == [
            assistant(record.completion if isinstance(record.completion, str) else record.completion[0]["content"])
            for record in sides[0]
        ]
        assert all(record.prompt[0]["role"] == "user" for record in sides[1])


def test_the_options_are_part_of_a_runs_identity_where_they_are_set():
    identities = [
        json.dumps(identity_config(compose(["stage=sft", "data=local", *options])), sort_keys=True)
        for options in ([], ["data.as_chat=false"], ["data.as_chat=true"], ["data.fold_system=true"])
    ]
    assert identities[0] == identities[1] and len(set(identities)) == 3
    assert "as_chat" not in identities[0]


def test_a_report_and_a_run_say_that_a_chat_template_is_not_used(tmp_path, tiny_store, template_of, capsys):
    rows = [{"prompt": said(6, i), "completion": said(6, -i)} for i in range(1, 30)]
    file = write(tmp_path / "rows.jsonl", rows)
    arguments = [file, "--model", "sft:v1", "--artifacts", tiny_store]
    finding = found(check(capsys, *arguments))["no_chat_template"]
    assert (finding["severity"], finding["count"]) == ("warning", 29) and "data.as_chat=true" in finding["remedy"]
    assert "no_chat_template" not in found(check(capsys, *arguments, "--as-chat"))
    template_of(None).save_pretrained(tmp_path / "base")
    assert "no_chat_template" not in found(check(capsys, *arguments[:2], tmp_path / "base", *arguments[3:]))
    overrides = [f"artifacts.root={tiny_store}", "inputs.policy=sft:v1", "data=local", "stage=sft"]
    overrides += [f"data.prompt_completion.train={file}", "trainer.max_length=128"]
    for options, warned in (([], True), (["data.as_chat=true"], False)):
        preflight(make_plan(compose([*overrides, *options]), Store(tiny_store), world_size=1))
        out = capsys.readouterr().out
        assert ("the chat template of sft:v1 is not used" in out) is warned
    prompts = [f"data.prompt_only.train={file}", "data.prompt_only.eval_fraction=0.2", "evaluate.judge=null"]
    overrides = [f"artifacts.root={tiny_store}", "inputs.policy=[sft:v1,pretrain:v1]", "data=local", "stage=evaluate"]
    preflight(make_plan(compose([*overrides, *prompts]), Store(tiny_store), world_size=1))
    assert "the chat template of sft:v1, pretrain:v1 is not used" in capsys.readouterr().out


def test_data_show_renders_what_a_stage_will_read(tmp_path, tiny_store, template_of, capsys):
    template_of(GEMMA).save_pretrained(tmp_path / "gemma")
    file = write(tmp_path / "rows.jsonl", [{"messages": SYSTEM + ANSWER}])
    status, _, err = run(capsys, tiny_store, "show", file, "--model", tmp_path / "gemma")
    assert status == 2 and "data.fold_system=true" in err
    expected = "<|user|> Be brief.\n\nTwo and two?"
    for options in (["--fold-system"], ["--set", "data.fold_system=true"]):
        status, out, _ = run(capsys, tiny_store, "show", file, "--model", tmp_path / "gemma", *options)
        assert status == 0 and expected in out
    plain = write(tmp_path / "plain.jsonl", [{"prompt": "Two?", "completion": "2"}])
    _, out, _ = run(capsys, tiny_store, "show", plain, "--model", tmp_path / "gemma", "--set", "data.as_chat=true")
    assert "<|user|> Two?" in out and "<|assistant|>" in out
    report = check(capsys, file, "--model", tmp_path / "gemma", "--artifacts", tiny_store)
    assert "data.fold_system=true" in found(report)["template"]["examples"][0][1]
    template_of(DEAF).save_pretrained(tmp_path / "deaf")
    report = check(capsys, file, "--model", tmp_path / "deaf", "--artifacts", tiny_store)
    assert found(report)["unseen_system"]["count"] == 1
    assert (
        not {"template", "unseen_system"}
        & found(check(capsys, file, "--model", tmp_path / "deaf", "--fold-system", "--artifacts", tiny_store)).keys()
    )


def test_raising_max_length_is_not_advised_beyond_the_models_context(tmp_path, tiny_store, capsys):
    rows = [{"prompt": said(5, 1), "completion": said(400, 2)}]
    file = write(tmp_path / "rows.jsonl", rows)
    arguments = [file, "--model", "pretrain:v1", "--artifacts", tiny_store, "--max-length"]
    remedy = found(check(capsys, *arguments, 128))["truncation"]["remedy"]
    assert "shorten them (128 tokens is the model's whole context)" in remedy and "raise" not in remedy
    remedy = found(check(capsys, *arguments, 64))["truncation"]["remedy"]
    assert "raise trainer.max_length (the model takes up to 128 tokens)" in remedy
