"""Sampling: one policy, or several, answer the same prompts; what they say is compared by people (align review).

Of answers that are the same word for word one stays, and a prompt that is left with fewer than two is left out: both
are counted. A reward model, where one is given, leaves its score beside each answer.
"""

from pathlib import Path
from typing import Any

from align.artifacts.inputs import Input
from align.artifacts.manifest import json_digest
from align.artifacts.model_files import context_length
from align.config.schema import Config
from align.data.build.comparisons import write_comparisons
from align.data.loading.examples import load_shared, shuffled
from align.distributed import ranks
from align.evaluation.metrics import fitting, prompt_tokens, rate
from align.models.generation import generate
from align.models.inference import open_policy, open_reward_model
from align.models.load import load_tokenizer
from align.models.reward_probe import check_probe
from align.records import prompt_key
from align.training.tracking import Tracker
from align.training.trainer import resolve_dtype


def run(cfg: Config, inputs: dict[str, Any], output_dir: Path, tracker: Tracker) -> dict[str, float]:
    """Let `inputs["policy"]`, a list, answer prompts; publish comparisons."""
    # arguments
    asked = cfg.sample
    dtype = resolve_dtype(cfg.model.dtype, cfg.precision, frozen=True)
    load = {"dtype": dtype, **cfg.model.load_options()}

    # models
    policies: list[Input] = inputs["policy"]
    judge: Input | None = inputs.get("reward_model")
    models = [*policies, *([judge] if judge is not None else [])]
    tokenizers = [load_tokenizer(one.path, **cfg.model.tokenizer_options()) for one in models]
    readers = [(tokenizer, context_length(one.path)) for tokenizer, one in zip(tokenizers, models, strict=True)]

    # data
    records = load_shared(cfg.data, inputs.get("dataset"), "prompt_only", asked.split, stage=cfg.stage).records
    different = {prompt_key(record): place for place, record in enumerate(records)}
    places = shuffled(list(different.values()), seed=asked.seed, limit=asked.max_prompts)
    rows = [records[place].to_row() for place in places]
    rows = fitting(
        rows,
        readers,
        lambda reader, row: prompt_tokens(reader, row) + asked.max_new_tokens,
        "prompts",
        stage=cfg.stage,
    )
    prompts, tools = [row["prompt"] for row in rows], [row.get("tools") for row in rows]

    # sample
    answers: list[list[dict[str, Any]]] = [[] for _ in prompts]
    said = same = empty = ended = 0
    for policy, tokenizer in zip(policies, tokenizers, strict=False):
        model = open_policy(policy.path, **load)
        for number in range(asked.answers):
            if ranks.is_main():
                print(
                    f"sample  {policy.ref}  answer {number + 1}/{asked.answers} to {len(prompts)} prompts", flush=True
                )
            seed = asked.seed + number
            completions = generate(
                model,
                tokenizer,
                prompts,
                tools=tools,
                max_new_tokens=asked.max_new_tokens,
                temperature=asked.temperature,
                top_p=asked.top_p,
                batch_size=asked.batch_size,
                seed=seed,
            )
            for prompt, known, completion in zip(prompts, answers, completions, strict=True):
                content = completion.text if isinstance(prompt, str) else completion.messages
                said += 1
                ended += completion.ended
                if not completion.text.strip():
                    empty += 1
                elif any(content == one["completion"] for one in known):
                    same += 1
                else:
                    known.append({"completion": content, "model": policy.ref, "seed": seed, "ended": completion.ended})
            tracker.progress(said, len(policies) * asked.answers * len(prompts), "answers")
        del model
    kept = [row for row in zip(prompts, answers, tools, strict=True) if len(row[1]) > 1]
    if judge is not None:
        reward_model = open_reward_model(judge.path, **load)
        check_probe(reward_model, tokenizers[-1], judge.path)
        pairs = [(prompt, one["completion"], named) for prompt, known, named in kept for one in known]
        scores = iter(rate(reward_model, tokenizers[-1], pairs, batch_size=asked.batch_size))
        for _, known, _ in kept:
            for one in known:
                one["score"] = next(scores)

    # save
    if ranks.is_main():
        write_comparisons(
            output_dir,
            (
                {"id": json_digest([prompt, known])[:16], "prompt": prompt, "answers": known}
                | ({"tools": named} if named else {})
                for prompt, known, named in kept
            ),
        )
    count = sum(len(known) for _, known, _ in kept)
    return {
        "prompts": len(prompts),
        "comparisons": len(kept),
        "pairs": sum(len(known) * (len(known) - 1) // 2 for _, known, _ in kept),
        "answers": count,
        "answers_same": same,
        "answers_empty": empty,
        "ended": ended / said if said else 0.0,
    }
