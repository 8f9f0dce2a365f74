"""A run that cannot fit is refused before it loads a weight, and memory that runs out later is a sentence."""

import os
from typing import Any

from align.artifacts.bases import adapter_kind, is_adapter, resolve_base
from align.artifacts.inputs import Input
from align.artifacts.text import human_size
from align.config.schema import Config
from align.distributed import ranks
from align.distributed.memory import Memory, device_memory, host_memory
from align.errors import UserError
from align.models.memory import FOUR_BITS, Network, Placement, estimate, network
from align.run.plan import Plan
from align.stages.spec import STAGES

_ADAMS = ("adamw_torch", "adamw_torch_fused", "adamw_apex_fused")  # moments in fp32
_DEFAULT_OPTIMIZER = "adamw_torch_fused"  # transformers'


def check_memory(plan: Plan) -> None:
    """The host and the GPU have room for the run's networks, and for what training keeps of each weight.

    Raises:
        UserError: they have not, with how much there is, how much is needed, and what to lower.
    """
    placement = _placement(plan)
    networks = _networks(plan)
    need = estimate(networks, placement)
    # a process of its own that trains nothing may spread a model over all GPUs
    several = not plan.cfg.trainer and not ranks.is_launched()
    device = device_memory(several=several) if placement.on_gpu else None
    for name, needed, memory in (("host", need.host, host_memory()), ("GPU", need.device, device)):
        if memory is not None and needed > memory.available:
            raise UserError(_refusal(plan, name, needed, memory, networks, placement))


def out_of_memory(error: BaseException, cfg: Config) -> str:
    """The sentence on memory that ran out while a stage ran: what was asked for, and the settings to lower."""
    words = " ".join(str(error).split())
    first = words.split(". ")[0][:200] or type(error).__name__
    where = "the GPU" if "CUDA" in words or "GPU" in words else "this machine"
    return f"stage {cfg.stage} ran out of memory on {where} ({first}); {'; '.join(_smaller(cfg))}"


def _smaller(cfg: Config) -> list[str]:
    """Settings that make a run need less memory, each with the value that it has now."""
    block: Any = getattr(cfg, STAGES[cfg.stage].block or "", None)
    remedies = []
    if (size := cfg.trainer.get("per_device_train_batch_size", 1)) > 1:
        remedies.append(
            f"lower trainer.per_device_train_batch_size (now {size}) and raise trainer.gradient_accumulation_steps "
            "by as much, which keeps the batch"
        )
    for key in ("max_length", "max_completion_length"):
        if cfg.trainer.get(key):
            remedies.append(f"lower trainer.{key} (now {cfg.trainer[key]})")
    if getattr(block, "batch_size", 1) > 1:
        remedies.append(f"lower {cfg.stage}.batch_size (now {block.batch_size})")
    if cfg.trainer and not cfg.trainer.get("activation_checkpointing", True):
        remedies.append("set trainer.activation_checkpointing=true")
    return remedies + _lighter(cfg)


def _lighter(cfg: Config) -> list[str]:
    """Settings with which the networks themselves take less memory."""
    remedies = []
    if cfg.trainer and cfg.adapter.kind == "none":
        remedies.append("train an adapter (adapter=lora, or adapter=qlora for a base in 4 bits)")
    elif cfg.adapter.kind == "lora":
        remedies.append("keep the base in 4 bits (adapter=qlora)")
    zero = ((cfg.deepspeed.config or {}).get("zero_optimization") or {}).get("stage", 0)
    if cfg.trainer and zero < 3:
        remedies.append(
            "divide the weights among several GPUs (deepspeed=zero3), or keep them in host memory "
            "(deepspeed=zero3_offload)"
        )
    if cfg.model.dtype == "float32":
        remedies.append("load the weights in 16 bits (model.dtype=bfloat16)")
    return remedies


def _refusal(plan: Plan, name: str, needed: int, memory: Memory, networks: list[Network], placement: Placement) -> str:
    parts = ", ".join(
        f"{part.role} ({_count(part.weights)} weights{', trained in full' if part.trained else ''})"
        for part in networks
    )
    copies = f" for {placement.ranks_per_host} processes" if name == "host" and placement.ranks_per_host > 1 else ""
    more = "use a machine with more" if name == "GPU" else "free some, raise the limit, or use a machine with more"
    return (
        f"stage {plan.cfg.stage} needs at least {human_size(needed)} of {name} memory{copies}, and "
        f"{human_size(memory.available)} of the {human_size(memory.total)} of {memory.bound} are available; it loads "
        f"{parts}. Activations come on top. {'; '.join([*_lighter(plan.cfg), more]).capitalize()}"
    )


def _count(weights: int) -> str:
    return f"{weights / 1e9:.1f} billion" if weights >= 1e9 else f"{weights / 1e6:.2f} million"


def _placement(plan: Plan) -> Placement:
    import torch

    from align.training.trainer import resolve_precision

    cfg = plan.cfg
    zero = (cfg.deepspeed.config or {}).get("zero_optimization") or {}
    local = os.environ.get("LOCAL_SIZE") or os.environ.get("LOCAL_WORLD_SIZE")  # deepspeed's word, or torchrun's
    return Placement(
        ranks=plan.world_size,
        ranks_per_host=int(local or plan.world_size),
        on_gpu=torch.cuda.is_available(),
        zero_stage=zero.get("stage", 0) if cfg.trainer else 0,
        half=cfg.deepspeed.config is not None and resolve_precision(cfg.precision) != "fp32",
        adam=cfg.trainer.get("optim", _DEFAULT_OPTIMIZER) in _ADAMS,
        offload_optimizer=(zero.get("offload_optimizer") or {}).get("device"),
        offload_weights=(zero.get("offload_param") or {}).get("device"),
    )


def _networks(plan: Plan) -> list[Network]:
    """The networks that a stage holds at the same time, at the least; an adapter's are on one base."""
    from align.training.trainer import resolve_dtype

    cfg, spec, inputs = plan.cfg, STAGES[plan.cfg.stage], plan.inputs
    frozen = _bytes(resolve_dtype(cfg.model.dtype, cfg.precision, frozen=True))
    whole = _bytes(resolve_dtype(cfg.model.dtype, cfg.precision, frozen=False))
    rewards = _listed(inputs.get("reward_model"))
    if spec.trainer_config is None:

        def read(role: str, model: Input) -> Network:
            quantized = is_adapter(model.path) and adapter_kind(model.path) == "qlora"
            return network(role, model, weight_bytes=FOUR_BITS if quantized else frozen)

        systems = []
        for model in _listed(inputs.get("policy")) + _listed(inputs.get("baseline")):
            reference = inputs.get("references", {}).get(model.ref)
            pair = [read("policy", model)]
            systems.append(pair + ([read("ref_model", reference)] if reference is not None else []))
        largest = max(systems, key=lambda pair: sum(part.weights * part.weight_bytes for part in pair), default=[])
        return largest + [read("reward_model", model) for model in rewards]
    reward_networks = [network("reward_model", model, weight_bytes=frozen) for model in rewards]
    if "policy" not in inputs:
        return []  # from model.new
    policy: Input = inputs["policy"]
    if cfg.adapter.kind != "none":
        base_bytes = FOUR_BITS if cfg.adapter.kind == "qlora" else frozen
        others = [part for model, part in zip(rewards, reward_networks, strict=True) if _base(model) != _base(policy)]
        return [network("policy", policy, weight_bytes=base_bytes), *others]
    networks = [network("policy", policy, weight_bytes=whole, trained=True)]
    reference = spec.inputs.get("ref_model")
    if reference is not None and (not reference.fixed or cfg.trainer.get("beta")):
        networks.append(network("ref_model", inputs["ref_model"], weight_bytes=whole))
    if "value_model" in spec.inputs and not cfg.trainer.get("share_backbone"):
        source = [*_listed(inputs.get("value_model")), *rewards, policy][0]
        networks.append(network("value_model", source, weight_bytes=whole, trained=True))
    return networks + reward_networks


def _base(model: Input) -> str:
    return resolve_base(model.path).digest if is_adapter(model.path) else model.digest


def _bytes(dtype: str) -> int:
    return 4 if dtype == "float32" else 2


def _listed(held: Any) -> list[Input]:
    return held if isinstance(held, list) else [] if held is None else [held]
