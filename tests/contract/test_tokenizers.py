"""What is refused of tokenizers from their files alone, each in one sentence with its remedy, and without torch."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from align.artifacts.inputs import resolve_input
from align.artifacts.store import Store
from align.artifacts.tokenizer_files import drift, fingerprint
from align.config.compose import compose
from align.contract.inputs import check_inputs
from align.contract.tokenizers import check_assistant_turns, check_tokenizer
from align.errors import UserError
from align.models.load import load_tokenizer
from align.run.plan import make_plan
from align.run.preflight import preflight
from tests.conftest import stage_overrides
from tests.contract.folders import GENERIC, given, model_folder, refused, write_tokenizer

TOKENS = {"model": {"vocab": {"a": 0, "b": 1, "<|end|>": 2}, "merges": ["a b"]}}


def test_policy_and_reference_read_the_same_tokens(tmp_path):
    inputs = {}
    for number, (role, vocabulary) in enumerate([("policy", {"a": 0, "b": 1}), ("ref_model", {"a": 1, "b": 0})]):
        folder = model_folder(tmp_path / role)
        (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
        inputs[role] = replace(given(folder, "model"), digest=str(number) * 64)
    refused(lambda: check_inputs("dpo", inputs), "has another vocabulary than that of")
    refused(lambda: check_inputs("evaluate", inputs | {"policy": [inputs["policy"]]}), "has another vocabulary")
    refused(lambda: check_inputs("dpo", inputs), "2 have other ids, as 'a' 0 / 1. Name a reference")
    check_inputs("dpo", inputs, ["vocabulary"])
    check_inputs("dpo", inputs | {"ref_model": inputs["policy"]})
    shutil.copy(inputs["policy"].path / "tokenizer.json", inputs["ref_model"].path)
    check_inputs("dpo", inputs)


@pytest.mark.parametrize(
    ("theirs", "template", "config", "aspect", "words"),
    [
        (
            {"model": {"vocab": {"a": 0, "b": 1, "<|end|>": 2, "c": 3}, "merges": [["a", "b"]]}},
            None,
            {},
            "vocabulary",
            "3 / 4 tokens; only the second has 'c'",
        ),
        ({"model": {**TOKENS["model"], "merges": []}}, None, {}, "vocabulary", "merges"),
        (
            {**TOKENS, "added_tokens": [{"content": "<new>", "id": 7}]},
            None,
            {},
            "vocabulary",
            "only the second has '<new>'",
        ),
        (TOKENS, None, {"eos_token": "b"}, "special_tokens", "eos_token <|end|> (2) / b (1)"),
        (TOKENS, "{{ a }}\nx\n{{ c }}", {}, "chat_template", "line 3 of the template has '{{ b }}' / '{{ c }}'"),
        (TOKENS, "{{ a }}\nx\n{{ b }}\n", {}, None, None),
        (TOKENS, None, {"pad_token": None}, None, None),
        ({"model": {**TOKENS["model"], "merges": [["a", "b"]]}}, None, {}, None, None),
    ],
    ids=["a token more", "merges", "added", "eos", "template", "white space", "no pad token", "merges as lists"],
)
def test_drift_is_told_in_words(tmp_path, theirs, template, config, aspect, words):
    ours = write_tokenizer(tmp_path / "ours", TOKENS, "{{ a }}\nx\n{{ b }}")
    other = write_tokenizer(tmp_path / "theirs", theirs, template, **config)
    found = drift(ours, other)
    assert list(found) == ([aspect] if aspect else []) and (not aspect or words in found[aspect])
    same = fingerprint(ours) == fingerprint(other)
    assert not (aspect and same)


def test_a_template_of_the_config_does_not_pass_for_the_models(tiny_store, tmp_path):
    template = tmp_path / "other.jinja"
    template.write_text("{{ messages }}")
    given = ["stage=dpo", f"model.chat_template={template}"]
    cfg = compose(stage_overrides(tiny_store, *given))
    refused(lambda: make_plan(cfg, Store(tiny_store), world_size=1), "line 1 of the template has")
    accepting = compose(stage_overrides(tiny_store, *given, "model.accept_drift=[chat_template]"))
    assert make_plan(accepting, Store(tiny_store), world_size=1).inputs["policy"].ref == "sft:v1"
    options = accepting.model.tokenizer_options()
    path = tiny_store / "sft" / "v0001" / "model"
    assert load_tokenizer(path, **options).chat_template == "{{ messages }}"
    assert load_tokenizer(path, **cfg.model.tokenizer_options()).chat_template != "{{ messages }}"
    with pytest.raises(UserError, match="did you mean chat_template"):
        compose(stage_overrides(tiny_store, "stage=dpo", "model.accept_drift=[chat_templates]"))


def test_a_model_has_the_tokenizer_it_was_published_with(tiny_store):
    version = Store(tiny_store).resolve("sft:v1")
    recorded = version.manifest.notes["tokenizer"]
    assert recorded == fingerprint(version.model_dir)
    assert recorded["special_tokens"]["eos_token"][0] == "<|end|>" and len(recorded["chat_template"]) == 64
    file = version.model_dir / "chat_template.jinja"
    file.chmod(0o644)
    file.write_text(file.read_text() + "{# another #}")
    cfg = compose(stage_overrides(tiny_store, "stage=dpo", "artifacts.verify=off"))
    refused(
        lambda: make_plan(cfg, Store(tiny_store), world_size=1),
        "is not the one that sft:v1 was published with (chat_template)",
    )


def test_every_token_has_a_row_of_embeddings(tmp_path):
    folder = write_tokenizer(tmp_path / "model", TOKENS)
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "vocab_size": 2}))
    inputs = {"policy": given(folder, "model")}
    refused(lambda: check_inputs("sft", inputs), "token '<|end|>' has the id 2 and the model has 2 rows")
    check_inputs("sft", inputs, ["vocabulary"])


def tokenizer_check(tmp_path: Path, tokenizer: dict, *, conversational=False, chat_template=None, pad_token=None):
    folder = model_folder(tmp_path / "m", tokenizer=tokenizer)
    check_tokenizer(given(folder), conversational=conversational, chat_template=chat_template, pad_token=pad_token)


def test_loss_on_the_assistants_turns_needs_a_template_that_marks_them(tmp_path):
    def check(template, conversational=True, extra=None):
        folder = model_folder(
            tmp_path / "m", tokenizer={**GENERIC, **({"chat_template": template} if template else {})}
        )
        check_assistant_turns(given(folder), conversational=conversational, chat_template=extra)

    refused(lambda: check("{{ messages }}", conversational=False), "the data is plain strings, in which nobody speaks")
    refused(lambda: check("{{ messages }}"), "does not mark what the assistant says")
    refused(
        lambda: check([{"name": "default", "template": "{{ messages }}"}]), "does not mark what the assistant says"
    )
    check("{%- generation -%}{{ messages }}{% endgeneration %}")
    check(None, extra="conf/model/chat.jinja")
    import trl.chat_template_utils

    check(trl.chat_template_utils.qwen3_chat_template)  # TRL trains this family under a marked template of its own


def without(*keys: str, **more) -> dict:
    return {key: value for key, value in GENERIC.items() if key not in keys} | more


def test_a_missing_pad_token_names_the_key_and_a_token(tmp_path):
    for tokenizer in (without("pad_token"), without("pad_token", eos_token={"content": "<|end|>"})):
        refused(
            lambda tokenizer=tokenizer: tokenizer_check(tmp_path, tokenizer),
            "has no pad token; name one of its vocabulary, for instance 'model.pad_token=\"<|end|>\"'",
        )
    tokenizer_check(tmp_path, without("pad_token"), pad_token="<|end|>")
    # openai-community/gpt2's whole tokenizer_config.json
    refused(lambda: tokenizer_check(tmp_path, {"model_max_length": 1024}), "'model.pad_token=\"<|endoftext|>\"'")
    # a class may have tokens that no file names: models.load_tokenizer will know
    tokenizer_check(tmp_path, {"tokenizer_class": "Qwen2Tokenizer"})


def test_tokens_may_be_named_in_special_tokens_map(tmp_path):
    model_folder(tmp_path / "m")
    (tmp_path / "m" / "special_tokens_map.json").write_text(json.dumps(GENERIC))
    tokenizer_check(tmp_path, {"tokenizer_class": "TokenizersBackend", "pad_token": None})


def test_a_missing_eos_token_is_refused(tmp_path):
    refused(
        lambda: tokenizer_check(tmp_path, without("eos_token")), "has no EOS token, so no completion could ever end"
    )


def test_conversational_data_needs_a_chat_template(tmp_path):
    refused(
        lambda: tokenizer_check(tmp_path, GENERIC, conversational=True),
        "has no chat template; give one: model.chat_template=conf/model/chat.jinja, or data of plain strings",
    )
    tokenizer_check(tmp_path, GENERIC)
    tokenizer_check(tmp_path, GENERIC, conversational=True, chat_template="conf/model/chat.jinja")
    tokenizer_check(tmp_path, GENERIC | {"chat_template": "{{ messages }}"}, conversational=True)
    (tmp_path / "m" / "chat_template.jinja").write_text("{{ messages }}")
    tokenizer_check(tmp_path, GENERIC, conversational=True)


def test_a_missing_template_is_told_before_training(tiny_store, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(resolve_input(Store(tiny_store), "sft").path, base)
    (base / "chat_template.jinja").unlink()
    cfg = compose(stage_overrides(tiny_store, "stage=dpo", f"inputs.policy={base}"))
    refused(lambda: preflight(make_plan(cfg, Store(tiny_store), world_size=1)), f"the tokenizer of {base} has no chat")
