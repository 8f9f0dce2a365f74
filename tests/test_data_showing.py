"""`align data show`: the loss mask, token by token, against a rendering that shares no code with it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.cli import main
from align.data.showing import show_record, to_terminal
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


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["{file}", "--rows", "0"], "--rows 0"),
        (["{file}", "--model", "{tmp}/none"], "does not exist"),
        (["{file}", "--model", "{tmp}"], "holds no tokenizer"),
        (["{file}"], "name a model whose tokenizer to use: --model"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.setenv("ALIGN_ARTIFACTS", str(tmp_path / "store"))
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n')
    assert main(["data", "show", *[one.format(file=file, tmp=tmp_path) for one in arguments]]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in err
