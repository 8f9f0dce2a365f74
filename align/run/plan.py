"""What a run will do, decided once and before torch is imported: exact inputs, exact data, its identity.

The identity is the digest of everything that can change a number: the stage, the config without tracking, store,
launcher and logging cadence, the world size, the versions of packages, and the digests of models and datasets. Same
identity and published: nothing to do, unless `force`. Same identity and half done: resume.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from align.artifacts.inputs import Input, resolve_input
from align.artifacts.manifest import json_digest
from align.artifacts.model_files import default_length
from align.artifacts.provenance import numeric_packages
from align.artifacts.refs import check_name
from align.artifacts.remote_code import check_code
from align.artifacts.store import Store, Version
from align.artifacts.verification import verify_input
from align.config.identity import formats_read, identity_config
from align.config.paths import PROJECT
from align.config.schema import STAGES, Config
from align.contract.inputs import (
    DEMANDS,
    PRODUCES,
    check_dtype,
    check_inputs,
    check_max_length,
    check_room,
    check_value_model,
)
from align.contract.tokenizers import check_assistant_turns, check_template, check_tokenizer
from align.data.build.scores import check_scorable
from align.data.loading.examples import check_dataset_input, has_eval, held_out, load_split, offers, source_of
from align.data.loading.sources import digest, pinned
from align.errors import UserError
from align.records import kind
from align.rewards.user_functions import load_function, load_judge


@dataclass(frozen=True)
class Plan:
    """One run, before it starts.

    Attributes:
        cfg: the resolved config, hub datasets pinned to a commit.
        inputs: role -> what was resolved; `policy` of evaluate and sample is a list; `references` maps the ref of a
            model under evaluation to the reference it was trained against.
        data: format -> what the manifest records of that dataset, its digest among it.
        identity: 64 hex digits.
        published: what a run of this identity has already published.
    """

    cfg: Config
    inputs: dict[str, Any]
    data: dict[str, dict[str, Any]]
    identity: str
    world_size: int
    published: list[Version] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        """Whether there is nothing to do: published, and not to be made once more."""
        return bool(self.published) and not self.cfg.force

    def again(self, store: Store) -> "Plan":
        """This plan with what has been published since it was made."""
        return replace(self, published=find_published(store, self.identity, self.cfg.name))

    def to_manifest(self) -> dict[str, Any]:
        """Role -> record, as the manifest keeps a run's inputs."""
        records: dict[str, Any] = {}
        for role, given in self.inputs.items():
            if role == "references":
                records[role] = [one.to_manifest() for one in given.values()]
            elif isinstance(given, list):
                records[role] = [one.to_manifest() for one in given]
            else:
                records[role] = given.to_manifest()
        records |= {
            f"data.{format}": {"ref": _data_ref(told, self.cfg.stage), **told} for format, told in self.data.items()
        }
        return {role: record for role, record in records.items() if record}


def make_plan(cfg: Config, store: Store, *, world_size: int) -> Plan:
    """Resolve every input once, check what files alone can show, and name the run.

    Raises:
        UserError: a missing or unfit input, or missing data.
    """
    check_name(cfg.name)
    inputs = resolve_inputs(cfg, store)
    named = {role: given for role, given in inputs.items() if role != "references"}
    check_inputs(cfg.stage, named, cfg.model.accept_drift)
    if isinstance(inputs.get("policy"), Input):
        check_template(inputs["policy"], cfg.model.chat_template, cfg.model.accept_drift)
    if "value_model" in inputs:
        lora, shares = cfg.adapter.kind != "none", cfg.trainer.get("share_backbone", False)
        check_value_model(inputs["policy"], inputs["value_model"], lora=lora, share_backbone=shares)
    if STAGES[cfg.stage].trainer_config is not None:
        for role in ("policy", "value_model"):
            if role in inputs:
                check_dtype(role, inputs[role], adapter=cfg.adapter.kind)
    if "policy" in inputs and "max_length" in cfg.trainer and cfg.trainer["max_length"] is None:
        cfg.trainer["max_length"] = default_length(inputs["policy"].path)
    data = resolve_data(cfg, inputs.get("dataset"))
    name_of = {
        "stage": cfg.stage,
        "config": identity_config(cfg),
        "world_size": world_size,
        "packages": numeric_packages(
            deepspeed=cfg.deepspeed.config is not None, quantized=cfg.adapter.kind == "qlora"
        ),
        "inputs": {role: _digests(given) for role, given in sorted(inputs.items())},
        "data": {format: told["digest"] for format, told in sorted(data.items())},
    }
    identity = json_digest(name_of)
    return Plan(cfg, inputs, data, identity, world_size, find_published(store, identity, cfg.name))


def find_published(store: Store, identity: str, name: str) -> list[Version]:
    """The versions of `name` that a run of this identity has published, oldest first."""
    return [version for version in store.find(identity) if version.name == name]


def resolve_inputs(cfg: Config, store: Store) -> dict[str, Any]:
    """Role -> `Input` for every role the config names, aliases resolved to versions.

    The reference of a stage that has one is the policy as it came in, unless another is named.
    """
    named = {role: text for role, text in vars(cfg.inputs).items() if text is not None}
    inputs: dict[str, Any] = {}
    for role, text in named.items():
        options = {"repo_type": "dataset"} if role == "dataset" else {"code": cfg.model.trust_remote_code}
        if isinstance(text, list):
            inputs[role] = [resolve_input(store, one, maker=_maker(one), **options) for one in text]
        else:
            inputs[role] = resolve_input(store, text, maker=_maker(text), **options)
    if "dataset" in inputs:
        check_dataset_input(inputs["dataset"], cfg.data.refuse)
    if "ref_model" in DEMANDS[cfg.stage] and cfg.stage != "evaluate" and "policy" in inputs:
        inputs.setdefault("ref_model", inputs["policy"])
    if STAGES[cfg.stage].online and isinstance(inputs.get("reward_model"), Input):
        inputs["reward_model"] = [inputs["reward_model"]]
    if cfg.stage in ("evaluate", "sample") and isinstance(inputs.get("policy"), Input):
        inputs["policy"] = [inputs["policy"]]
    if cfg.stage == "evaluate":
        systems = [*inputs.get("policy", []), *([inputs["baseline"]] if "baseline" in inputs else [])]
        references = {system.ref: _reference(system, inputs.get("ref_model"), store) for system in systems}
        inputs["references"] = {ref: reference for ref, reference in references.items() if reference is not None}
    return inputs


def resolve_data(cfg: Config, dataset: Input | None) -> dict[str, dict[str, Any]]:
    """Format -> digest and sources of every dataset the stage will read; hub sets are pinned in `cfg`.

    Raises:
        UserError: the data block has nothing of the stage's format.
    """
    if cfg.stage == "score":
        check_scorable(dataset)
        return {}
    main = STAGES[cfg.stage].formats[0]
    told: dict[str, dict[str, Any]] = {}
    for format in STAGES[cfg.stage].formats:
        if dataset is not None and (format == main or offers(cfg.data, dataset, format)):
            continue
        if format not in (main, *formats_read(cfg)):
            continue
        if format != main and cfg.stage == "ppo" and getattr(cfg.data, format).train is None:
            raise UserError(
                f"trainer.ptx_coef mixes in texts and there are none; name some: data.{format}.train=<file>"
            )
        if not offers(cfg.data, None, format):
            continue
        entry = getattr(cfg.data, format)
        told[format] = digest(source_of(entry), format, PROJECT)
        entry.source = pinned(source_of(entry), told[format]).source
    if dataset is None and main not in told and not (cfg.stage == "evaluate" and told):
        offered = [format for format in vars(cfg.data) if hasattr(getattr(cfg.data, format), "train")]
        offered = [format for format in offered if offers(cfg.data, None, format)]
        has = f"the data block offers {', '.join(offered)}" if offered else "the data block names no files"
        raise UserError(
            f"stage {cfg.stage} needs {main} data; {has}. Name some: data.{main}.train=<file>, another data=<set>, "
            "or inputs.dataset=<ref>"
        )
    return told


def check_data(plan: Plan) -> None:
    """Read the data once, before an accelerator is taken: well-formed, of the right format, and the tokenizer fits.

    Raises:
        UserError: names file, row and field; or what the tokenizer lacks; or why there is no such judge.
    """
    cfg, dataset = plan.cfg, plan.inputs.get("dataset")
    verify_inputs(plan)
    if cfg.stage == "evaluate":
        for format in STAGES[cfg.stage].formats:
            held_out(cfg.data, dataset, format)
        if cfg.evaluate.judge:
            load_judge(cfg.evaluate.judge)
        return
    if cfg.stage == "score":
        chats = kind(load_split(cfg.data, dataset, dataset.manifest.format, "train").records[0]) == "conversational"
        template, pad = cfg.model.chat_template, cfg.model.pad_token
        check_tokenizer(plan.inputs["reward_model"], conversational=chats, chat_template=template, pad_token=pad)
        return
    if cfg.stage == "sample":
        prompts = load_split(cfg.data, dataset, "prompt_only", cfg.sample.split, stage=cfg.stage).records
        chats, template, pad = kind(prompts[0]) == "conversational", cfg.model.chat_template, cfg.model.pad_token
        for policy in plan.inputs["policy"]:
            if cfg.model.trust_remote_code:
                check_code(policy)
            check_tokenizer(policy, conversational=chats, chat_template=template, pad_token=pad)
            check_room(policy, cfg.sample.max_new_tokens, "sample.max_new_tokens")
        return
    format = STAGES[cfg.stage].formats[0]
    train = load_split(cfg.data, dataset, format, "train", stage=cfg.stage)
    if has_eval(cfg.data, dataset, format):
        load_split(cfg.data, dataset, format, "eval", stage=cfg.stage)
    if "policy" in plan.inputs:
        policy: Input = plan.inputs["policy"]
        if cfg.model.trust_remote_code:
            check_code(policy)
        conversational = kind(train.records[0]) == "conversational"
        check_tokenizer(
            policy,
            conversational=conversational,
            chat_template=cfg.model.chat_template,
            pad_token=cfg.model.pad_token,
        )
        if cfg.trainer.get("assistant_only_loss"):
            check_assistant_turns(policy, conversational=conversational, chat_template=cfg.model.chat_template)
        check_max_length(policy, cfg.trainer.get("max_length"))
    if STAGES[cfg.stage].online:
        check_room(policy, cfg.trainer.get("max_completion_length"))
        for name in cfg.online.reward_functions:
            load_function(name, "online.reward_functions")


def verify_inputs(plan: Plan) -> None:
    """Every input artifact is what was published, by its hashes, as `artifacts.verify` asks.

    Raises:
        UserError: one is corrupt; it is in quarantine now.
    """
    block, store = plan.cfg.artifacts, Store.open(plan.cfg.artifacts.root)
    given = [one for value in plan.inputs.values() for one in _flat(value)]
    for one in {one.ref: one for one in given}.values():
        verify_input(store, one, mode=block.verify, below_gb=block.verify_below_gb)


def output_type(stage: str) -> str:
    """The artifact type that a stage publishes."""
    return PRODUCES[stage]


def _maker(text: str) -> str | None:
    """The command that would make a missing artifact, where its name is a stage's."""
    name = text.split(":")[0]
    if name == "pretrain":
        return (
            "deepspeed launch/run.py stage=pretrain model=tiny_gpt2, or begin from a model there is: model=qwen3_0_6b"
        )
    return f"deepspeed launch/run.py stage={name}" if name in STAGES else None


def _reference(system: Input, given: Input | None, store: Store) -> Input | None:
    """What KL and implicit reward are measured from: as given, else as the system's manifest says it was trained."""
    if given is not None:
        return given
    record = system.manifest.inputs.get("ref_model") if system.manifest else None
    if record is None:
        return None
    try:
        found = resolve_input(store, record["ref"])
        why = f"{record['ref']} has changed since"
    except UserError as error:
        found, why = None, str(error)
    if found is None or found.digest != record["digest"]:
        print(f"{system.ref} is measured without its reference: {why}", flush=True)
        return None
    return found


def _data_ref(told: dict[str, Any], stage: str) -> str:
    """A dataset's name in a manifest: its train file (what is held out, if that is what is read), or the hub set."""
    first, second = ("eval", "train") if stage == "evaluate" else ("train", "eval")
    part = told.get(first) or told[second]
    return part["file"] if "file" in part else f"hf:{part['dataset']}@{part['revision']}"


def _flat(given: Any) -> list[Input]:
    if isinstance(given, dict):
        return list(given.values())
    return given if isinstance(given, list) else [given]


def _digests(given: Any) -> Any:
    if isinstance(given, list):
        return [one.digest for one in given]
    if isinstance(given, dict):
        return {ref: one.digest for ref, one in sorted(given.items())}
    return given.digest
