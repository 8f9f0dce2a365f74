import pytest

from align.data.tokens.lengths import apply_policy, drop_overlong, length_report, token_lengths
from align.errors import UserError
from align.records import Demonstration, Preference, Prompt, Text, UnpairedPreference

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


@pytest.fixture(scope="module")
def bpe():
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|end|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["what is two plus two? it is four, and three plus one is four too"] * 20, trainer)
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer(bpe):
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>", chat_template=TEMPLATE)


PROMPT = [user("what is two plus two?")]
RENDERED = "<|user|>what is two plus two?<|end|><|assistant|>"
CASES = [
    (Text("it is four"), None, ["it is four<|end|>"]),
    (Text([*PROMPT, assistant("four")]), None, [RENDERED + "four<|end|>"]),
    (Prompt(PROMPT), RENDERED, [RENDERED]),
    (Prompt("what is two?"), "what is two?", ["what is two?"]),
    (Demonstration(PROMPT, [assistant("it is four")]), RENDERED, [RENDERED + "it is four<|end|>"]),
    (Demonstration("what is two?", " four"), "what is two?", ["what is two? four<|end|>"]),
    (Demonstration("what is two?", " four<|end|>"), "what is two?", ["what is two? four<|end|>"]),
    (
        Preference(PROMPT, [assistant("four")], [assistant("three plus one is four too")]),
        RENDERED,
        [RENDERED + "four<|end|>", RENDERED + "three plus one is four too<|end|>"],
    ),
    (UnpairedPreference(PROMPT, [assistant("five")], False), RENDERED, [RENDERED + "five<|end|>"]),
]


@pytest.mark.parametrize("record, prompt, wholes", CASES)
def test_lengths_agree_with_an_independent_count(record, prompt, wholes, bpe, tokenizer):
    def count(text):
        return len(bpe.encode(text).ids)

    assert token_lengths([record], tokenizer) == [(count(prompt) if prompt else 0, max(map(count, wholes)))]


RECORDS = [Demonstration(PROMPT, [assistant(f"it is {'four ' * n}")]) for n in (1, 5, 30)]
RECORDS.append(Demonstration([user("two " * 60)], [assistant("four")]))


def test_report_and_drop(tokenizer):
    lengths = token_lengths(RECORDS, tokenizer)
    fits = lengths[1][1]
    report = length_report(RECORDS, lengths, fits)
    assert (report.rows, report.longest, report.over, report.no_room) == (4, max(t for _, t in lengths), (2, 3), (3,))
    assert report.summary() == (
        f"2 of 4 records are over max_length {fits} (records 2, 3; the longest has {report.longest} tokens), "
        "and 1 have a prompt that leaves no room for a completion"
    )
    assert drop_overlong(RECORDS, lengths, fits) == (RECORDS[:2], RECORDS[2:])
    assert "all within max_length 1000" in length_report(RECORDS, lengths, 1000).summary()


def test_a_prompt_that_just_fills_the_length_is_no_room(tokenizer):
    (prompt, total) = token_lengths(RECORDS[:1], tokenizer)[0]
    assert length_report(RECORDS[:1], [(prompt, total)], prompt).no_room == (0,)
    assert length_report(RECORDS[:1], [(prompt, total)], prompt + 1).no_room == ()


def test_policies(tokenizer):
    fits = token_lengths(RECORDS[1:2], tokenizer)[0][1]
    with pytest.raises(UserError, match="^preferences: 2 of 4 records are over.*data.overlong=drop"):
        apply_policy(RECORDS, tokenizer, fits, "refuse", "preferences")
    assert apply_policy(RECORDS, tokenizer, fits, "drop")[0] == RECORDS[:2]
    kept, report = apply_policy(RECORDS, tokenizer, fits, "truncate")
    assert kept == RECORDS[:3] and report.over == (2, 3)
    assert apply_policy(RECORDS, tokenizer, None, "refuse") == (RECORDS, None)
    assert apply_policy(RECORDS[:1], tokenizer, 1000, "refuse")[0] == RECORDS[:1]
    with pytest.raises(UserError, match="no record is left"):
        apply_policy(RECORDS, tokenizer, 1, "drop")
    with pytest.raises(UserError, match="data.overlong is 'cut'"):
        apply_policy(RECORDS, tokenizer, 10, "cut")
