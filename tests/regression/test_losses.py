"""The loss that a stage logs at its first step, against the paper's formula in numpy float64.

The formulas are written out from the papers and read nothing of TRL or align: the texts are put together by hand from
the chat template, each is run alone, without padding, through the model in float64, and the rest is numpy. The policy
and its reference are two untrained models with wide weights, so that no log-ratio is zero.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from numpy import exp, log

from align.artifacts.version import Version
from tests.conftest import run_command
from tests.regression import world

ROWS = 8
BETA = 0.3
SMOOTH = 0.1  # label smoothing, epsilon in the papers
TAU = 0.05  # of DiscoPOP, TRL's default
KEEP_WEIGHTS = {"trainer__max_steps": 1, "trainer__learning_rate": 0}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with `base:v1`, the policy, and `ref:v1`; beside it one batch of data."""
    root = tmp_path_factory.mktemp("losses") / "artifacts"
    data = root.parent / "data"
    world.write_data(data)
    for file in data.glob("*.train.jsonl"):
        if "language_modeling" not in file.name:
            file.write_text("".join(file.read_text("utf-8").splitlines(keepends=True)[:ROWS]), "utf-8")
    for name, seed in (("base", 1), ("ref", 2)):
        run_command(world.overrides(root, "pretrain", name=name, trainer__seed=seed, **KEEP_WEIGHTS))
    return root


def rows(root: Path, format: str) -> list[dict]:
    lines = (root.parent / "data" / f"{format}.train.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def first_loss(root: Path, stage: str, name: str, **more: object) -> tuple[float, Version]:
    """What the stage logs at step 1 over one batch of all rows, and what it published: the weights it began with."""
    version = run_command(world.overrides(root, stage, name=name, **KEEP_WEIGHTS, **more))
    return world.losses(version)[0], version


class Oracle:
    """Log-probabilities and scores of a published model, in float64."""

    def __init__(self, folder: Path):
        import torch
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

        scores = json.loads((folder / "config.json").read_text())["architectures"][0].endswith("Classification")
        auto = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
        self.torch = torch
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = auto.from_pretrained(folder, dtype=torch.float64).eval()

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def run(self, ids: list[int]) -> np.ndarray:
        with self.torch.no_grad():
            return self.model(self.torch.tensor([ids])).logits[0].numpy()

    def token_logps(self, ids: list[int]) -> np.ndarray:
        """log p of every token but the first, given those before it."""
        logits = self.run(ids)[:-1]
        top = logits.max(-1, keepdims=True)
        logps = logits - top - log(exp(logits - top).sum(-1, keepdims=True))
        return logps[np.arange(len(ids) - 1), ids[1:]]

    def text(self, prompt: list[dict], completion: list[dict]) -> tuple[list[int], int]:
        """The tokens of an exchange, and where the completion begins."""
        begin = self.ids(f"<|user|>{prompt[0]['content']}<|end|><|assistant|>")
        return begin + self.ids(f"{completion[0]['content']}<|end|>"), len(begin)

    def completion_logps(self, prompt: list[dict], completion: list[dict]) -> np.ndarray:
        ids, begin = self.text(prompt, completion)
        return self.token_logps(ids)[begin - 1 :]

    def score(self, prompt: list[dict], completion: list[dict]) -> float:
        return float(self.run(self.text(prompt, completion)[0])[0])


@pytest.fixture(scope="module")
def policy(root: Path) -> Oracle:
    return Oracle(root / "base" / "v0001" / "model")


@pytest.fixture(scope="module")
def ref_model(root: Path) -> Oracle:
    return Oracle(root / "ref" / "v0001" / "model")


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + exp(-x))


def binary_kl(p: np.ndarray, q: float) -> np.ndarray:
    return p * log(p / q) + (1 - p) * log((1 - p) / (1 - q))


class Pairs:
    """What the formulas below speak of, an entry a pair; `w` is chosen (won), `l` rejected (lost)."""

    def __init__(self, policy: Oracle, ref_model: Oracle, preferences: list[dict]):
        def sums(model: Oracle, side: str) -> np.ndarray:
            return np.array([model.completion_logps(row["prompt"], row[side]).sum() for row in preferences])

        self.policy_w, self.policy_l = sums(policy, "chosen"), sums(policy, "rejected")
        self.ref_w, self.ref_l = sums(ref_model, "chosen"), sums(ref_model, "rejected")
        self.tokens_w, self.tokens_l = (
            np.array([len(policy.completion_logps(row["prompt"], row[side])) for row in preferences])
            for side in ("chosen", "rejected")
        )
        self.ratio_w, self.ratio_l = self.policy_w - self.ref_w, self.policy_l - self.ref_l
        self.margin = BETA * (self.ratio_w - self.ratio_l)


# One entry for each value of DPO's `loss_type`.
DPO = {
    # Rafailov et al. 2023 (arXiv:2305.18290), eq. 7
    "sigmoid": lambda p: -log(sigmoid(p.margin)),
    # Zhao et al. 2023 (arXiv:2305.10425), eq. 2, on the log-ratios, as Liu et al. 2023 (arXiv:2309.06657) normalise it
    "hinge": lambda p: np.maximum(0, 1 - p.margin),
    # Azar et al. 2023 (arXiv:2310.12036), eq. 17, per token as its authors told TRL
    "ipo": lambda p: (p.ratio_w / p.tokens_w - p.ratio_l / p.tokens_l - 1 / (2 * BETA)) ** 2,
    # Ji et al. 2024 (arXiv:2402.00856), eq. 16 with K = 2: KL of the policy's choice from the smoothed label
    "exo_pair": lambda p: binary_kl(sigmoid(p.margin), 1 - SMOOTH),
    # Chen et al. 2024 (arXiv:2402.05369), eq. 10 for pairs
    "nca_pair": lambda p: (
        -log(sigmoid(BETA * p.ratio_w)) - 0.5 * (log(sigmoid(-BETA * p.ratio_w)) + log(sigmoid(-BETA * p.ratio_l)))
    ),
    # Chowdhury et al. 2024 (arXiv:2403.00409), eq. 12
    "robust": lambda p: (-(1 - SMOOTH) * log(sigmoid(p.margin)) + SMOOTH * log(sigmoid(-p.margin))) / (1 - 2 * SMOOTH),
    # Jung et al. 2024 (arXiv:2404.04656), binary cross entropy of the reward; TRL leaves out its running shift
    "bco_pair": lambda p: -log(sigmoid(BETA * p.ratio_w)) - log(sigmoid(-BETA * p.ratio_l)),
    # Wu et al. 2024 (arXiv:2405.00675), eq. 4.7 with P(w beats l) = 1
    "sppo_hard": lambda p: (p.ratio_w - 1 / (2 * BETA)) ** 2 + (p.ratio_l + 1 / (2 * BETA)) ** 2,
    # Melnyk et al. 2024 (arXiv:2406.05882), paired: the margins of policy and reference are sorted first
    "aot": lambda p: smoothed(BETA * (np.sort(p.policy_w - p.policy_l) - np.sort(p.ref_w - p.ref_l))),
    # the same, unpaired: log-ratios of both sides are sorted
    "aot_unpaired": lambda p: smoothed(BETA * (np.sort(p.ratio_w) - np.sort(p.ratio_l))),
    # D'Oosterlinck et al. 2024 (arXiv:2408.06266), eq. 7 and 8, up to their constant
    "apo_zero": lambda p: 1 - sigmoid(BETA * p.ratio_w) + sigmoid(BETA * p.ratio_l),
    "apo_down": lambda p: sigmoid(BETA * p.ratio_w) + 1 - sigmoid(p.margin),
    # Lu et al. 2024 (arXiv:2406.08414), eq. 5
    "discopop": lambda p: (
        (1 - sigmoid(p.margin / TAU)) * -log(sigmoid(p.margin)) + sigmoid(p.margin / TAU) * exp(-p.margin)
    ),
    # cross entropy of the chosen completions, over all their tokens
    "sft": lambda p: np.array([-p.policy_w.sum() / p.tokens_w.sum()]),
    # Lambert et al. 2024 (arXiv:2411.15124), section 5: DPO per token
    "sigmoid_norm": lambda p: -log(sigmoid(BETA * (p.ratio_w / p.tokens_w - p.ratio_l / p.tokens_l))),
}


def smoothed(x: np.ndarray) -> np.ndarray:
    return -(1 - SMOOTH) * log(sigmoid(x)) - SMOOTH * log(sigmoid(-x))


def test_every_loss_type_of_dpo_is_here():
    from trl import DPOConfig

    named = re.search(r"loss_type .*?Possible values are: (.*?)If multiple", DPOConfig.__doc__, re.DOTALL)[1]
    assert set(DPO) == set(re.findall(r"`'(\w+)'`", named))


def quick(first: object, *others: object) -> list:
    """One value for `make check`; the others are left to `make test`."""
    return [first, *(pytest.param(other, marks=pytest.mark.slow) for other in others)]


@pytest.mark.parametrize("loss_type", quick(*DPO))
def test_dpo(root, policy, ref_model, loss_type):
    smooths = loss_type in ("exo_pair", "robust", "aot", "aot_unpaired")
    logged, _ = first_loss(
        root,
        "dpo",
        f"dpo-{loss_type}",
        inputs__ref_model="ref:v1",
        trainer__beta=BETA,
        trainer__loss_type=f"[{loss_type}]",
        trainer__label_smoothing=SMOOTH if smooths else 0,
    )
    pairs = Pairs(policy, ref_model, rows(root, "preference"))
    assert logged == pytest.approx(DPO[loss_type](pairs).mean(), rel=1e-5)


def test_dpo_against_itself_begins_at_log_2(root):
    assert first_loss(root, "dpo", "dpo-itself")[0] == pytest.approx(log(2), abs=1e-6)


@pytest.mark.parametrize("loss_type", quick("kto", "apo_zero_unpaired"))
def test_kto(root, policy, ref_model, loss_type):
    """Ethayarajh et al. 2024 (arXiv:2402.01306), eq. 8; without its reference point, the unpaired APO-zero."""
    good, bad, seed = 1.3, 0.7, 5
    logged, _ = first_loss(
        root,
        "kto",
        f"kto-{loss_type}",
        inputs__ref_model="ref:v1",
        trainer__beta=BETA,
        trainer__seed=seed,
        trainer__loss_type=loss_type,
        trainer__desirable_weight=good,
        trainer__undesirable_weight=bad,
    )
    labelled = Dataset.from_list(rows(root, "unpaired_preference")).shuffle(seed=seed).to_list()

    def ratio(prompt: list[dict], completion: list[dict]) -> float:
        return (policy.completion_logps(prompt, completion) - ref_model.completion_logps(prompt, completion)).sum()

    strangers = [ratio(row["prompt"], labelled[at - 1]["completion"]) for at, row in enumerate(labelled)]
    shift = max(0.0, np.mean(strangers)) if loss_type == "kto" else 0.0
    assert loss_type != "kto" or shift > 0, "the data must let the reference point count"
    values = [
        good * (1 - sigmoid(BETA * (ratio(row["prompt"], row["completion"]) - shift)))
        if row["label"]
        else bad * (1 - sigmoid(BETA * (shift - ratio(row["prompt"], row["completion"]))))
        for row in labelled
    ]
    assert logged == pytest.approx(np.mean(values), rel=1e-5)


@pytest.mark.parametrize("coefficient", quick(0.05, "null"))
def test_reward(root, coefficient):
    """Bradley-Terry with a margin, Touvron et al. 2023 (arXiv:2307.09288), eq. 2; the centring term is
    Eisenstein et al. 2023 (arXiv:2312.09244), eq. 2."""
    logged, published = first_loss(
        root, "reward", f"reward-{coefficient}", trainer__center_rewards_coefficient=coefficient
    )
    oracle = Oracle(published.model_dir)
    pairs = rows(root, "preference")
    chosen = np.array([oracle.score(row["prompt"], row["chosen"]) for row in pairs])
    rejected = np.array([oracle.score(row["prompt"], row["rejected"]) for row in pairs])
    margins = np.array([row["margin"] for row in pairs])
    assert len(set(margins)) > 1 and abs(chosen - rejected).min() > 0
    expected = -log(sigmoid(chosen - rejected - margins))
    if coefficient != "null":
        expected += coefficient * (chosen + rejected) ** 2
    assert logged == pytest.approx(expected.mean(), rel=1e-5)


def test_sft_is_cross_entropy_of_the_completion_and_its_end(root, policy):
    logged, _ = first_loss(root, "sft", "sft")
    logps = [policy.completion_logps(row["prompt"], row["completion"]) for row in rows(root, "prompt_completion")]
    assert logged == pytest.approx(-np.concatenate(logps).mean(), rel=1e-5)


def test_pretrain_is_cross_entropy_of_the_corpus_cut_into_full_rows(root, policy):
    """The mean is over all tokens, though the first of a row has nothing before it: transformers 5.23 knows by the
    class name (`...ForCausalLM`) whether to count it, and GPT-2's is another."""
    logged, _ = first_loss(root, "pretrain", "pretrain", trainer__seed=1, trainer__per_device_train_batch_size=1000)
    corpus = [token for row in rows(root, "language_modeling") for token in policy.ids(f"{row['text']}<|end|>")]
    width = world.OWN["pretrain"]["trainer.max_length"]
    pieces = [corpus[start : start + width] for start in range(0, len(corpus), width)]
    logps = [policy.token_logps(piece) for piece in pieces]
    assert logged == pytest.approx(-np.concatenate(logps).sum() / len(corpus), rel=1e-5)
