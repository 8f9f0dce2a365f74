"""What a stage's config holds: one dataclass a block of conf/, a comment a field.

The annotations are the checks: an unknown key or a value of another kind is refused by name
(align/config/validate.py).
`choice` narrows a string to a few words. A field's metadata says what a run's identity makes of it (identity.py):
`code` names the key under which the digest of the file that it names is kept; `identity: False` leaves it out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from align.config.paths import local_path
from align.errors import UserError

FORMATS = ("language_modeling", "prompt_completion", "preference", "unpaired_preference", "prompt_only")


def choice(*words: str) -> Any:
    """A string field that takes one of `words`; the first is its default."""
    return field(default=words[0], metadata={"choices": words})


@dataclass
class InputsConfig:
    """Refs (`sft:v2`, `sft:latest`), `hf:org/model@revision` or paths; null is none."""

    policy: str | list[str] | None = (
        None  # the model trained, judged or asked; `evaluate` and `sample` also take a list
    )
    ref_model: str | None = None  # the model KL is measured from; null is the policy as it came in
    reward_model: str | list[str] | None = None  # the stages that train on the policy's own answers take several
    value_model: str | None = None  # what ppo's value model begins from; null is the first reward model
    baseline: str | None = None  # whom `evaluate` compares the policy with
    dataset: str | None = None  # a dataset artifact, in place of data.<the stage's format>


@dataclass
class TokenizerConfig:
    """The byte-level BPE that `pretrain` trains on its corpus for a model from scratch."""

    vocab_size: int = 2048  # tokens, the 256 bytes and the special ones included
    # role -> token; eos_token ends a text and an assistant's turn, roles without `_token` are for the chat template
    special_tokens: dict[str, str] = field(default_factory=lambda: {"pad_token": "<|pad|>", "eos_token": "<|end|>"})


@dataclass
class NewModelConfig:
    """A model from scratch."""

    architecture: dict[str, Any]  # `model_type` and the other fields of that model's transformers config
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)


@dataclass
class ModelConfig:
    source: str | None = None  # sets inputs.policy where none is given: `hf:org/model@revision`, a path or a ref
    dtype: str = choice("auto", "float32", "bfloat16", "float16")  # weights as loaded; auto: float32 to train them all
    attn_implementation: str | None = (
        None  # transformers' word: eager, sdpa, flash_attention_2, ...; null is its choice
    )
    trust_remote_code: bool = False  # run Python that came with the model
    chat_template: str | None = None  # a .jinja file for a tokenizer that has no template
    pad_token: str | None = None  # a token of its vocabulary for a tokenizer that names none
    # in what tokenizers may differ: vocabulary, special_tokens, chat_template (then the config's replaces the model's)
    accept_drift: list[str] = field(default_factory=list)
    new: NewModelConfig | None = None  # what `pretrain` makes where there is no policy to start from

    def tokenizer_options(self) -> dict[str, Any]:
        """Keyword arguments of align.models.load.load_tokenizer; the chat template as text."""
        template = local_path(self.chat_template).read_text(encoding="utf-8") if self.chat_template else None
        return {
            "chat_template": template,
            "replace_template": "chat_template" in self.accept_drift,
            "pad_token": self.pad_token,
            "trust_remote_code": self.trust_remote_code,
        }

    def load_options(self) -> dict[str, Any]:
        """Keyword arguments of align.models.load.load_policy and its like."""
        return {"attn_implementation": self.attn_implementation, "trust_remote_code": self.trust_remote_code}


@dataclass
class DatasetConfig:
    """Where the records of one format are."""

    source: str | None = None  # null: train/eval are files; a folder: file names in it; `hf:org/name@revision`: splits
    config: str | None = None  # the hub's config name
    train: str | None = None
    eval: str | None = None  # null: held out of train, by prompt
    layout: str = "auto"  # how a row becomes a record: auto, told from the rows, or a name of align data rules
    columns: dict[str, str] = field(default_factory=dict)  # our field -> their column
    labels: dict[str, str] = field(default_factory=dict)  # their label -> first, second, tie, good or bad
    roles: dict[str, str] = field(default_factory=dict)  # who speaks, in their word -> user, assistant, system, tool
    eval_fraction: float = 0.05  # share of the prompts held out where eval is null
    max_rows: int | None = None  # cap on the train rows; null is all
    # columns that stay with the rows, for reward functions and judges; null is all that the layout does not read and
    # that hold text, numbers, booleans or lists of them
    keep: list[str] | None = None


@dataclass
class DataConfig:
    language_modeling: DatasetConfig = field(default_factory=DatasetConfig)
    prompt_completion: DatasetConfig = field(default_factory=DatasetConfig)
    preference: DatasetConfig = field(default_factory=DatasetConfig)
    unpaired_preference: DatasetConfig = field(default_factory=DatasetConfig)
    prompt_only: DatasetConfig = field(default_factory=DatasetConfig)
    on_bad_rows: str = choice("refuse", "skip")  # skip: malformed rows are counted and listed, the rest is used
    fix: list[str] = field(default_factory=list)  # repairs of text, such as control; align data rules lists them
    drop: list[str] = field(default_factory=list)  # reasons to leave a record out, such as duplicates
    as_chat: bool = False  # plain prompts and answers become messages, which the chat template renders
    fold_system: bool = False  # a system message goes into the user's first one, for templates that take none
    overlong: str = choice("refuse", "drop", "truncate")  # records longer than trainer.max_length
    refuse: str = choice("error", "warning", "info", "never")  # findings of a dataset's report that stop a run
    # the data was not chosen: conf/data/default.yaml sets it, and only the demo's own models train on it
    unnamed: bool = field(default=False, metadata={"identity": False})


@dataclass
class AdapterConfig:
    """peft.LoraConfig's field names, beside `kind` and `merge`."""

    kind: str = choice("none", "lora", "qlora")  # qlora: the frozen base in 4 bits (nf4, double quantization)
    r: int = 16  # rank
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    target_modules: str | list[str] = "all-linear"
    bias: str = choice("none", "all", "lora_only")
    use_rslora: bool = False
    use_dora: bool = False
    modules_to_save: list[str] | None = None  # trained in full beside the adapter; a reward head always is
    merge: bool = False  # publish the merged model in place of the adapter


@dataclass
class DeepSpeedConfig:
    config: dict[str, Any] | None = None  # DeepSpeed's JSON; transformers fills in "auto"; null is plain torch
    nvme_path: str | None = None  # the folder zero3_nvme swaps to; put it on a local disk


@dataclass
class TrackingConfig:
    """W&B; metrics.jsonl is written in any case."""

    wandb: str = choice("disabled", "online", "offline")
    project: str = "align"
    entity: str | None = None
    group: str | None = None  # a pipeline run sets its own
    tags: list[str] = field(default_factory=list)
    sample_prompts: int = 8  # held-out prompts that sft, dpo and kto answer while they train; 0 is none
    sample_every: int = 0  # optimizer steps between two rounds of answers; 0 is one, at the end
    sample_tokens: int = 64  # tokens an answer


@dataclass
class LauncherConfig:
    """How a pipeline, or a sweep, starts each stage's process."""

    kind: str = choice("local", "deepspeed")
    num_accelerators: int | None = None  # processes a node; null is every device there is
    num_nodes: int | None = None
    hostfile: str | None = None
    master_port: int | None = None  # null is a free one
    # of the stage's processes on every node, where this environment has no such variable; null takes the value from
    # this environment, so that no secret stands in a config or on a command line
    env: dict[str, str | None] = field(default_factory=dict)


@dataclass
class ArtifactsConfig:
    root: str | None = None  # null: $ALIGN_ARTIFACTS, else ./artifacts
    verify: str = choice("full", "sampled", "off")  # hash inputs before they are loaded; datasets whole
    verify_below_gb: float = 20  # 10^9 bytes: larger models are sampled (small files and one large one)
    checkpoints_gb: float | None = None  # 10^9 bytes that a run's checkpoints may take, the last one in any case


@dataclass
class RewardBlock:
    """Read by stage reward."""

    center: str = choice("none", "demonstrations")  # shift scores to mean 0 on data.prompt_completion's completions


@dataclass
class ScoreBlock:
    """Read by stage score."""

    max_length: int | None = None  # tokens of prompt and answer; null is the reward model's context
    batch_size: int = 32  # answers a forward pass


@dataclass
class OnlineBlock:
    """Read by the stages that train on what the policy itself answers: ppo, rloo, grpo."""

    # next to inputs.reward_model: f(prompts, completions, **columns) -> a score or None for each completion. An entry
    # is `file.py:function`, `package.module:function`, or {function: align.rewards.format, <parameter>: <value>}.
    # trainer.reward_weights has the weights of the reward models, then of these
    reward_functions: list[str | dict[str, Any]] = field(default_factory=list, metadata={"code": "reward_code"})
    reward_batch_size: int = field(default=32, metadata={"identity": False})  # texts a forward pass of a reward model
    reward_max_length: int | None = None  # tokens of prompt and answer a reward model reads; null is its context


@dataclass
class SampleBlock:
    """Read by stage sample."""

    split: str = choice("train", "eval")  # of data.prompt_only
    max_prompts: int | None = 256  # null is all
    answers: int = 2  # to a prompt, from each policy
    max_new_tokens: int = 256  # tokens an answer
    temperature: float = 1.0  # 1 samples from the policy itself
    top_p: float = 1.0
    batch_size: int = 32  # prompts, or answers scored, a forward pass
    seed: int = 0

    def check(self, cfg: Config) -> None:
        """Raises UserError if the answers to a prompt are fewer than two."""
        policies = len(cfg.inputs.policy) if isinstance(cfg.inputs.policy, list) else 1
        if self.answers * policies < 2:
            raise UserError(
                f"sample.answers={self.answers} of {policies} policy gives nothing to compare; set "
                "sample.answers=2, or name two policies"
            )


@dataclass
class EvaluateBlock:
    """Read by stage evaluate."""

    # judge(prompt, completion, **columns) -> float, or judge(prompts, completions, **columns) -> list[float];
    # named as an entry of online.reward_functions is
    judge: str | dict[str, Any] | None = field(default=None, metadata={"code": "judge_code"})
    max_prompts: int | None = 256  # prompts answered; null is all
    max_rows: int | None = 1024  # rows scored of each other dataset; null is all
    max_length: int | None = None  # tokens a piece of a text, for perplexity; null is the model's context
    max_new_tokens: int = 256  # tokens a completion
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0
    batch_size: int = 32  # prompts, or rows, a forward pass
    samples: int = 16  # completions shown in the report
    bootstrap: int = 2000  # resamples behind a 95% interval
    seed: int = 0


@dataclass
class Config:
    """One stage's whole config."""

    stage: str  # what to run: a name of conf/stage
    name: str  # of the artifact this run publishes
    force: bool = False  # make one more version where this run has published already
    precision: str = choice("auto", "fp32", "bf16", "fp16")  # auto: bf16 where the device has it, else fp32
    inputs: InputsConfig = field(default_factory=InputsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    trainer: dict[str, Any] = field(default_factory=dict)  # the stage's config class in TRL, field for field
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    deepspeed: DeepSpeedConfig = field(default_factory=DeepSpeedConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    launcher: LauncherConfig = field(default_factory=LauncherConfig)
    artifacts: ArtifactsConfig = field(default_factory=ArtifactsConfig)
    reward: RewardBlock = field(default_factory=RewardBlock)
    online: OnlineBlock = field(default_factory=OnlineBlock)
    evaluate: EvaluateBlock = field(default_factory=EvaluateBlock)
    sample: SampleBlock = field(default_factory=SampleBlock)
    score: ScoreBlock = field(default_factory=ScoreBlock)

    # path -> text as written, of the values that come from environment variables; no key of the config
    from_environment = MappingProxyType({})
