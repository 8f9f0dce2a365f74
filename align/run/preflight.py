"""Preflight: verify a plan's inputs and read its data, before an accelerator is taken.

A plan says what a run will do without reading a record. Preflight reads them: every input is hashed again, every row
is parsed, and the tokenizer is checked against them. Each stage names its own check in `align.stages.spec`.
"""

import importlib
from collections.abc import Iterable, Sequence
from typing import Any

from align.artifacts.inputs import Input
from align.artifacts.refs import HUB_PREFIX
from align.artifacts.remote_code import check_code
from align.artifacts.store import Store
from align.artifacts.tokenizer_files import chat_template as own_template
from align.artifacts.tokenizer_files import chat_templates
from align.artifacts.verification import verify_input
from align.config.functions import describe
from align.config.identity import formats_read
from align.config.schema import Config
from align.contract.architectures import check_attention
from align.contract.inputs import check_max_length, check_room
from align.contract.tokenizers import check_assistant_turns, check_tokenizer
from align.data.loading.examples import has_eval, load_split, offers
from align.data.loading.load import Loaded
from align.data.tokens.template_trial import check_template_runs
from align.errors import UserError
from align.evaluation.judges import load_judge
from align.records import Text, kind
from align.rewards.user_functions import check_functions
from align.run.plan import Plan, each_input
from align.stages.spec import STAGES


def preflight(plan: Plan) -> None:
    """Check everything that can stop a run before it takes an accelerator, and print the data it will read.

    Raises:
        UserError: an input is corrupt, a row is malformed or of another format, the tokenizer lacks something, or a
            function that the config names cannot be loaded.
    """
    models = {role: held for role, held in plan.inputs.items() if role != "dataset"}
    check_attention(each_input(models), plan.cfg.model.attn_implementation, precision=plan.cfg.precision)
    verify_inputs(plan)
    check_templates(plan, models)
    module, _, function = STAGES[plan.cfg.stage].preflight.partition(":")
    getattr(importlib.import_module(module), function)(plan)


def verify_inputs(plan: Plan) -> None:
    """Every input artifact is what was published, by its hashes, as `artifacts.verify` asks.

    Raises:
        UserError: one is corrupt; it is in quarantine now.
    """
    block, store = plan.cfg.artifacts, Store.open(plan.cfg.artifacts.root)
    for artifact in {artifact.ref: artifact for artifact in each_input(plan.inputs)}.values():
        verify_input(store, artifact, mode=block.verify, below_gb=block.verify_below_gb)


def check_templates(plan: Plan, models: dict[str, Any]) -> None:
    """The chat templates of all models end in time and memory; each is run once in a process of its own.

    Args:
        models: role -> input or list of inputs.
    """
    own = {model.ref: chat_templates(model.path) for model in each_input(models)}
    if (given := plan.cfg.model.tokenizer_options()["chat_template"]) is not None:
        own["model.chat_template"] = [given]
    for name, templates in own.items():
        for template in templates:
            check_template_runs(template, name)


def check_training(plan: Plan) -> None:
    """The stage's data is sound, and the policy's tokenizer and context fit it."""
    cfg, spec, dataset = plan.cfg, STAGES[plan.cfg.stage], plan.inputs.get("dataset")
    format = spec.formats[0]
    train = load_split(cfg.data, dataset, format, "train", stage=cfg.stage, columns=spec.online)
    splits = [("train", train)]
    if has_eval(cfg.data, dataset, format):
        eval_split = load_split(cfg.data, dataset, format, "eval", stage=cfg.stage, columns=spec.online)
        splits.append(("eval", eval_split))
    announce(plan, splits)
    policy: Input | None = plan.inputs.get("policy")
    if policy is not None:
        check_reader(plan, policy, train)
        if cfg.trainer.get("assistant_only_loss"):
            conversational = kind(train.records[0]) == "conversational"
            check_assistant_turns(policy, conversational=conversational, chat_template=cfg.model.chat_template)
        check_max_length(policy, cfg.trainer.get("max_length"))
    if spec.online:
        check_room(policy, cfg.trainer.get("max_completion_length"))
        models = [model.ref for model in plan.inputs.get("reward_model", [])]
        functions = check_functions(cfg.online.reward_functions, [loaded for _, loaded in splits])
        check_weights(cfg.trainer.get("reward_weights"), [*models, *(function.name for function in functions)])


def check_evaluation(plan: Plan) -> None:
    """The held-out data is sound, and the judge can be loaded."""
    cfg, dataset = plan.cfg, plan.inputs.get("dataset")
    formats = [format for format in STAGES[cfg.stage].formats if offers(cfg.data, dataset, format)]
    splits = [
        load_split(cfg.data, dataset, format, "eval", columns=format == "prompt_only")
        for format in formats
        if has_eval(cfg.data, dataset, format)
    ]
    announce(plan, [("held out", loaded) for loaded in splits])
    for loaded in splits:
        warn_of_plain_text(plan, plan.inputs.get("policy", []), loaded)
    if cfg.evaluate.judge:
        judge = load_judge(cfg.evaluate.judge)
        for loaded in splits:
            if loaded.format == "prompt_only":
                judge.check_columns(loaded.carried, loaded.not_carried)


def check_weights(weights: list[float] | None, names: list[str]) -> None:
    """Raises UserError if `trainer.reward_weights` has another number of weights than there are rewards."""
    if weights is not None and len(weights) != len(names):
        raise UserError(
            f"trainer.reward_weights has {len(weights)} weights, and the rewards are {len(names)}: "
            f"{', '.join(names)}; give one weight for each, reward models first"
        )


def check_sampling(plan: Plan) -> None:
    """The prompts are sound, and every policy can read and answer them."""
    cfg = plan.cfg
    prompts = load_split(cfg.data, plan.inputs.get("dataset"), "prompt_only", cfg.sample.split, stage=cfg.stage)
    announce(plan, [(cfg.sample.split, prompts)])
    for policy in plan.inputs["policy"]:
        check_reader(plan, policy, prompts)
        check_room(policy, cfg.sample.max_new_tokens, "sample.max_new_tokens")


def check_scoring(plan: Plan) -> None:
    """The reward model can read the dataset."""
    dataset: Input = plan.inputs["dataset"]
    train = load_split(plan.cfg.data, dataset, dataset.manifest.format, "train")
    announce(plan, [("train", train)])
    check_reader(plan, plan.inputs["reward_model"], train)


def check_reader(plan: Plan, model: Input, loaded: Loaded) -> None:
    """The model's tokenizer has what the records need: a pad token, and a chat template for conversations."""
    block = plan.cfg.model
    if block.trust_remote_code:
        check_code(model)
    check_tokenizer(
        model,
        conversational=kind(loaded.records[0]) == "conversational",
        chat_template=block.chat_template,
        pad_token=block.pad_token,
    )
    warn_of_plain_text(plan, [model], loaded)


def warn_of_plain_text(plan: Plan, models: Sequence[Input], loaded: Loaded) -> None:
    """Print a warning if the models have a chat template and the records are plain text, for which it is not used."""
    if loaded.format == Text.format or kind(loaded.records[0]) != "standard":
        return
    given = plan.cfg.model.chat_template is not None
    refs = [model.ref for model in models if given or own_template(model.path) is not None]
    if refs:
        print(
            f"warning: {loaded.file} holds plain text, so the chat template of {', '.join(refs)} is not used: in a "
            "chat the model would see other tokens than here. Set data.as_chat=true to turn prompts into user "
            "messages and answers into assistant messages",
            flush=True,
        )


def announce(plan: Plan, splits: Iterable[tuple[str, Loaded]]) -> None:
    """Print which data a run reads, how many records it holds, and the judge."""
    print(_sentence(plan.cfg, [_counted(split, loaded) for split, loaded in splits]), flush=True)


def describe_data(cfg: Config, dataset: Input | None) -> str:
    """Which data a stage would read, how many records it holds, and the judge; rows of the Hub are not counted."""
    spec = STAGES[cfg.stage]
    parts = [f"{dataset.ref} ({dataset.manifest.format} records)"] if dataset is not None else []
    for format in formats_read(cfg):
        if not offers(cfg.data, None, format):
            continue
        source = getattr(cfg.data, format).source or ""
        if source.startswith(HUB_PREFIX):
            parts.append(f"{source} ({format} rows)")
            continue
        for split in ("eval",) if spec.held_out else ("train", "eval"):
            if split == "train" or has_eval(cfg.data, None, format):
                parts.append(_counted(split, load_split(cfg.data, None, format, split, stage=cfg.stage)))
    return _sentence(cfg, parts)


def _counted(split: str, loaded: Loaded) -> str:
    return f"{split} {loaded.file} ({len(loaded.records):,} {loaded.format} records)"


def _sentence(cfg: Config, parts: list[str]) -> str:
    judge = cfg.evaluate.judge if STAGES[cfg.stage].block == "evaluate" else None
    return f"data: {', '.join(parts) or 'none'}" + (f"; judge: {describe(judge)}" if judge else "")
