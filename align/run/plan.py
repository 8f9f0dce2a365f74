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
from align.artifacts.store import Store
from align.artifacts.version import Version
from align.config.identity import formats_read, identity_config
from align.config.paths import PROJECT
from align.config.schema import FORMATS, Config, DataConfig
from align.contract.architectures import check_architectures
from align.contract.inputs import check_dtype, check_inputs, check_value_model
from align.contract.tokenizers import check_template
from align.data.build.scores import check_scorable
from align.data.loading.examples import check_dataset_input, offers, source_of
from align.data.loading.sources import digest, pinned
from align.errors import UserError
from align.stages.spec import STAGES


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
            if isinstance(given, dict):
                records[role] = [one.to_manifest() for one in given.values()]
            elif isinstance(given, list):
                records[role] = [one.to_manifest() for one in given]
            else:
                records[role] = given.to_manifest()
        records |= {f"data.{format}": record for format, record in self.data_records().items()}
        return {role: record for role, record in records.items() if record}

    def data_records(self) -> dict[str, dict[str, Any]]:
        """Format -> record, as the manifest keeps the data that a run reads."""
        held_out = STAGES[self.cfg.stage].held_out
        return {format: {"ref": _data_ref(record, held_out), **record} for format, record in self.data.items()}


def make_plan(cfg: Config, store: Store, *, world_size: int) -> Plan:
    """Resolve every input once, check what files alone can show, and compute the run's identity. No record is read.

    Raises:
        UserError: a missing or unfit input, or missing data.
    """
    check_name(cfg.name)
    spec = STAGES[cfg.stage]
    inputs = resolve_inputs(cfg, store)
    check_inputs(
        cfg.stage, {role: held for role, held in inputs.items() if role != "references"}, cfg.model.accept_drift
    )
    shares_backbone = cfg.trainer.get("share_backbone", False)
    trains_value = "value_model" in spec.inputs and cfg.adapter.kind == "none" and not shares_backbone
    trusted = cfg.model.trust_remote_code
    check_architectures(cfg.stage, inputs, trust_remote_code=trusted, trains_value=trains_value)
    for role, demand in spec.inputs.items():
        if demand.trained and role in inputs:
            check_dtype(role, inputs[role], adapter=cfg.adapter.kind)
    if isinstance(inputs.get("policy"), Input):
        check_template(inputs["policy"], cfg.model.chat_template, cfg.model.accept_drift)
    if "value_model" in inputs:
        lora = cfg.adapter.kind != "none"
        check_value_model(inputs["policy"], inputs["value_model"], lora=lora, share_backbone=shares_backbone)
    if "policy" in inputs and "max_length" in cfg.trainer and cfg.trainer["max_length"] is None:
        cfg.trainer["max_length"] = default_length(inputs["policy"].path)
    data = resolve_data(cfg, inputs.get("dataset"))
    check_named(cfg, data, find_outsider(inputs, store))
    identity = json_digest(
        {
            "stage": cfg.stage,
            "config": identity_config(cfg),
            "world_size": world_size,
            "packages": numeric_packages(
                deepspeed=cfg.deepspeed.config is not None, quantized=cfg.adapter.kind == "qlora"
            ),
            "inputs": {role: _digests(held) for role, held in sorted(inputs.items())},
            "data": {format: record["digest"] for format, record in sorted(data.items())},
        }
    )
    return Plan(cfg, inputs, data, identity, world_size, find_published(store, identity, cfg.name))


def find_published(store: Store, identity: str, name: str) -> list[Version]:
    """The versions of `name` that a run of this identity has published, oldest first."""
    return [version for version in store.find(identity) if version.name == name]


def resolve_inputs(cfg: Config, store: Store) -> dict[str, Any]:
    """Role -> `Input` for every role the config names, aliases resolved to versions; a list for a role of many.

    A role that is not named takes its default: the policy as it came in, or what each policy's manifest records.
    """
    roles = STAGES[cfg.stage].inputs
    named = {role: text for role, text in vars(cfg.inputs).items() if text is not None}
    inputs: dict[str, Any] = {}
    for role, text in named.items():
        options = {"repo_type": "dataset"} if role == "dataset" else {"code": cfg.model.trust_remote_code}
        texts = text if isinstance(text, list) else [text]
        resolved = [resolve_input(store, ref, maker=_maker(ref), **options) for ref in texts]
        inputs[role] = resolved if isinstance(text, list) or (role in roles and roles[role].many) else resolved[0]
    if "dataset" in inputs:
        check_dataset_input(inputs["dataset"], cfg.data.refuse)
    for role, demand in roles.items():
        if demand.default == "policy" and "policy" in inputs:
            inputs.setdefault(role, inputs["policy"])
        if demand.default == "manifest":
            systems = [*inputs.get("policy", []), *([inputs["baseline"]] if "baseline" in inputs else [])]
            references = {system.ref: _reference(system, inputs.get(role), store) for system in systems}
            inputs["references"] = {ref: reference for ref, reference in references.items() if reference is not None}
    return inputs


def resolve_data(cfg: Config, dataset: Input | None) -> dict[str, dict[str, Any]]:
    """Format -> digest and sources of every dataset the stage will read; hub sets are pinned in `cfg`.

    Where the stage reads prompts and the data block has none, they are taken from another format's rows.

    Raises:
        UserError: the data block has nothing of the stage's format.
    """
    spec = STAGES[cfg.stage]
    if not spec.formats:
        check_scorable(dataset)
        return {}
    main = spec.formats[0]
    if dataset is None and "prompt_only" in spec.formats:
        take_prompts(cfg.data)
    records: dict[str, dict[str, Any]] = {}
    for format in spec.formats:
        if dataset is not None and (format == main or offers(cfg.data, dataset, format)):
            continue
        if format not in (main, *formats_read(cfg)):
            continue
        entry = getattr(cfg.data, format)
        if format in spec.optional_formats and entry.train is None:
            key = spec.optional_formats[format]
            raise UserError(f"{key} reads {format} data and none is named; add data.{format}.train=<file>")
        if not offers(cfg.data, None, format):
            continue
        # what is held out is all that an evaluation reads, if it has a file of its own
        splits = ("eval",) if spec.held_out and entry.train is None else ("train", "eval")
        records[format] = digest(source_of(entry), format, PROJECT, splits)
        entry.source = pinned(source_of(entry), records[format]).source
    if dataset is None and main not in records and not (spec.held_out and records):
        offered = [format for format in FORMATS if offers(cfg.data, None, format)]
        has = f"the data block offers {', '.join(offered)}" if offered else "the data block names no files"
        raise UserError(
            f"stage {cfg.stage} needs {main} data; {has}. Name some: data.{main}.train=<file>, another data=<set>, "
            "or inputs.dataset=<ref>"
        )
    return records


def take_prompts(data: DataConfig) -> None:
    """Let the prompts of another format stand in for `data.prompt_only`, if that names no rows."""
    if offers(data, None, "prompt_only"):
        return
    for format in ("preference", "prompt_completion", "unpaired_preference"):
        if offers(data, None, format):
            data.prompt_only = replace(getattr(data, format))
            return


def check_named(cfg: Config, records: dict[str, dict[str, Any]], outsider: str | None) -> None:
    """The demo data is a default for the demo's own models only; for any other model data must be named.

    Args:
        records: format -> what the manifest records of the data that the stage reads.
        outsider: a model that the stage uses and that is not of the demo, if there is one (`find_outsider`).

    Raises:
        UserError: names the model, and the ways to name data.
    """
    if outsider is None or not cfg.data.unnamed or not reads_demo(records):
        return
    format = STAGES[cfg.stage].formats[0]
    raise UserError(
        f"stage {cfg.stage} would use {outsider} with the demo data, because no data is named; name yours: "
        f"data=local data.{format}.train=<file>, inputs.dataset=<ref> or data=<a name in conf/data>; or data=demo, "
        "if you want the demo data"
    )


def find_outsider(inputs: dict[str, Any], store: Store) -> str | None:
    """The ref of an input model that something other than the demo's data is behind, None where there is none."""
    for model in each_input({role: inputs[role] for role in ("policy", "baseline") if role in inputs}):
        if not _is_of_demo(model, store):
            return model.ref
    return None


def reads_demo(records: dict[str, dict[str, Any]]) -> bool:
    """Whether some of the data that a stage reads is the demo's."""
    return any(is_demo(_data_ref(record)) for record in records.values())


def is_demo(ref: str) -> bool:
    """Whether a dataset's name in a manifest is a file of the demo."""
    return ref.startswith("data/demo/")


def each_input(inputs: dict[str, Any]) -> list[Input]:
    """Every input of a plan, one after the other, whatever its role holds."""
    models: list[Input] = []
    for held in inputs.values():
        models += held.values() if isinstance(held, dict) else held if isinstance(held, list) else [held]
    return models


def _is_of_demo(model: Input, store: Store) -> bool:
    """Whether nothing but the demo data is behind a model."""
    if model.kind != "artifact":
        return False
    versions, seen = [store.resolve(model.ref)], set()
    while versions:
        version = versions.pop()
        if version.ref in seen:
            continue
        seen.add(version.ref)
        for parent in store.parents(version):
            if parent.version is not None:
                versions.append(parent.version)
            elif not (parent.role.startswith("data.") and is_demo(parent.record["ref"])):
                return False
    return True


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


def _data_ref(record: dict[str, Any], held_out: bool = False) -> str:
    """A dataset's name in a manifest: its train file (or what is held out, if only that is read), or the hub set."""
    first, second = ("eval", "train") if held_out else ("train", "eval")
    part = record.get(first) or record[second]
    return part["file"] if "file" in part else f"hf:{part['dataset']}@{part['revision']}"


def _digests(given: Any) -> Any:
    if isinstance(given, list):
        return [one.digest for one in given]
    if isinstance(given, dict):
        return {ref: one.digest for ref, one in sorted(given.items())}
    return given.digest
