"""PPO beside the last TRL that had one, on two cores: episodes a second and peak memory.

    pip install --no-deps --target DIR trl==1.12.0       # the peer, beside; it runs with today's transformers
    python benchmarks/ppo_speed.py --peer DIR [--tokenizer GPT2_FOLDER]    # writes benchmarks/ppo_speed.json

Batches of 32 prompts (at most 64 tokens, mean 23), 4 passes, one minibatch, replies of at most 64 tokens. Two models:
most of the work in the head (4 layers of 256, 50,257 tokens) or in the body (8 layers of 512, 1,024 tokens). Replies
that end early (mean 4), never, or anywhere (mean 16): the end token's logit is raised alike for both, by a hook on the
language-model head. Each case is a fresh process, ours and the peer's in turn, with the same allocator settings; the
first update is not counted.
"""

import argparse
import json
import math
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

MODELS = {
    "head-heavy": {"n_layer": 4, "n_embd": 256, "n_head": 4, "vocab_size": 50257},
    "body-heavy": {"n_layer": 8, "n_embd": 512, "n_head": 8, "vocab_size": 1024},
}
ENDS = {"early, mean 4": 4, "none": None, "mixed, mean 16": 16}
BATCH, PASSES, REPLY, LONGEST = 32, 4, 64, 64
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "34359738368",
    "MALLOC_TRIM_THRESHOLD_": "34359738368",
    "MALLOC_TOP_PAD_": "268435456",
}
WORDS = (  # noqa: SIM905 - a sentence reads better than a list
    "the of and to in is you that it he was for on are as with his they at be this have from or one had by word but"
).split()


def prompts(count):
    """Texts of 4 to about 60 words, mean about 22."""
    draw = random.Random(0)
    return [
        " ".join(draw.choice(WORDS) for _ in range(min(4 + int(draw.expovariate(1 / 18)), 60))) for _ in range(count)
    ]


def tokenizer_of(kind, folder):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2TokenizerFast, PreTrainedTokenizerFast

    if kind == "head-heavy" and folder:
        tokenizer = GPT2TokenizerFast(vocab=f"{folder}/vocab.json", merges=f"{folder}/merges.txt")
    else:
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        bpe.train_from_iterator(
            prompts(500),
            trainers.BpeTrainer(
                vocab_size=1000, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
            ),
        )
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>")
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    tokenizer.padding_side = "left"
    return tokenizer


def models(kind, ends, tokenizer):
    import torch
    from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

    torch.manual_seed(0)
    shape = MODELS[kind] | {"vocab_size": max(MODELS[kind]["vocab_size"], len(tokenizer))}
    ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None, "pad_token_id": tokenizer.pad_token_id}
    config = GPT2Config(n_positions=256, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, num_labels=1, **shape, **ids)
    vocabulary = shape["vocab_size"]
    raised = -1e4 if ends is None else math.log(vocabulary / (ends - 1))

    def raise_end(module, given, logits):
        logits[..., tokenizer.eos_token_id] += raised
        return logits

    def policy():
        torch.manual_seed(1)
        model = GPT2LMHeadModel(config)
        model.lm_head.register_forward_hook(raise_end)
        return model

    return policy, lambda: GPT2ForSequenceClassification(config)


def common(folder):
    return {
        "output_dir": folder,
        "per_device_train_batch_size": BATCH,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-6,
        "bf16": False,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "temperature": 1.0,
    }


def ours(kind, ends, updates, tokenizer):
    from datasets import Dataset

    from align.ppo import PPOConfig, PPOTrainer

    policy, classifier = models(kind, ends, tokenizer)
    stamps, tokens = [], []

    class Timed(PPOTrainer):
        def _begin_rollout(self, batch):
            stamps.append(time.perf_counter())
            super()._begin_rollout(batch)
            tokens.append((self._rollout.tokens, int(self._rollout.lengths.sum())))

        def log(self, logs, start_time=None):
            super().log(logs, start_time)
            shares.update({k: v for k, v in logs.items() if k.startswith("time/")})

    shares = {}
    reward = classifier()
    reward.config._name_or_path = "reward"
    trainer = Timed(
        policy(),
        reward,
        PPOConfig(
            **common("/tmp/ppo_speed"),
            num_iterations=PASSES,
            max_completion_length=REPLY,
            max_steps=updates * PASSES,
            activation_checkpointing=False,
        ),
        Dataset.from_list([{"prompt": text} for text in prompts(BATCH * updates)]),
        processing_class=tokenizer,
        reward_processing_classes=tokenizer,
        ref_model=policy(),
        value_model=classifier(),
    )
    trainer.train()
    stamps.append(time.perf_counter())
    shape = MODELS[kind]
    body = 12 * shape["n_layer"] * shape["n_embd"] ** 2
    head = shape["n_embd"] * shape["vocab_size"]
    whole, scored = (statistics.mean(column) for column in list(zip(*tokens, strict=True)))
    flops = 6 * PASSES * (2 * body * whole + head * scored)  # forward and backward, policy and value
    return stamps, {"shares": shares, "update GFLOP on real tokens": flops / 1e9, "mean reply": scored / BATCH}


def peer(kind, ends, updates, tokenizer):
    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    policy, classifier = models(kind, ends, tokenizer)
    stamps = []
    args = PPOConfig(
        **common("/tmp/ppo_speed_peer"),
        num_ppo_epochs=PASSES,
        num_mini_batches=1,
        response_length=REPLY,
        stop_token="eos",
        total_episodes=BATCH * updates,
        num_sample_generations=0,
        local_rollout_forward_batch_size=BATCH,
        gradient_checkpointing=False,
    )
    rows = [{"input_ids": tokenizer(text)["input_ids"]} for text in prompts(BATCH * updates)]

    class Timed(PPOTrainer):
        def log(self, logs, *rest):
            stamps.append(time.perf_counter())
            super().log(logs, *rest)

    trainer = Timed(
        args=args,
        processing_class=tokenizer,
        model=policy(),
        ref_model=policy(),
        reward_model=classifier(),
        value_model=classifier(),
        train_dataset=Dataset.from_list(rows),
    )
    stamps.append(time.perf_counter())
    trainer.train()
    return stamps, {}


def matmul_rate():
    """GFLOP/s of a large fp32 product."""
    import torch

    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    best = 0.0
    for _ in range(8):
        began = time.perf_counter()
        a @ b
        best = max(best, 2 * 2048**3 / (time.perf_counter() - began) / 1e9)
    return best


def child(asked):
    if asked.who == "peer":
        sys.path.insert(0, asked.peer)
    import torch

    torch.set_num_threads(os.cpu_count())
    tokenizer = tokenizer_of(asked.kind, asked.tokenizer)
    stamps, told = (ours if asked.who == "align" else peer)(asked.kind, ENDS[asked.ends], asked.updates, tokenizer)
    spent = [after - before for before, after in zip(stamps, stamps[1:], strict=False)][1:]
    told |= {
        "episodes/s": BATCH / statistics.median(spent),
        "seconds an update": [round(one, 2) for one in spent],
        "peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }
    print("RESULT " + json.dumps(told), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", help="folder that TRL 1.12.0 is unpacked in")
    parser.add_argument("--tokenizer", default=None, help="folder of GPT-2's tokenizer")
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--who")
    parser.add_argument("--kind")
    parser.add_argument("--ends")
    asked = parser.parse_args()
    if asked.who:
        return child(asked)
    from align.artifacts.provenance import packages

    told = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "matmul GFLOP/s": round(matmul_rate(), 1),
        "peer": "trl 1.12.0",
        **packages(),
        "rows": [],
    }
    for kind in MODELS:
        for ends in ENDS:
            row = {"model": kind, "replies end": ends}
            for who in ("align", "peer"):
                words = [sys.executable, __file__, "--who", who, "--kind", kind, "--ends", ends]
                words += ["--updates", str(asked.updates), "--peer", asked.peer]
                words += ["--tokenizer", asked.tokenizer] if asked.tokenizer else []
                done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **ALLOCATOR})
                lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
                if not lines:
                    raise SystemExit(done.stderr[-3000:])
                row[who] = json.loads(lines[-1].removeprefix("RESULT "))
            row["times as fast"] = row["align"]["episodes/s"] / row["peer"]["episodes/s"]
            row["share of its memory"] = row["align"]["peak GB"] / row["peer"]["peak GB"]
            mine = row["align"]
            busy = mine["shares"]["time/update"] * BATCH / mine["episodes/s"]
            mine["update GFLOP/s on real tokens"] = mine["update GFLOP on real tokens"] / busy
            told["rows"].append(row)
            (Path(__file__).parent / "ppo_speed.json").write_text(json.dumps(told, indent=1) + "\n", "utf-8")
            print(
                f"{kind}, {ends}: {mine['episodes/s']:.1f} to {row['peer']['episodes/s']:.1f} episodes/s "
                f"({row['times as fast']:.2f}x), {mine['peak GB']:.1f} to {row['peer']['peak GB']:.1f} GB",
                flush=True,
            )


if __name__ == "__main__":
    main()
