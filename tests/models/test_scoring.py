"""Scores against independent float64 computations, and generation against transformers one prompt at a time."""

import copy
import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GenerationConfig

from align.artifacts.store import Store
from align.data.tokens.chat_template import end_ids, render_prompt
from align.evaluation.metrics import piece_width
from align.models.generation import generate
from align.models.load import load_frozen, load_tokenizer
from align.models.scoring import perplexity, reward_scores, token_logps, token_logps_and_kl


def chat(text):
    return [{"role": "user", "content": text}]


PROMPTS = [chat("what is two plus three?"), chat("hi"), chat("please sort these words: pear, apple, fig, plum, kiwi")]
PROMPTS += [chat(f"what is {number} plus {number}?") for number in ("one", "two", "three", "four", "five")]


@pytest.fixture(scope="module")
def sft(tiny_models):
    folder = Store(tiny_models).resolve("sft").model_dir
    return load_frozen(folder), load_tokenizer(folder)


@pytest.fixture(scope="module")
def pretrain(tiny_models):
    return load_frozen(Store(tiny_models).resolve("pretrain").model_dir)


@pytest.fixture(scope="module")
def reward(tiny_models):
    folder = Store(tiny_models).resolve("reward").model_dir
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    return model, load_tokenizer(folder)


@pytest.fixture(scope="module")
def sequences():
    """(prompt ids, completion ids) of many lengths, one without a prompt."""
    draw = np.random.default_rng(0)
    shapes = [(1, 1), (5, 3), (0, 6), (20, 30), (2, 17), (3, 1)]
    return [tuple([int(token) for token in draw.integers(4, 500, size)] for size in shape) for shape in shapes]


def log_probabilities(model, ids: list[int]) -> np.ndarray:
    """log p(. | ids[:t+1]) at each t, from a float64 forward of this one row and a float64 softmax in numpy."""
    double = AutoModelForCausalLM.from_config(model.config).double().eval()
    double.load_state_dict({name: weight.double() for name, weight in model.state_dict().items()})
    with torch.no_grad():
        logits = double(input_ids=torch.tensor([ids])).logits[0].numpy()
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_token_logps_agree_with_float64(sft, sequences):
    model, tokenizer = sft
    for (prompt, completion), logps in zip(
        sequences, token_logps(model, tokenizer.pad_token_id, sequences), strict=True
    ):
        table = log_probabilities(model, prompt + completion)
        first = max(len(prompt), 1)
        expected = [table[at - 1, (prompt + completion)[at]] for at in range(first, len(prompt + completion))]
        np.testing.assert_allclose(logps.numpy(), expected, atol=2e-6)


def test_divergence_agrees_with_float64_is_not_negative_and_is_none_from_itself(sft, pretrain, sequences):
    model, tokenizer = sft
    for (prompt, completion), (_, kl), (_, own) in zip(
        sequences,
        token_logps_and_kl(model, pretrain, tokenizer.pad_token_id, sequences),
        token_logps_and_kl(model, model, tokenizer.pad_token_id, sequences),
        strict=True,
    ):
        ours, theirs = (log_probabilities(one, prompt + completion) for one in (model, pretrain))
        places = slice(max(len(prompt), 1) - 1, len(prompt + completion) - 1)
        expected = (np.exp(ours) * (ours - theirs))[places].sum()
        assert kl == pytest.approx(expected, abs=1e-5)
        assert expected > 0 and own == 0


def test_divergence_estimates_the_sampled_log_ratio(sft, pretrain):
    """Over samples at temperature 1 the mean of the exact per-token divergence is that of the log-ratio."""
    model, tokenizer = sft
    sharp = sharpened(model, scale=3.0)
    completions = generate(sharp, tokenizer, PROMPTS[:1] * 400, max_new_tokens=6, temperature=1.0, batch_size=100)
    written = [(one.prompt_ids, one.completion_ids) for one in completions]
    exact = [kl for _, kl in token_logps_and_kl(sharp, pretrain, tokenizer.pad_token_id, written)]
    ratios = [
        (ours - theirs).sum().item()
        for ours, theirs in zip(
            *(token_logps(m, tokenizer.pad_token_id, written) for m in (sharp, pretrain)), strict=True
        )
    ]
    gap, error = np.mean(exact) - np.mean(ratios), np.std(ratios) / math.sqrt(len(ratios))
    assert abs(gap) < 4 * error
    assert np.std(exact) < np.std(ratios)


def sharpened(model, *, scale: float):
    """The same model with its final layer norm scaled: sharper, and so at some distance from the reference."""
    sharp = copy.deepcopy(model)
    sharp.transformer.ln_f.weight.data *= scale
    return sharp


def test_perplexity_reads_as_much_at_once_as_was_asked_within_the_context():
    assert piece_width(None, 128) == 128 and piece_width(64, 128) == 64 and piece_width(512, 128) == 128
    assert piece_width(512, None) == 512 and piece_width(None, None) == 2048


def test_perplexity_is_the_formula(sft):
    model, tokenizer = sft
    texts = ["three plus four is seven.", "a", "the sorted words are apple, fig, kiwi, pear and plum. " * 6]
    width, total, count = 16, 0.0, 0
    for text in texts:
        ids = tokenizer(text)["input_ids"] + [tokenizer.eos_token_id]
        for piece in (ids[start : start + width] for start in range(0, len(ids), width)):
            table = log_probabilities(model, piece)
            total -= sum(table[at - 1, piece[at]] for at in range(1, len(piece)))
            count += len(piece) - 1
    assert len(tokenizer(texts[2])["input_ids"]) > 3 * width
    for batch_size in (1, 4):
        found = perplexity(model, tokenizer, texts, batch_size=batch_size, width=width)
        assert found == pytest.approx(math.exp(total / count), rel=1e-6)


def test_reward_scores_are_the_logit_at_the_last_token_whatever_the_batch(reward):
    model, tokenizer = reward
    answers = [[{"role": "assistant", "content": text}] for text in ("five.", "yes", "apple, fig, pear " * 3)]
    pairs = [(prompt, answers[number % 3]) for number, prompt in enumerate(PROMPTS)]
    together = reward_scores(model, tokenizer, pairs)
    assert together == pytest.approx([reward_scores(model, tokenizer, [pair])[0] for pair in pairs], abs=1e-6)
    for (prompt, answer), score in zip(pairs, together, strict=True):
        ids = tokenizer.apply_chat_template(prompt + answer, return_tensors="pt", return_dict=True)["input_ids"]
        with torch.no_grad():
            hidden = model.transformer(input_ids=ids).last_hidden_state[0, -1]
        assert score == pytest.approx(model.score(hidden).item(), abs=1e-6)


def test_reward_scores_are_centred(reward):
    model, tokenizer = reward
    pairs = [(prompt, [{"role": "assistant", "content": "five."}]) for prompt in PROMPTS[:2]]
    raw = reward_scores(model, tokenizer, pairs)
    model.config.score_center = 0.25
    try:
        assert reward_scores(model, tokenizer, pairs) == pytest.approx([score - 0.25 for score in raw])
    finally:
        model.config.score_center = 0.0


# -- generation --------------------------------------------------------------------------------------------------


def alone(model, tokenizer, prompt, max_new_tokens):
    """What transformers' own greedy search answers to one prompt, unpadded."""
    ids = render_prompt(tokenizer, prompt)
    with torch.no_grad():
        output = model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )
    return output[0, len(ids) :].tolist()


@pytest.fixture(scope="module")
def talker(sft):
    """Weights drawn wide, so that answers differ, and an end token that comes up in some of them."""
    config = copy.deepcopy(sft[0].config)
    config.initializer_range = 0.5
    torch.manual_seed(0)
    model, tokenizer = AutoModelForCausalLM.from_config(config).eval(), sft[1]
    answers = [alone(model, tokenizer, prompt, 12) for prompt in PROMPTS]
    assert len({tuple(answer) for answer in answers}) == len(PROMPTS)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, answers[0][2]]
    return model, tokenizer


def test_greedy_completions_are_those_of_each_prompt_alone(talker):
    model, tokenizer = talker
    for batch_size in (3, 8):
        found = generate(model, tokenizer, PROMPTS, max_new_tokens=12, temperature=0.0, batch_size=batch_size)
        assert [one.completion_ids for one in found] == [alone(model, tokenizer, prompt, 12) for prompt in PROMPTS]
        assert [one.prompt_ids for one in found] == [render_prompt(tokenizer, prompt) for prompt in PROMPTS]


def test_ended_says_who_stopped_and_the_text_has_no_special_tokens(talker):
    model, tokenizer = talker
    ends = model.generation_config.eos_token_id
    found = generate(model, tokenizer, PROMPTS, max_new_tokens=24, temperature=0.0)
    assert {one.ended for one in found} == {True, False}
    for one in found:
        assert one.ended == (one.completion_ids[-1] in ends)
        assert not set(ends) & set(one.completion_ids[:-1])
        assert one.ended or len(one.completion_ids) == 24
        assert one.text == tokenizer.decode(one.completion_ids, skip_special_tokens=True).strip()
        assert "<|" not in one.text


def test_a_seed_gives_the_same_completions_and_another_seed_others(talker):
    model, tokenizer = talker

    def texts(seed):
        return [one.text for one in generate(model, tokenizer, PROMPTS, max_new_tokens=8, batch_size=3, seed=seed)]

    torch.manual_seed(1)
    first = texts(5)
    torch.manual_seed(2)
    assert texts(5) == first
    assert texts(6) != first


def test_what_a_model_wishes_of_sampling_does_not_apply(talker):
    model, tokenizer = talker
    plain = generate(model, tokenizer, PROMPTS, max_new_tokens=12, temperature=0.0)
    own = model.generation_config
    model.generation_config = GenerationConfig(
        eos_token_id=own.eos_token_id, repetition_penalty=5.0, max_length=3, do_sample=True, temperature=9.0
    )
    wishes = model.generation_config.to_dict()
    try:
        assert generate(model, tokenizer, PROMPTS, max_new_tokens=12, temperature=0.0) == plain
        assert model.generation_config.to_dict() == wishes
    finally:
        model.generation_config = own


def test_a_completion_ends_where_the_chat_template_ends_a_turn(sft):
    _, tokenizer = sft
    assert end_ids(tokenizer, None) == end_ids(tokenizer, tokenizer.eos_token_id) == [tokenizer.eos_token_id]
    other = load_tokenizer(tokenizer.name_or_path)
    other.add_special_tokens({"extra_special_tokens": ["<|im_end|>"]})
    turn = other.convert_tokens_to_ids("<|im_end|>")
    other.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    assert end_ids(other, None) == sorted([other.eos_token_id, turn])
    assert end_ids(other, [7, turn]) == sorted([7, other.eos_token_id, turn])
