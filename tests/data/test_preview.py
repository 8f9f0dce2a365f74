"""`align data show`: the loss mask, token by token, against a rendering that shares no code with it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.cli import main
from align.data.tokens.lengths import token_lengths
from align.data.tokens.loss_mask import Loss
from align.data.tokens.preview import show_record, to_terminal
from align.errors import UserError
from align.records import Demonstration, Preference, Prompt, Text, UnpairedPreference

END = "<|end|>"
# a template -> what its author would write by hand for a turn, and for the start of an answer
TEMPLATES = {
    "plain": (
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        lambda role, said: f"<|{role}|>{said}{END}",
        "<|assistant|>",
    ),
    "chatml": (
        "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}",
        lambda role, said: f"<|start|>{role}\n{said}{END}\n",
        "<|start|>assistant\n",
    ),
    "stripped": (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}[A] {{ m['content'] | trim }}<|end|>"
        "{% else %}[{{ m['role'] | upper }}] {{ m['content'] | trim }} {% endif %}{% endfor %}"
        "{% if add_generation_prompt %}[A]{% endif %}",
        lambda role, said: f"[A] {said.strip()}{END}" if role == "assistant" else f"[{role.upper()}] {said.strip()} ",
        "[A]",
    ),
}


# the same templates with what the assistant says marked, and where by hand that begins in a turn
MARKED = {
    "plain": (
        "{% for m in messages %}<|{{ m['role'] }}|>{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}"
        "<|end|>{% endgeneration %}{% else %}{{ m['content'] }}<|end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        lambda said: ("<|assistant|>", f"{said}{END}", ""),
    ),
    "chatml": (
        "{% for m in messages %}<|start|>{{ m['role'] + '\n' }}{% if m['role'] == 'assistant' %}{% generation %}"
        "{{ m['content'] }}<|end|>{% endgeneration %}{% else %}{{ m['content'] }}<|end|>{% endif %}{{ '\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}",
        lambda said: ("<|start|>assistant\n", f"{said}{END}", "\n"),
    ),
    "stripped": (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}[A]{% generation %} {{ m['content'] | trim }}<|end|>"
        "{% endgeneration %}{% else %}[{{ m['role'] | upper }}] {{ m['content'] | trim }} {% endif %}{% endfor %}"
        "{% if add_generation_prompt %}[A]{% endif %}",
        lambda said: ("[A]", f" {said.strip()}{END}", ""),
    ),
}


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[END, "<|start|>", "<|user|>", "<|assistant|>", "<|system|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["what is two plus two? it is four, and three plus one is four too"] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END)


SAID = st.text(st.sampled_from("abc twofur?.\n é☃"), min_size=1, max_size=30).filter(str.strip)


@st.composite
def conversations(draw):
    turns = [{"role": "system", "content": draw(SAID)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 2))):
        turns += [{"role": "user", "content": draw(SAID)}, {"role": "assistant", "content": draw(SAID)}]
    return [*turns, {"role": "user", "content": draw(SAID)}]


@pytest.mark.parametrize("name", TEMPLATES)
@given(prompt=conversations(), one=SAID, other=SAID, stage=st.sampled_from(["sft", "dpo", "kto", "reward"]))
@settings(max_examples=60, deadline=None)
def test_the_mask_is_the_completion_and_nothing_else(tokenizer, name, prompt, one, other, stage):
    tokenizer.chat_template, turn, opening = TEMPLATES[name]
    answers = [[{"role": "assistant", "content": said}] for said in (one, other)]
    record = {
        "sft": Demonstration(prompt, answers[0]),
        "kto": UnpairedPreference(prompt, answers[0], True),
    }.get(stage, Preference(prompt, answers[0], answers[1]))
    before = "".join(turn(message["role"], message["content"]) for message in prompt)
    shown = show_record(record, tokenizer, stage)
    assert [one.side for one in shown] == (["completion"] if stage in ("sft", "kto") else ["chosen", "rejected"])
    for sequence, answer in zip(shown, answers, strict=False):
        whole = before + turn("assistant", answer[0]["content"])
        coded = tokenizer(whole, return_offsets_mapping=True)
        assert sequence.ids == coded["input_ids"]
        starts = [start for start, _ in coded["offset_mapping"]]
        if stage == "reward":
            expected = [position == len(starts) - 1 for position in range(len(starts))]
        else:
            expected = [start >= len(before + opening) for start in starts]
        assert sequence.loss == expected


@pytest.mark.parametrize("name", MARKED)
@given(prompt=conversations(), answer=SAID, completion_only=st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_assistant_turn_carries_the_loss_and_nothing_else(tokenizer, name, prompt, answer, completion_only):
    tokenizer.chat_template, parts = MARKED[name]
    turn = TEMPLATES[name][1]
    completion = [{"role": "assistant", "content": answer}]
    whole, spans = "", []
    for message in prompt + completion:
        if message["role"] == "assistant":
            before, said, after = parts(message["content"])
            spans.append((len(whole + before), len(whole + before + said)))
            whole += before + said + after
        else:
            whole += turn(message["role"], message["content"])
    spans = spans[-1:] if completion_only else spans
    coded = tokenizer(whole, return_offsets_mapping=True)
    loss = Loss(completion_only=completion_only, assistant_only=True)
    (shown,) = show_record(Demonstration(prompt, completion), tokenizer, "sft", loss=loss)
    assert shown.ids == coded["input_ids"]
    expected = [any(a < end and start < b for start, end in spans) for a, b in coded["offset_mapping"]]
    assert shown.loss == expected
    assert token_lengths([Demonstration(prompt, completion)], tokenizer, loss) == [
        (expected.index(True), len(expected))
    ]
    (text,) = show_record(Text(prompt + completion), tokenizer, "pretrain", loss=Loss(assistant_only=True))
    assert text.ids == shown.ids and (completion_only or text.loss == expected)


CHAT = [
    {"role": role, "content": said}
    for role, said in (("system", "two"), ("user", "what is two?"), ("assistant", "it is"), ("user", "plus two?"))
]


@pytest.mark.parametrize("completion_only", [True, False])
@pytest.mark.parametrize("assistant_only", [True, False])
def test_the_mask_is_the_labels_that_trl_trains_on(tokenizer, tmp_path, completion_only, assistant_only):
    from transformers import GPT2Config, GPT2LMHeadModel
    from trl import SFTConfig, SFTTrainer

    from align.data.loading.tables import to_dataset

    tokenizer.chat_template, tokenizer.pad_token = MARKED["chatml"][0], END
    records = [Demonstration(CHAT, [{"role": "assistant", "content": said}]) for said in ("four", "it is four too")]
    words = {"completion_only_loss": completion_only, "assistant_only_loss": assistant_only}
    arguments = SFTConfig(tmp_path, max_length=256, report_to=[], use_cpu=True, bf16=False, **words)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=1, n_positions=256))
    trainer = SFTTrainer(model, arguments, train_dataset=to_dataset(records), processing_class=tokenizer)
    for record, row in zip(records, trainer.train_dataset, strict=True):
        (shown,) = show_record(record, tokenizer, "sft", loss=Loss.of(words))
        assert row["input_ids"] == shown.ids
        assert [label != -100 for label in row["labels"]] == shown.loss


def test_a_template_that_marks_nobody_is_refused(tokenizer):
    tokenizer.chat_template = TEMPLATES["chatml"][0]
    record = Demonstration(CHAT, [{"role": "assistant", "content": "four"}])
    with pytest.raises(UserError, match="does not mark what the assistant says"):
        show_record(record, tokenizer, "sft", loss=Loss(assistant_only=True))


@given(prompt=SAID, completion=SAID)
@settings(max_examples=60, deadline=None)
def test_strings_end_with_eos_and_every_token_is_on_one_side(tokenizer, prompt, completion):
    (sequence,) = show_record(Demonstration(prompt, completion), tokenizer, "sft")
    assert tokenizer.decode(sequence.ids) == prompt + completion + END
    at = sequence.loss.index(True)
    assert sequence.loss == [False] * at + [True] * (len(sequence.ids) - at)
    # a token that lies across the border is the completion's, so the prompt's part is never longer than the prompt
    assert prompt.startswith(tokenizer.decode(sequence.ids[:at]).rstrip("\ufffd"))


def test_texts_prompts_and_what_is_cut(tokenizer):
    (text,) = show_record(Text("it is four"), tokenizer, "pretrain", max_length=3)
    assert all(text.loss) and text.kept == 3 == text.learnt
    (prompt,) = show_record(Prompt("what"), tokenizer, "evaluate")
    assert not any(prompt.loss)
    long = Preference("what is two", " four and three plus one is four", " two")
    chosen, rejected = show_record(long, tokenizer, "reward", max_length=4)
    assert chosen.loss.index(True) == 3 and chosen.learnt == 1 and rejected.learnt == 1
    plain = to_terminal(text, tokenizer, color=False, tokens=False)
    assert plain.startswith("text: ") and "[[" in plain and "~~" in plain
    assert "\x1b" not in plain and "\x1b[" in to_terminal(text, tokenizer, color=True, tokens=True)
    (evil,) = show_record(Text("a\x1b[31mred"), tokenizer, "pretrain")
    assert "\x1b" not in to_terminal(evil, tokenizer, color=False, tokens=False)


def test_show(tmp_path, tokenizer, capsys):
    folder, file = tmp_path / "model", tmp_path / "rows.jsonl"
    tokenizer.chat_template = TEMPLATES["plain"][0]
    tokenizer.save_pretrained(folder)
    rows = [
        {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "☃"}]} for i in range(9)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["data", "show", str(file), "--model", str(folder), "--stage", "sft"]
    assert main([*command, "--rows", "2", "--skip", "3", "--color", "never"]) == 0
    out = capsys.readouterr().out
    assert "--- rows.jsonl row 3" in out and "<|user|>q3<|end|><|assistant|>[[☃<|end|>]]" in out
    assert main([*command, "--json", "--rows", "1"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert sum(told["sequences"][0]["loss"]) == 4 and told["sequences"][0]["side"] == "completion"
    assert main([*command, "--tokens", "--rows", "1"]) == 0
    assert "[[☃(3)|<|end|>]]" in capsys.readouterr().out
    chat = [{"role": role, "content": role[0]} for role in ("user", "assistant", "user", "assistant")]
    file.write_text(json.dumps({"messages": chat}) + "\n")
    tokenizer.chat_template = MARKED["plain"][0]
    tokenizer.save_pretrained(folder)
    assert main([*command, "--set", "experiment=every_turn", "--color", "never"]) == 0
    assert (
        "<|user|>u<|end|><|assistant|>[[a<|end|>]]<|user|>u<|end|><|assistant|>[[a<|end|>]]" in capsys.readouterr().out
    )
    assert main([*command, "--color", "always"]) == 0
    assert capsys.readouterr().out.count("\x1b[30;42m") == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["{file}", "--rows", "0"], "--rows 0"),
        (["{file}", "--model", "{tmp}/none"], "does not exist"),
        (["{file}", "--model", "{tmp}"], "holds no tokenizer"),
        (["{file}"], "--model names the model whose tokenizer is used"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.setenv("ALIGN_ARTIFACTS", str(tmp_path / "store"))
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n')
    assert main(["data", "show", *[one.format(file=file, tmp=tmp_path) for one in arguments]]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in err
