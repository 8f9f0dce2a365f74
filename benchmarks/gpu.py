"""What this project does on a GPU: correctness first, then speed and memory, beside bare TRL.

    python benchmarks/gpu.py                              # all sections; writes benchmarks/gpu-<device>.json
    python benchmarks/gpu.py --sections stages adapters   # these, in place of what the file says of them

Needs one GPU, no network, and torch, transformers, trl, peft, datasets, accelerate and hydra; what else a section
needs and does not find (deepspeed, bitsandbytes, vllm) is recorded as missing. Each section is a process of its own.
Those that are timed run alone, on a Qwen3-shaped model with random weights and rows without padding; those that only
compare numbers run at the same time, after them. `--small` tries all of it on a small model, on a CPU too.
"""

import argparse
import functools
import gc
import importlib.util
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

SHAPE = {  # Qwen3 0.6B
    "vocab_size": 151_936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
SMALL_SHAPE = SHAPE | {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
PROMPT, ANSWER = 256, 768  # tokens; an answer of a pair has ANSWER - PROMPT
ROWS, BATCH, STEPS, WARM_UP = 256, 8, 8, 3
STAGES = ("pretrain", "sft", "reward", "dpo", "kto", "ppo", "rloo", "grpo")
FORMATS = {
    "pretrain": "language_modeling",
    "sft": "prompt_completion",
    "reward": "preference",
    "dpo": "preference",
    "kto": "unpaired_preference",
}

Found = dict[str, Any]  # what a section finds, filled while it runs


class Bench:
    """One section's folder, model and data.

    Args:
        folder: shared by the sections.
        small: a model that a CPU can train.
    """

    def __init__(self, folder: Path, small: bool):
        self.folder, self.small = folder, small
        self.shape = SMALL_SHAPE if small else SHAPE
        self.prompt, self.answer = (16, 48) if small else (PROMPT, ANSWER)
        self.completion = self.prompt // 4

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def prepare(self) -> None:
        """Write the model and its data."""
        import torch
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

        self.folder.mkdir(parents=True, exist_ok=True)
        vocabulary = {"<pad>": 0, "<end>": 1} | {f"w{n}": n for n in range(2, self.shape["vocab_size"])}
        words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>")
        tokenizer.save_pretrained(self.model)
        torch.manual_seed(0)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        with torch.device(device):
            model = Qwen3ForCausalLM(Qwen3Config(**self.shape, pad_token_id=0, eos_token_id=1, bos_token_id=None))
        model.to(torch.bfloat16).save_pretrained(self.model)
        for format in (*dict.fromkeys(FORMATS.values()), "prompt_only"):
            lines = [json.dumps(self.row(format, number)) + "\n" for number in range(ROWS)]
            (self.folder / f"{format}.jsonl").write_text("".join(lines), "utf-8")

    def row(self, format: str, number: int) -> dict[str, Any]:
        """One row of `format`, of as many tokens as every other."""
        import random

        draw = random.Random(number)

        def text(count: int) -> str:
            return " ".join(f"w{draw.randrange(2, self.shape['vocab_size'])}" for _ in range(count))

        prompt, answer = text(self.prompt), self.answer - 1  # the end token comes on top
        half = self.answer - self.prompt - 1
        return {
            "language_modeling": lambda: {"text": text(self.prompt + answer)},
            "prompt_completion": lambda: {"prompt": prompt, "completion": " " + text(answer)},
            "preference": lambda: {"prompt": prompt, "chosen": " " + text(half), "rejected": " " + text(half)},
            "unpaired_preference": lambda: {
                "prompt": prompt,
                "completion": " " + text(answer),
                "label": number % 2 == 0,
            },
            "prompt_only": lambda: {"prompt": prompt},
        }[format]()

    def tokens(self, stage: str) -> int:
        """The tokens of one step."""
        if stage in ("reward", "dpo"):
            return BATCH * 2 * self.answer
        if stage in ("ppo", "rloo", "grpo"):
            return BATCH * (self.prompt + self.completion)
        return BATCH * (self.prompt + self.answer)

    def overrides(self, stage: str, **more: object) -> list[str]:
        """A timed run of `stage`; dots of further keys are written as `__`."""
        format = FORMATS.get(stage, "prompt_only")
        given: dict[str, object] = {
            "stage": stage,
            "name": f"{stage}-{time.monotonic_ns()}",
            "artifacts.root": self.folder / "artifacts",
            "artifacts.verify": "off",
            "data": "local",
            f"data.{format}.train": self.folder / f"{format}.jsonl",
            f"data.{format}.eval_fraction": 0,
            "tracking.sample_prompts": 0,
            "inputs.policy": self.model,
            "trainer.max_steps": STEPS,
            "trainer.per_device_train_batch_size": BATCH,
            "trainer.gradient_accumulation_steps": 1,
            "trainer.logging_steps": 1,
            "trainer.eval_strategy": "'no'",
            "trainer.save_strategy": "'no'",
        }
        if stage in FORMATS:
            given["trainer.max_length"] = self.prompt + self.answer
        else:
            given |= {"trainer.max_completion_length": self.completion, "inputs.reward_model": "judge:v1"}
            given |= {"trainer.num_iterations": 1, "trainer.max_steps": WARM_UP + 2}
        given |= {key.replace("__", "."): value for key, value in more.items()}
        return [f"{key}={value}" for key, value in given.items() if value is not None]

    def judge(self) -> None:
        """Publish `judge:v1`, a reward model that is not trained."""
        run(self.overrides("reward", name="judge", trainer__max_steps=1, trainer__learning_rate=0))


# -- one run, measured ------------------------------------------------------------------------------------------------


def run(overrides: list[str], code: int = 0) -> None:
    """Run one stage in this process."""
    from align.run import stage
    from tests.regression.driver import forget

    ended = stage.main(overrides)
    forget()
    _empty_cache()
    if ended != code:
        raise RuntimeError(f"exit code {ended}, not {code}: {' '.join(overrides)}")


def measure(overrides: list[str]) -> dict[str, Any]:
    """Run one stage; the seconds of a step after the warm-up, and the peak of the allocator beside the estimate."""
    import torch

    from align.run import memory
    from align.training.tracking import Tracker

    stamps: list[float] = []
    needs: list[int] = []
    log, estimate = Tracker.log, memory.estimate

    def timed(tracker: Tracker, step: int, metrics: dict[str, Any]) -> None:
        if "loss" in metrics:
            _synchronize()
            stamps.append(time.perf_counter())
        log(tracker, step, metrics)

    def noted(*args: Any) -> Any:
        need = estimate(*args)
        needs.append(need.device)
        return need

    Tracker.log, memory.estimate = timed, noted
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    try:
        run(overrides)
    finally:
        Tracker.log, memory.estimate = log, estimate
    return summary(stamps, began) | {"least need GB": gigabytes(needs[-1]) if needs else None}


def summary(stamps: list[float], began: float) -> dict[str, Any]:
    """The median step after the warm-up, the whole run's seconds and the allocator's peak."""
    import torch

    steps = [after - before for before, after in zip(stamps, stamps[1:], strict=False)][WARM_UP - 1 :]
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {
        "step seconds": round(statistics.median(steps), 4),
        "run seconds": round(time.perf_counter() - began, 1),
        "peak GB": gigabytes(peak),
    }


def gigabytes(count: float) -> float:
    return round(count / 2**30, 2)


def _synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _empty_cache() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# -- the sections that compare numbers --------------------------------------------------------------------------------


def trajectories(bench: Bench, found: Found) -> None:
    """The regression runs in fp32 and bf16: the largest distance of a step's loss from the committed one of a CPU."""
    from align.artifacts.store import Store
    from tests.regression import world

    root = bench.folder / "trajectories" / "artifacts"
    world.write_data(root.parent / "data")
    run([*world.base_overrides(root), "precision=fp32"])
    run([*world.judge_overrides(root), "precision=fp32"])
    for stage in world.STAGES:
        for precision in ("fp32", "bf16"):
            run([*world.overrides(root, stage, name=f"{stage}-{precision}"), f"precision={precision}"])
            losses = world.losses(Store(root).resolve(f"{stage}-{precision}"))
            found.setdefault(stage, {})[precision] = furthest(losses, world.reference(stage))


def zero_losses(bench: Bench, found: Found) -> None:
    """The regression runs under DeepSpeed in one process, in fp32: the largest distance from the committed loss."""
    _zero(bench, found, ("zero2", "zero3"))


def offload_losses(bench: Bench, found: Found) -> None:
    """The same with what is kept in host memory."""
    _zero(bench, found, ("zero2_offload", "zero3_offload"))


def _zero(bench: Bench, found: Found, kinds: tuple[str, ...]) -> None:
    from align.artifacts.store import Store
    from align.distributed import ranks
    from tests.regression import world

    ranks.leave = lambda: None  # one process group for all
    root = bench.folder / kinds[0] / "artifacts"
    world.write_data(root.parent / "data")
    run([*world.base_overrides(root), "precision=fp32"])
    run([*world.judge_overrides(root), "precision=fp32"])
    for kind in kinds:
        for stage in ("sft", "reward", "dpo", "kto", "ppo"):
            name = f"{stage}-{kind}"
            try:
                run([*world.overrides(root, stage, name=name, deepspeed=kind), "precision=fp32"])
                losses = world.losses(Store(root).resolve(name))
                found.setdefault(kind, {})[stage] = furthest(losses, world.reference(stage))
            except Exception:
                found.setdefault(kind, {})[stage] = failure()


def furthest(losses: list[float], reference: list[float]) -> float:
    return float(f"{max(abs(ours - theirs) for ours, theirs in zip(losses, reference, strict=True)):.1e}")


def resume(bench: Bench, found: Found) -> None:
    """Runs killed with SIGKILL and started again: what differs from the run that was never killed.

    As runs are by default, and with `trainer.full_determinism`; each run is a process, the stages go on together.
    """
    from concurrent.futures import ThreadPoolExecutor

    from align.artifacts.store import Store
    from tests.run.kills import differences

    root = bench.folder / "resume" / "artifacts"
    killed_at = "transformers.trainer:Trainer.training_step"

    def go(stage: str, name: str, *more: str, kill: bool = False) -> None:
        from tests.run.kills import overrides

        task = {"overrides": overrides(stage, root, f"name={name}", *more), "ranks": 1}
        task |= {"kill": {"where": killed_at, "nth": 11} if kill else None, "log": str(bench.folder / f"{name}.txt")}
        code = subprocess.run([sys.executable, __file__, "--killable", json.dumps(task)], check=False).returncode
        if code != (-signal.SIGKILL if kill else 0):
            raise RuntimeError(f"{name} ended with {code}: {Path(task['log']).read_text('utf-8')[-1500:]}")

    def compare(stage: str, kind: str, more: tuple[str, ...]) -> None:
        name = f"{stage}-{kind}"
        try:
            for run_name in (f"{name}-straight", f"{name}-again"):
                go(stage, run_name, *more)
            go(stage, f"{name}-killed", *more, kill=True)
            go(stage, f"{name}-killed", *more)
            straight, again, resumed = (
                Store(root).resolve(f"{name}-{which}") for which in ("straight", "again", "killed")
            )
            found[f"{stage}, {kind}"] = {
                "straight twice": differences(straight, again) or "identical",
                "killed": differences(straight, resumed) or "identical",
            }
        except Exception:
            found[f"{stage}, {kind}"] = failure()

    go("pretrain", "pretrain")
    go("sft", "sft", "model.chat_template=conf/model/chat.jinja")
    go("reward", "reward")
    with ThreadPoolExecutor(7) as pool:
        for kind, more in {"default": (), "full_determinism": ("trainer.full_determinism=true",)}.items():
            for stage in ("sft", "reward", "dpo", "kto", "ppo", "rloo", "grpo"):
                pool.submit(compare, stage, kind, more)


def demo(bench: Bench, found: Found) -> None:
    """`make demo` on the GPU: its table."""
    command = [sys.executable, "launch/pipeline.py", "pipeline=demo", f"artifacts.root={bench.folder / 'demo'}"]
    with subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    if process.returncode:
        raise RuntimeError("\n".join(lines[-20:]))
    start = max((n for n, line in enumerate(lines) if line.lstrip().startswith("model ")), default=-8)
    found["table"] = lines[start : start + 8]


def attention(bench: Bench, found: Found) -> None:
    """Log-probabilities of padded rows by each attention, against eager in fp32; and the seconds of a forward pass."""
    import torch
    from transformers import AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(1)
    length = self_length = bench.prompt + bench.answer
    ids = torch.randint(2, bench.shape["vocab_size"], (4, length), device=device)
    mask = torch.ones_like(ids)
    for row in range(4):
        mask[row, self_length - row * length // 8 :] = 0

    def logps(attention: str, dtype: torch.dtype) -> tuple[Any, float]:
        model = AutoModelForCausalLM.from_pretrained(bench.model, dtype=dtype, attn_implementation=attention)
        model = model.to(device).eval()
        times = []
        with torch.no_grad():
            for _ in range(4):
                _synchronize()
                began = time.perf_counter()
                logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
                _synchronize()
                times.append(time.perf_counter() - began)
            picked = [
                torch.log_softmax(row.float(), -1).gather(-1, target[1:, None])[:, 0]
                for row, target in zip(logits, ids, strict=True)
            ]
        return torch.stack(picked) * mask[:, 1:], min(times[1:])

    exact, seconds = logps("eager", torch.float32)
    found["eager, fp32"] = {"seconds": round(seconds, 4)}
    for name in ("eager", "sdpa", "flex_attention", "flash_attention_2"):
        for dtype in (torch.float32, torch.bfloat16):
            key = f"{name}, {'fp32' if dtype == torch.float32 else 'bf16'}"
            if key in found or (name == "flash_attention_2" and dtype == torch.float32):
                continue
            try:
                values, seconds = logps(name, dtype)
                apart = (values - exact).abs()
                found[key] = {
                    "seconds": round(seconds, 4),
                    "largest distance": float(f"{apart.max():.2e}"),
                    "mean distance": float(f"{apart.mean():.2e}"),
                }
            except Exception as error:
                found[key] = first_line(error)
            _empty_cache()


def sentences(bench: Bench, found: Found) -> None:
    """What a run says that does not fit: one that is refused, and one that runs out of memory."""
    if not _cuda():
        found["missing"] = "a GPU"
        return
    import torch

    blocked = torch.empty(int(torch.cuda.mem_get_info()[0]) - 4 * 2**30, dtype=torch.uint8, device="cuda")
    found["no room at the start"] = _said(bench.overrides("dpo"))
    del blocked
    _empty_cache()
    huge = {"trainer__per_device_train_batch_size": 192, "trainer__activation_checkpointing": "false"}
    found["no room for the activations"] = _said(bench.overrides("sft", **huge))


def _said(overrides: list[str]) -> str:
    """The sentence with which a run ends."""
    command = [sys.executable, "launch/run.py", *overrides]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    return f"exit code {ended.returncode}: {' '.join(ended.stderr[-1200:].splitlines()[-3:])}"


# -- the timed sections -----------------------------------------------------------------------------------------------


def machine(bench: Bench, found: Found) -> None:
    """The device, its rate of bf16 and fp32 matrix products, and the versions of what runs on it."""
    from align.artifacts.provenance import packages

    found |= {"cpu cores": os.cpu_count(), "packages": packages()}
    if not _cuda():
        return
    import torch

    properties = torch.cuda.get_device_properties(0)
    found |= {"device": properties.name, "memory GB": gigabytes(properties.total_memory), "cuda": torch.version.cuda}
    size = 8192
    for dtype in (torch.bfloat16, torch.float32):
        left, right = (torch.randn(size, size, device="cuda", dtype=dtype) for _ in range(2))
        times = []
        for _ in range(8):
            torch.cuda.synchronize()
            began = time.perf_counter()
            left @ right
            torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        found[f"TFLOP/s, {str(dtype).partition('.')[2]}"] = round(2 * size**3 / statistics.median(times) / 1e12, 1)


def stages(bench: Bench, found: Found) -> None:
    """Every trained stage in bf16, with and without activation checkpointing."""
    bench.judge()
    for stage in STAGES:
        more = {"trainer__num_generations": 4} if stage in ("rloo", "grpo") else {}
        for checkpointing in ("true", "false"):
            if checkpointing == "false" and stage not in ("sft", "dpo"):
                continue
            key = stage if checkpointing == "true" else f"{stage}, activations kept"
            found[key] = rated(bench, stage, trainer__activation_checkpointing=checkpointing, **more)


def rated(bench: Bench, stage: str, **more: object) -> dict[str, Any]:
    """`measure`, with tokens a second and, for full training without generation, model FLOP/s."""
    from align.artifacts.store import Store

    overrides = bench.overrides(stage, **more)
    try:
        found = measure(overrides)
    except Exception:
        return failure()
    rate = bench.tokens(stage) / found["step seconds"]
    found |= {"tokens per second": round(rate)}
    if stage in FORMATS and not more.get("adapter"):
        found["model TFLOP/s"] = round(rate * flops(bench, stage) / 1e12, 1)
    name = next(word.partition("=")[2] for word in overrides if word.startswith("name="))
    metrics = (Store(bench.folder / "artifacts").resolve(name).path / "metrics.jsonl").read_text("utf-8").splitlines()
    shares = {key: value for key, value in json.loads(metrics[-2]).items() if key.startswith("time/")}
    return found | {key: round(value, 3) for key, value in shares.items()}


def flops(bench: Bench, stage: str) -> float:
    """Of the model for one trained token: 6 for each weight and 6 for each (causal) score of attention and layer.

    A reference adds its forward pass, a third of it; activations that are computed again are not counted.
    """
    shape, length = bench.shape, bench.answer if stage in ("reward", "dpo") else bench.prompt + bench.answer
    attention = shape["num_attention_heads"] * shape["head_dim"]
    kept = shape["num_key_value_heads"] * shape["head_dim"]
    layer = shape["hidden_size"] * (2 * attention + 2 * kept + 3 * shape["intermediate_size"])
    head = 0 if stage == "reward" else shape["hidden_size"] * shape["vocab_size"]
    one = 6 * (shape["num_hidden_layers"] * (layer + attention * length / 2 * 2) + head)
    return one * (4 / 3 if stage in ("dpo", "kto") else 1)


def adapters(bench: Bench, found: Found) -> None:
    """LoRA, and QLoRA where bitsandbytes is installed."""
    for kind in ("lora", "qlora"):
        if kind == "qlora" and importlib.util.find_spec("bitsandbytes") is None:
            found[kind] = {"missing": "bitsandbytes"}
            continue
        for stage in ("sft", "dpo"):
            found[f"{stage}, {kind}"] = rated(bench, stage, adapter=kind)


def deepspeed(bench: Bench, found: Found, kind: str) -> None:
    """SFT under ZeRO, one rank; a section for each kind, as an engine leaves memory behind. PPO under ZeRO-3 too."""
    if importlib.util.find_spec("deepspeed") is None:
        found["missing"] = "deepspeed"
        return
    from align.distributed import ranks

    ranks.leave = lambda: None  # one process group for both runs
    bench.judge()
    found["sft"] = rated(bench, "sft", deepspeed=kind)
    if kind == "zero3":
        found["ppo"] = rated(bench, "ppo", deepspeed=kind)


def trl(bench: Bench, found: Found) -> None:
    """TRL's own SFT and DPO trainers with the same settings, data and model."""
    import torch
    import trl as library
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    from align.config.compose import compose

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.stamps: list[float] = []

        def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **_: Any) -> None:
            if "loss" in (logs or {}):
                _synchronize()
                self.stamps.append(time.perf_counter())

    for stage, trainer, config in (
        ("sft", library.SFTTrainer, library.SFTConfig),
        ("dpo", library.DPOTrainer, library.DPOConfig),
    ):
        for checkpointing in ("true", "false"):
            block = compose(bench.overrides(stage, trainer__activation_checkpointing=checkpointing)).trainer
            block = dict(block)
            block["gradient_checkpointing"] = block.pop("activation_checkpointing")
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            clock, began = Clock(), time.perf_counter()
            rows = load_dataset("json", data_files=str(bench.folder / f"{FORMATS[stage]}.jsonl"), split="train")
            arguments = config(
                **block,
                output_dir=str(bench.folder / "trl"),
                bf16=_cuda(),
                use_cpu=not _cuda(),
                report_to=[],
                disable_tqdm=True,
            )
            reference = {}
            if stage == "dpo":
                dtype = torch.bfloat16 if _cuda() else torch.float32
                reference = {"ref_model": AutoModelForCausalLM.from_pretrained(bench.model, dtype=dtype)}
            peer = trainer(
                model=AutoModelForCausalLM.from_pretrained(bench.model, dtype=torch.float32),
                args=arguments,
                train_dataset=rows,
                processing_class=AutoTokenizer.from_pretrained(bench.model),
                callbacks=[clock],
                **reference,
            )
            peer.train()
            one = summary(clock.stamps, began)
            one["tokens per second"] = round(bench.tokens(stage) / one["step seconds"])
            found[stage if checkpointing == "true" else f"{stage}, activations kept"] = one
            del peer, reference
            _empty_cache()


def generation(bench: Bench, found: Found) -> None:
    """Answers of the sample stage by transformers; vLLM where it is installed."""
    from align.stages import sample

    if not importlib.util.find_spec("vllm"):
        found["vllm"] = {"missing": "vllm"}
    spent = []
    answer = sample.generate

    def timed(*args: Any, **options: Any) -> Any:
        _synchronize()
        began = time.perf_counter()
        answers = answer(*args, **options)
        _synchronize()
        spent.append(time.perf_counter() - began)
        return answers

    sample.generate = timed
    try:
        prompts = ROWS // 2
        run(
            [
                "stage=sample",
                f"artifacts.root={bench.folder / 'artifacts'}",
                f"inputs.policy=[{bench.model}]",
                "data=local",
                f"data.prompt_only.train={bench.folder / 'prompt_only.jsonl'}",
                f"data.prompt_only.eval={bench.folder / 'prompt_only.jsonl'}",
                f"sample.max_prompts={prompts}",
                f"sample.max_new_tokens={bench.completion}",
                "sample.batch_size=128",
            ]
        )
    finally:
        sample.generate = answer
    tokens = prompts * 2 * bench.completion
    found["sample"] = {"seconds": round(sum(spent), 2), "tokens per second": round(tokens / sum(spent))}


TIMED: dict[str, Callable[[Bench, Found], None]] = {
    "machine": machine,
    "stages": stages,
    "trl": trl,
    "adapters": adapters,
    **{kind: functools.partial(deepspeed, kind=kind) for kind in ("zero2", "zero3", "zero2_offload", "zero3_offload")},
    "generation": generation,
    "attention": attention,
    "sentences": sentences,
}
COMPARED: dict[str, Callable[[Bench, Found], None]] = {
    "trajectories": trajectories,
    "zero_losses": zero_losses,
    "offload_losses": offload_losses,
    "resume": resume,
    "demo": demo,
}
SECTIONS = TIMED | COMPARED


# -- the command ------------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="NAME")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/align-gpu"), help="models, data and runs")
    parser.add_argument("--out", type=Path, help="default: benchmarks/gpu-<device>.json")
    parser.add_argument("--small", action="store_true", help="a small model, to try the script")
    parser.add_argument("--seconds", type=float, default=480, help="then what runs is ended (default: 480)")
    parser.add_argument("--one", choices=SECTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--killable", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.killable:
        from tests.run.kills import run_once

        run_once(json.loads(asked.killable))
    bench = Bench(asked.folder.absolute(), asked.small)
    if asked.one:
        _one(bench, asked.one)
        return 0
    out = asked.out or PROJECT / "benchmarks" / f"gpu-{_device()}.json"
    began = time.perf_counter()
    if not (bench.model / "config.json").exists():
        bench.prepare()
        print(f"model and data: {time.perf_counter() - began:.1f} s", flush=True)
    for names in (*([name] for name in asked.sections if name in TIMED), set(asked.sections) & set(COMPARED)):
        if time.perf_counter() - began > asked.seconds:
            print(f"{', '.join(names)}: no time left", flush=True)
            continue
        for name, process in {name: _start(asked, name) for name in names}.items():
            _wait(process, asked.seconds - (time.perf_counter() - began))
            _keep(out, bench, name)
    print(f"{time.perf_counter() - began:.0f} s; {out}", flush=True)
    return 0


def _start(asked: argparse.Namespace, name: str) -> subprocess.Popen:
    command = [sys.executable, __file__, "--one", name, "--folder", str(asked.folder)]
    log = (asked.folder / f"{name}.log").open("w")
    (asked.folder / f"{name}.json").unlink(missing_ok=True)
    return subprocess.Popen(
        command + ["--small"] * asked.small, stdout=log, stderr=subprocess.STDOUT, cwd=PROJECT, start_new_session=True
    )


def _wait(process: subprocess.Popen, seconds: float) -> None:
    """Wait for a section, and end it if there is no time left."""
    try:
        process.wait(max(10.0, seconds))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _one(bench: Bench, name: str) -> None:
    """Run a section; what it found so far is written every second, for a section that is ended."""
    os.environ.setdefault("WANDB_MODE", "disabled")
    began, found = time.perf_counter(), {}

    def write(**more: Any) -> None:
        body = {"seconds": round(time.perf_counter() - began, 1), **more, **found}
        (bench.folder / f"{name}.new").write_text(json.dumps(body), "utf-8")
        (bench.folder / f"{name}.new").replace(bench.folder / f"{name}.json")

    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(1.0):
            write(unfinished=True)

    keeper = threading.Thread(target=keep)
    keeper.start()
    try:
        SECTIONS[name](bench, found)
    except Exception:
        found |= failure()
    ended.set()
    keeper.join()
    write()


def _keep(out: Path, bench: Bench, name: str) -> None:
    """Put a section's figures into the file, and print them."""
    file = bench.folder / f"{name}.json"
    log = (bench.folder / f"{name}.log").read_text("utf-8", "replace")
    found = json.loads(file.read_text("utf-8")) if file.exists() else {"failed": log[-1500:]}
    results = json.loads(out.read_text("utf-8")) if out.exists() else {}
    out.write_text(json.dumps(results | {name: found}, indent=1) + "\n", "utf-8")
    print(f"{name}: {json.dumps(found)}", flush=True)


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _device() -> str:
    import torch

    name = torch.cuda.get_device_name() if _cuda() else "cpu"
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace("nvidia", "")).strip("-")


def failure() -> dict[str, str]:
    """The error at hand, in a few lines."""
    return {"failed": "".join(traceback.format_exc().splitlines(keepends=True)[-6:])[-1200:]}


def first_line(error: Exception) -> dict[str, str]:
    return {"missing": (str(error).strip().splitlines() or [type(error).__name__])[0][:200]}


if __name__ == "__main__":
    sys.exit(main())
