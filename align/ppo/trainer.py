"""Proximal policy optimization on TRL's online trainer.

TRL's `RLOOTrainer` brings prompts, generation by transformers or vLLM, reward functions and models, completion logs
and the training loop; here are the rollout's advantages, the update, and the state that a resumed run needs.
"""

import contextlib
import copy
import json
import math
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object, is_peft_model
from datasets import Dataset, IterableDataset
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
)
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from trl import RLOOTrainer
from trl.models import prepare_deepspeed
from trl.models.utils import add_hooks, disable_gradient_checkpointing, remove_hooks
from trl.trainer.utils import create_model_from_path, disable_dropout_in_model, get_config_model_id, pad

from align.errors import UserError
from align.ppo.actor_critic import ActorCritic, hidden_states, token_logps
from align.ppo.adapters import REF_ADAPTER, adapter, add_value_adapter, linear, save_value_adapter
from align.ppo.advantages import kl_k1, kl_k3
from align.ppo.boundary import RolloutBoundary
from align.ppo.config import PPOConfig
from align.ppo.control import KLController, RunningMoments
from align.ppo.losses import approximate_kl, policy_loss, value_loss
from align.ppo.packing import Packed, pack
from align.ppo.rollout import Rollout, micro_batches, padded, prompt_order
from align.ppo.shaping import shape, shape_scores
from align.ppo.texts import TextMix
from align.ppo.update import Update
from align.rewards import RewardFunction, checked

STATE_FILE = "ppo_state.json"
WEIGHTS_FILE = "trainable.safetensors"


class PPOTrainer(RLOOTrainer):
    """
    Trainer for Proximal Policy Optimization (PPO), introduced in [Proximal Policy Optimization
    Algorithms](https://huggingface.co/papers/1707.06347) and used on language models in [Fine-Tuning Language Models
    from Human Preferences](https://huggingface.co/papers/1909.08593).

    Example:

    ```python
    >>> from align.ppo import PPOConfig, PPOTrainer
    >>> from datasets import load_dataset

    >>> trainer = PPOTrainer(
    ...     model="Qwen/Qwen2.5-0.5B-Instruct",
    ...     reward_funcs="trl-lib/Qwen2-0.5B-Reward",
    ...     args=PPOConfig("ppo", per_device_train_batch_size=8, gradient_accumulation_steps=4),
    ...     train_dataset=load_dataset("trl-lib/ultrafeedback-prompt", split="train"),
    ... )
    >>> trainer.train()
    ```

    Args:
        model (`str` or [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Policy to be trained, as in [`~trl.RLOOTrainer`].
        reward_funcs (`RewardFunc | list[RewardFunc]`):
            Reward models and functions, as in [`~trl.RLOOTrainer`]; `args.reward_weights` weighs them. A reward model
            reads prompt and completion as text, through its own tokenizer and chat template.
        args ([`PPOConfig`], *optional*):
            Configuration for this trainer. If `None`, a default configuration is used.
        train_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Must include a column `"prompt"`, standard or conversational.
        eval_dataset ([`~datasets.Dataset`] or `dict[str, Dataset]`, *optional*):
            Prompts that `evaluate` answers and scores.
        processing_class ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The policy's tokenizer; `None` loads that of the model.
        reward_processing_classes ([`~transformers.PreTrainedTokenizerBase`] or list of them, *optional*):
            Tokenizers of the reward models; `None` loads theirs.
        ref_model ([`~transformers.PreTrainedModel`], *optional*):
            What the KL is measured from. `None` is the policy as it was loaded: a frozen copy; of an adapter, a frozen
            copy of that adapter on the same base; of an adapter that is new, the bare base.
        value_model ([`~transformers.PreTrainedModel`], *optional*):
            Sequence classifier with one label that is trained to estimate each state's value. `None` begins from the
            first reward model, else from the policy with a new head; of a policy that is an adapter it is another
            adapter on the same base.
        value_adapter (`str`, *optional*):
            Folder of a reward adapter on the policy's base (PEFT, sequence classification, one label), which the
            value's adapter begins as. `None` begins with one that does nothing.
        ptx_dataset ([`~datasets.Dataset`], *optional*):
            Texts (column `"text"`) for the pretraining mix, with `args.ptx_coef`.
        callbacks, optimizers, quantization_config, peft_config:
            As in [`~trl.RLOOTrainer`].
    """

    loss_is_scaled_for_ga = True  # by the number of tokens in the global minibatch

    _tag_names = ["trl", "ppo"]
    _name = "PPO"
    _paper = {
        "title": "Fine-Tuning Language Models from Human Preferences",
        "id": "1909.08593",
        "citation": textwrap.dedent("""\
            @article{ziegler2019finetuning,
                title        = {{Fine-Tuning Language Models from Human Preferences}},
                author       = {Daniel M. Ziegler and Nisan Stiennon and Jeffrey Wu and Tom B. Brown and Alec Radford and Dario Amodei and Paul F. Christiano and Geoffrey Irving},
                year         = 2019,
                eprint       = {arXiv:1909.08593}
            }"""),  # noqa: E501
    }

    def __init__(
        self,
        model: "str | PreTrainedModel | PeftModel",
        reward_funcs: "str | PreTrainedModel | RewardFunction | list[Any]",
        args: PPOConfig | None = None,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: "Dataset | dict[str, Dataset] | None" = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        reward_processing_classes: "PreTrainedTokenizerBase | list[PreTrainedTokenizerBase] | None" = None,
        ref_model: PreTrainedModel | None = None,
        value_model: PreTrainedModel | None = None,
        value_adapter: str | None = None,
        ptx_dataset: Dataset | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        quantization_config: BitsAndBytesConfig | None = None,
        peft_config: PeftConfig | None = None,
    ):
        if args is None:
            name = model if isinstance(model, str) else get_config_model_id(model.config)
            args = PPOConfig(f"{name.split('/')[-1]}-PPO")
        if isinstance(model, str):
            options = dict(args.model_init_kwargs or {})
            if quantization_config is not None:
                options["quantization_config"] = quantization_config
            options.setdefault("trust_remote_code", args.trust_remote_code)
            model = create_model_from_path(model, **options)
        reward_funcs = [
            self._load_reward_model(one, args) if isinstance(one, str) else one
            for one in (reward_funcs if isinstance(reward_funcs, list) else [reward_funcs])
        ]
        reward_funcs = [one if isinstance(one, nn.Module) else checked(one) for one in reward_funcs]
        with_adapter = is_peft_model(model) or peft_config is not None
        if ref_model is None and not with_adapter:
            ref_model = self._copy(model, args)
        if args.use_vllm:
            own = {"min_tokens": args.min_completion_length or 0}
            if args.stop_strings:
                own |= {"stop": args.stop_strings, "include_stop_str_in_output": True}
            args.generation_kwargs = own | (args.generation_kwargs or {})
        if value_model is None and not args.share_backbone and not with_adapter:
            value_model = self._first_value_model(model, reward_funcs, args)

        # RLOO would load a second reference from the policy's path: it is told that there is no KL.
        beta, args.beta = args.beta, 0.0
        try:
            super().__init__(
                model=model,
                reward_funcs=reward_funcs,
                args=args,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                reward_processing_classes=reward_processing_classes,
                callbacks=callbacks,
                optimizers=optimizers,
                peft_config=peft_config,
            )
        finally:
            args.beta = beta
        self.policy = self.model
        value_head = None
        if args.share_backbone:
            value_head = linear(torch.zeros(1, self.policy.config.get_text_config().hidden_size))
        elif value_model is None:
            value_head = add_value_adapter(self.policy, Path(value_adapter) if value_adapter else None)
        self.model = self.model_wrapped = ActorCritic(self.policy, value_model, value_head, self.temperature)
        if args.disable_dropout:
            disable_dropout_in_model(self.model)
        if self.place_model_on_device:
            self._move_model_to_device(self.model, args.device)
        if value_model is not None:
            value_model.config.get_text_config().pad_token_id = self._tokenizer.pad_token_id
        if ref_model is not None:
            if args.disable_dropout:
                disable_dropout_in_model(ref_model)
            ref_model = ref_model.eval().requires_grad_(False)
            prepare = self.accelerator.prepare_model if not self.is_deepspeed_enabled else None
            ref_model = (
                prepare(ref_model, evaluation_mode=True) if prepare else prepare_deepspeed(ref_model, self.accelerator)
            )
        self.ref_model = ref_model
        if args.min_completion_length is not None and not self.use_vllm:
            self.generation_config.min_new_tokens = args.min_completion_length

        self.kl_controller = KLController(args.beta, args.kl_target, args.kl_horizon)
        self.score_moments = RunningMoments()
        if args.ptx_coef and ptx_dataset is None:
            raise ValueError("ptx_coef is set and there is no ptx_dataset to mix in: give one with a column `text`")
        self.texts = TextMix(
            ptx_dataset["text"] if args.ptx_coef else [],
            self._tokenizer,
            max_length=args.ptx_max_length,
            batch_size=args.ptx_batch_size,
            accumulation=args.gradient_accumulation_steps,
            ranks=args.world_size,
        )
        self.stopped_at_kl: float | None = None
        self._rollout: Rollout | None = None
        self._schedule: list[list[list[int]]] = []
        self._update = Update()
        self._left_out = False  # the rest of this rollout's minibatches, after too large a step
        self._last_good: dict[str, Tensor] | None = None

    def train(self, *args: Any, **kwargs: Any) -> Any:
        boundary = RolloutBoundary(self.args.steps_per_rollout)
        self.add_callback(boundary)  # the last, so that it sees what all others ask for
        try:
            return super().train(*args, **kwargs)
        finally:
            self.remove_callback(boundary)

    # ---- Construction ----

    @staticmethod
    def _load_reward_model(path: str, args: PPOConfig) -> PreTrainedModel:
        options = {"trust_remote_code": args.trust_remote_code, **(args.model_init_kwargs or {})}
        return AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, **options)

    @staticmethod
    def _copy(model: PreTrainedModel, args: PPOConfig) -> PreTrainedModel:
        """The policy as it is now; under ZeRO-3, whose weights are in pieces, read again from where it came from."""
        if not is_deepspeed_zero3_enabled():
            return copy.deepcopy(model)
        options = {"dtype": model.dtype, "attn_implementation": model.config._attn_implementation}
        options["trust_remote_code"] = args.trust_remote_code
        return create_model_from_path(get_config_model_id(model.config), **options)

    def _first_value_model(self, policy: PreTrainedModel, reward_funcs: list[Any], args: PPOConfig) -> PreTrainedModel:
        """A value model from the first reward model, or from the policy with a head of zeros."""
        first = next((one for one in reward_funcs if isinstance(one, PreTrainedModel)), None)
        if first is not None and not is_deepspeed_zero3_enabled():
            return copy.deepcopy(first).requires_grad_(True)
        source = first if first is not None else policy
        value_model = AutoModelForSequenceClassification.from_pretrained(
            get_config_model_id(source.config),
            num_labels=1,
            dtype=policy.dtype,
            trust_remote_code=args.trust_remote_code,
        )
        if first is None:
            nn.init.zeros_(value_model.score.weight)
        return value_model

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(*args, **kwargs)
        if self.args.value_learning_rate is not None:
            own = {id(parameter) for parameter in self.model.value_parameters()}
            groups = []
            for group in optimizer.param_groups:
                shared = {key: value for key, value in group.items() if key != "params"}
                for member, rate in ((False, group["lr"]), (True, self.args.value_learning_rate)):
                    parameters = [one for one in group["params"] if (id(one) in own) is member]
                    if parameters:
                        groups.append(shared | {"params": parameters, "lr": rate})
            optimizer.param_groups.clear()
            for group in groups:
                optimizer.add_param_group(group)
        return optimizer

    # ---- Rollout ----

    @property
    def rollout_number(self) -> int:
        """Rollouts begun before the one of the present step."""
        return self._step // (self.args.steps_per_generation * self.num_iterations)

    def _prepare_inputs(self, inputs: Any) -> dict[str, Any]:
        if not self.model.training:
            self._roll_out(inputs, "eval")
            return {}
        args = self.args
        minibatch, micro = divmod(self._step % args.steps_per_generation, args.gradient_accumulation_steps)
        if minibatch == micro == 0:
            self._schedule = micro_batches(
                self._rollout,
                seed=args.seed,
                number=self.rollout_number,
                epoch=self._step // args.steps_per_generation % self.num_iterations,
                minibatch=args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
                accumulation=args.gradient_accumulation_steps,
            )
        shares = self._schedule[minibatch]
        members = [one for share in shares for one in share]
        return {
            "episodes": shares[micro][self.accelerator.process_index :: args.world_size],
            "tokens": max(int(self._rollout.mask[members].sum()), 1),
            "last": micro == args.gradient_accumulation_steps - 1,
        }

    def _begin_rollout(self, generation_batch: list[dict[str, Any]]) -> None:
        """Generate and score a rollout, and prepare what its update needs."""
        self._report_update()
        self._update = Update()
        args = self.args
        if isinstance(self.train_dataset, Dataset):
            share = args.generation_batch_size // args.world_size
            order = prompt_order(
                len(self.train_dataset),
                per_rollout=args.generation_batch_size // self.num_generations,
                number=self.rollout_number,
                seed=args.seed,
                shuffle=self.shuffle_dataset,
            )
            repeated = [one for one in order for _ in range(self.num_generations)]
            mine = repeated[self.accelerator.process_index * share :][:share]
            generation_batch = [self.train_dataset[one] for one in mine]
        self._rollout, kl = self._roll_out(generation_batch, "train")
        self._left_out = not self._keep_last_good(kl)
        self.kl_controller.update(kl, len(self._rollout))

    def _roll_out(self, inputs: list[dict[str, Any]], mode: str) -> tuple[Rollout, float]:
        """One rollout of all ranks, with advantages, and its KL; its metrics are noted under `mode`."""
        prompts = [row["prompt"] for row in inputs]
        with self._update.timing("rollout"), self._own_randomness(mode):
            prompt_ids, completion_ids, completions = self._generate(prompts)
        with self._update.timing("scoring"):
            rewards = self._calculate_rewards(inputs, prompts, completions, completion_ids).cpu()
            logps, ref_logps, values = self._score(prompt_ids, completion_ids)
        ends = {*self.eos_token_ids}
        own = {
            "prompts": prompts,
            "completions": completions,
            "prompt_ids": prompt_ids,
            "completion_ids": completion_ids,
            "logps": logps,
            "ref_logps": ref_logps,
            "values": values,
            "ended": [self._has_ended(ids, ends) for ids in completion_ids],
        }
        everyone = {key: gather_object(value) for key, value in own.items()}
        rollout = Rollout(
            everyone["prompt_ids"],
            everyone["completion_ids"],
            *(padded(everyone[key]) for key in ("logps", "ref_logps", "values")),
            torch.tensor(everyone["ended"]),
            rewards,
        )
        missing = torch.isnan(rewards).all(dim=1)
        if missing.any():
            prompt = everyone["prompts"][int(missing.nonzero()[0])]
            raise UserError(f"no reward function gave a score for the prompt {str(prompt)[:200]!r}: one of them must")
        scores = shape_scores(rollout, self.args, self.reward_weights, self.score_moments, learn=mode == "train")
        metrics = shape(rollout, scores, self.args, self.kl_controller.beta)
        self._note(rollout, everyone, metrics, mode)
        return rollout, metrics["objective/kl"]

    def _has_ended(self, completion_ids: list[int], ends: set[int]) -> bool:
        if completion_ids and completion_ids[-1] in ends:
            return True
        stops = self.args.stop_strings
        return bool(stops) and any(stop in self._tokenizer.decode(completion_ids) for stop in stops)

    @contextlib.contextmanager
    def _own_randomness(self, mode: str) -> Iterator[None]:
        """Sampling that depends on seed, rollout and rank alone, so that a rollout is made again the same way."""
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        number = self.rollout_number if mode == "train" else self.state.global_step
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed((self.args.seed * 1_000_003 + number) * 65_537 + self.accelerator.process_index)
            yield

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, multimodal_fields: Any
    ) -> list[list[int]]:
        self._check_room(prompt_ids)
        if self.use_vllm or self.use_transformers_continuous_batching:
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields)
        device = self.accelerator.device
        rows = [torch.tensor(ids) for ids in prompt_ids]
        batch = pad(rows, padding_value=self._tokenizer.pad_token_id, padding_side="left").to(device)
        mask = pad([torch.ones_like(row) for row in rows], padding_value=0, padding_side="left").to(device)
        options = (
            {"stop_strings": self.args.stop_strings, "tokenizer": self._tokenizer} if self.args.stop_strings else {}
        )
        with self._policy_for_generation() as policy, torch.no_grad():
            output = policy.generate(
                input_ids=batch,
                attention_mask=mask,
                generation_config=self.generation_config,
                synced_gpus=is_deepspeed_zero3_enabled() and not self.args.ds3_gather_for_generation,
                **options,
            )
        return [self._until_end(row) for row in output[:, batch.size(1) :].tolist()]

    def _until_end(self, ids: list[int]) -> list[int]:
        """A row of generated tokens up to its end token, or to the token that completed a stop string."""
        ends = {*self.eos_token_ids}
        end = next((place for place, token in enumerate(ids) if token in ends), None)
        ids = ids if end is None else ids[: end + 1]
        for length in range(1, len(ids) + 1) if self.args.stop_strings else ():
            if any(stop in self._tokenizer.decode(ids[:length]) for stop in self.args.stop_strings):
                return ids[:length]
        return ids

    def _check_room(self, prompt_ids: list[list[int]]) -> None:
        context = getattr(self.policy.config.get_text_config(), "max_position_embeddings", None)
        longest = max(map(len, prompt_ids))
        if context is not None and longest + self.max_completion_length > context:
            raise UserError(
                f"a prompt of {longest} tokens leaves no room for {self.max_completion_length} more in the policy's "
                f"context of {context}: leave such prompts out, or set max_completion_length to "
                f"{max(context - longest, 1)} or less"
            )
        if min(map(len, prompt_ids)) == 0:
            raise UserError("a prompt has no token: a completion needs at least one to go on from; leave it out")

    @contextlib.contextmanager
    def _policy_for_generation(self) -> Iterator[PreTrainedModel]:
        """The policy with whole weights: under ZeRO-3 gathered once, and nothing but the policy."""
        with disable_gradient_checkpointing(self.policy, self.args.gradient_checkpointing_kwargs):
            if not (is_deepspeed_zero3_enabled() and self.args.ds3_gather_for_generation):
                yield self.policy
                return
            import deepspeed

            with deepspeed.zero.GatheredParameters(list(self.policy.parameters())):
                remove_hooks(self.model_wrapped)
                try:
                    yield self.policy
                finally:
                    add_hooks(self.model_wrapped)

    def _score(
        self, prompt_ids: list[list[int]], completion_ids: list[list[int]]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Each completion token's log-probability under policy and reference, and the value of its state."""
        found: list[dict[int, Tensor]] = [{}, {}, {}]
        sequences = [prompt + completion for prompt, completion in zip(prompt_ids, completion_ids, strict=True)]
        counts = list(map(len, completion_ids))
        # Neighbours of like length pack well.
        order = sorted(range(len(sequences)), key=lambda one: len(sequences[one]))
        size = self.args.per_device_train_batch_size if self.model.training else self.args.per_device_eval_batch_size
        with torch.no_grad(), disable_gradient_checkpointing(self.policy, self.args.gradient_checkpointing_kwargs):
            for start in range(0, len(order), size):
                members = order[start : start + size]
                lengths = [counts[one] for one in members]
                packed = self._pack([sequences[one] for one in members], lengths)
                with self.accelerator.autocast():
                    logps, _, values = self.model(*vars(packed).values())
                    ref_logps = self._ref_logps(packed)
                for place, scored in enumerate((logps, ref_logps, values)):
                    found[place].update(zip(members, scored.float().cpu().split(lengths), strict=True))
        return tuple([one[index] for index in range(len(sequences))] for one in found)

    def _ref_logps(self, packed: Packed) -> Tensor:
        def logps_of(model: PreTrainedModel) -> Tensor:
            hidden = hidden_states(model, packed.input_ids, packed.position_ids, packed.states)
            return token_logps(model, hidden, packed.targets, self.temperature)[0]

        if self.ref_model is not None:
            return logps_of(self.accelerator.unwrap_model(self.ref_model))
        with adapter(self.policy, REF_ADAPTER if REF_ADAPTER in self.policy.peft_config else None):
            return logps_of(self.policy)

    def _pack(self, sequences: list[list[int]], counts: list[int]) -> Packed:
        return pack(
            sequences,
            counts,
            side_by_side=self.args.padding_free,
            device=self.accelerator.device,
        )

    def _note(self, rollout: Rollout, everyone: dict[str, list], metrics: dict[str, float], mode: str) -> None:
        """Metrics and completions of a rollout, under TRL's names beside PPO's."""
        for number, name in enumerate(self.reward_func_names):
            given = rollout.rewards[:, number]
            given = given[~given.isnan()]
            metrics[f"rewards/{name}/mean"] = given.mean().item()
            metrics[f"rewards/{name}/std"] = given.std().item() if len(given) > 1 else math.nan
        for name, value in metrics.items():
            self._metrics[mode][name].append(value)
        kl = kl_k1(rollout.logps, rollout.ref_logps).sum(1).tolist()
        self._logs["prompt"].extend(everyone["prompts"])
        self._logs["completion"].extend(everyone["completions"])
        for number, name in enumerate(self.reward_func_names):
            self._logs["rewards"][name].extend(rollout.rewards[:, number].tolist())
        self._logs["advantages"].extend(rollout.advantages.sum(1).tolist())
        self._logs["extra"]["score"].extend(rollout.scores.tolist())
        self._logs["extra"]["kl"].extend(kl)

    # ---- Update ----

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        if self._step % (self.args.steps_per_generation * self.num_iterations) == 0:
            model.train()
            self._begin_rollout(inputs)
        if self._left_out:
            self._step += 1
            return torch.zeros((), device=self.args.device)
        return super().training_step(model, inputs, num_items_in_batch)

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        args, rollout = self.args, self._rollout
        rank, text_tokens = self.accelerator.process_index, self.texts.tokens(self._step)
        episodes = [one for one in inputs["episodes"] if rollout.mask[one].any()] or inputs["episodes"][:1]
        mask = rollout.mask[episodes]
        counts = mask.sum(1).tolist()
        sequences = [rollout.prompt_ids[one] + rollout.completion_ids[one] for one in episodes]
        texts = self.texts.micro_batch(self._step, rank)
        packed = self._pack(sequences + texts, counts + [len(text) - 1 for text in texts])
        learnt = sum(counts)
        logps, entropy, values = model(*vars(packed).values(), valued=learnt, entropy=True)
        logps, ptx_logps, entropy = logps[:learnt], logps[learnt:], entropy[:learnt]

        def old(name: str) -> Tensor:
            return getattr(rollout, name)[episodes][mask].to(logps.device)

        policy, clipped = policy_loss(logps, old("logps"), old("advantages"), self.epsilon_low, self.epsilon_high)
        value, value_clipped = value_loss(values, old("values"), old("returns"), args.cliprange_value)
        kl = kl_k3(logps, old("ref_logps"))
        loss = policy.sum() + args.vf_coef * value.sum() - args.entropy_coef * entropy.sum()
        if args.kl_estimator == "k3":
            loss = loss + self.kl_controller.beta * kl.sum()
        loss = loss / inputs["tokens"]
        if texts:
            loss = loss - args.ptx_coef * ptx_logps.sum() / text_tokens
        self._update.add(
            policy=policy,
            value=value,
            kl=kl,
            approxkl=approximate_kl(logps, old("logps")),
            clipped=clipped,
            entropy=entropy,
            value_clipped=value_clipped,
            ratio=torch.exp(logps - old("logps")),
            ptx=-ptx_logps,
        )
        if inputs["last"]:
            self._end_minibatch(inputs["tokens"], text_tokens)
        # Ranks' gradients are averaged, and this loss is already divided by the tokens of all of them.
        return loss * args.world_size

    def _end_minibatch(self, tokens: int, text_tokens: int) -> None:
        """Look at a minibatch's numbers before its step is taken."""
        sums = self.accelerator.reduce(self._update.take_sums(self.args.device), "sum").tolist()
        found = self._update.end_minibatch(sums, tokens=tokens, text_tokens=text_tokens)
        if found["ratio"] > self.args.ratio_threshold:
            raise UserError(
                f"after {self.state.global_step} steps the policy's mean ratio to the rollout's is "
                f"{found['ratio']:.3g}, above trainer.ratio_threshold {self.args.ratio_threshold:g}: its steps are "
                "too large. The last checkpoint is good; lower trainer.learning_rate or trainer.num_iterations, or "
                "set trainer.max_approx_kl"
            )
        if self.args.max_approx_kl is not None and found["approxkl"] > self.args.max_approx_kl:
            self._left_out = True

    def _report_update(self) -> None:
        """Note the metrics of the update that has ended."""
        if not self._update.minibatches:
            return
        metrics = self._update.metrics(self._rollout.tokens)
        if self.args.kl_estimator != "k3":
            del metrics["loss/kl_avg"]
        if not self.texts.ids:
            del metrics["loss/ptx_avg"]
        for name, value in metrics.items():
            self._metrics["train"][name].append(value)
        self._update.minibatches = []

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.model.training and self.state.global_step % self.args.steps_per_rollout == 0:
            self._report_update()
        super().log(logs, start_time)

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[None, None, None]:
        self._prepare_inputs(inputs)
        return None, None, None

    # ---- Stopping and going on ----

    def _keep_last_good(self, kl: float) -> bool:
        """Remember weights whose rollout is within the KL budget; beyond it, go back to the last such, and stop.

        Returns:
            False if training stops.
        """
        if self.args.kl_budget is None:
            return True
        if kl <= self.args.kl_budget:
            self._last_good = {name: _own(one).detach().cpu().clone() for name, one in self._trainable()}
            return True
        if self._last_good is None:
            raise UserError(
                f"the policy's KL to its reference is {kl:.3g} before the first update, above kl_budget "
                f"{self.args.kl_budget:g}: name the reference it was trained from, or raise the budget"
            )
        with torch.no_grad():
            for name, one in self._trainable():
                _own(one).copy_(self._last_good[name])
        self.stopped_at_kl = kl
        self.control.should_training_stop = True
        if self.accelerator.is_main_process:
            print(
                f"stopped after {self.state.global_step} steps: a rollout's KL was {kl:.3g} nats a completion, above "
                f"kl_budget {self.args.kl_budget:g}; the policy is as it was one rollout before",
                flush=True,
            )
        return False

    def _trainable(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, one) for name, one in self.model.named_parameters() if one.requires_grad]

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the policy as a plain model that any tool loads."""
        folder = Path(output_dir or self.args.output_dir)
        if _internal_call:
            folder.mkdir(parents=True, exist_ok=True)
            if not self.is_deepspeed_enabled and self.args.should_save:  # DeepSpeed writes its own
                save_file({name: one.detach().contiguous() for name, one in self._trainable()}, folder / WEIGHTS_FILE)
            return
        options = {"selected_adapters": ["default"]} if is_peft_model(self.policy) else {}
        state = self._weights_of("policy")
        if self.args.should_save:
            self.policy.save_pretrained(folder, state_dict=state, **options)
            self.processing_class.save_pretrained(folder)

    def save_value_model(self, output_dir: str | Path) -> bool:
        """Save the value model, a sequence classifier with one label; False if the value is read from the policy."""
        if self.args.share_backbone:
            return False
        state = self._weights_of("policy" if self.model.value_model is None else "value_model")
        with self._dist.gather_params([] if self.model.value_head is None else [self.model.value_head.weight]):
            if self.args.should_save and self.model.value_model is None:
                save_value_adapter(self.policy, self.model.value_head, Path(output_dir), state)
            elif self.args.should_save:
                self.model.value_model.save_pretrained(output_dir, state_dict=state)
        if self.args.should_save:
            self.processing_class.save_pretrained(output_dir)
        return True

    def _weights_of(self, part: str) -> dict[str, Tensor] | None:
        """Under ZeRO-3 a part's whole weights, on the main process; None where they are whole already."""
        if not is_deepspeed_zero3_enabled():
            return None
        state = self.accelerator.get_state_dict(self.model_wrapped) or {}
        return {name.removeprefix(f"{part}."): one for name, one in state.items() if name.startswith(f"{part}.")}

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        saved = load_file(Path(resume_from_checkpoint) / WEIGHTS_FILE)
        with torch.no_grad():
            for name, one in self._trainable():
                one.copy_(saved[name])

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        self._report_update()
        if self._last_good is not None and (self.args.should_save or is_deepspeed_zero3_enabled()):
            save_file(self._last_good, Path(output_dir) / f"last_good-{self._last_good_rank}.safetensors")
        if self.args.should_save:
            state = {
                "step": self._step,
                "kl_controller": self.kl_controller.state_dict(),
                "score_moments": self.score_moments.state_dict(),
                "metrics": dict(self._metrics["train"]),
            }
            (Path(output_dir) / STATE_FILE).write_text(json.dumps(state) + "\n", "utf-8")

    @property
    def _last_good_rank(self) -> int:
        return self.accelerator.process_index if is_deepspeed_zero3_enabled() else 0

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        state = json.loads((Path(checkpoint) / STATE_FILE).read_text("utf-8"))
        self._step = state["step"]
        self.kl_controller.load_state_dict(state["kl_controller"])
        self.score_moments.load_state_dict(state["score_moments"])
        self._metrics["train"].update({name: list(values) for name, values in state["metrics"].items()})
        kept = Path(checkpoint) / f"last_good-{self._last_good_rank}.safetensors"
        if kept.is_file():
            self._last_good = load_file(kept)


def _own(parameter: nn.Parameter) -> Tensor:
    """What this rank holds of a parameter: its piece under ZeRO-3, else all of it."""
    return getattr(parameter, "ds_tensor", parameter.data)
