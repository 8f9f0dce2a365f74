"""Proximal policy optimization on TRL's online trainer.

TRL's `RLOOTrainer` brings prompts, generation by transformers or vLLM, reward functions and models, completion logs
and the training loop; here are the rollout's advantages, the update, and the state that a resumed run needs.
"""

import textwrap
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import is_peft_model
from datasets import Dataset, IterableDataset
from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl.models import prepare_deepspeed
from trl.trainer.utils import create_model_from_path, disable_dropout_in_model, get_config_model_id

from align.errors import UserError
from align.models.shared_base import add_value_adapter, linear
from align.ppo.actor_critic import ActorCritic
from align.ppo.advantages import kl_k3
from align.ppo.checkpoints import CheckpointTrainer
from align.ppo.config import PPOConfig
from align.ppo.control import KLController, RunningMoments
from align.ppo.losses import approximate_kl, policy_loss, value_loss
from align.ppo.networks import copy_policy, first_value_model, fuse_gelu, load_reward_model, set_learning_rate
from align.ppo.pretraining_mix import TextMix
from align.ppo.rollout import Rollout, micro_batches, prompt_order
from align.ppo.update import Update
from align.rewards.functions import RewardFunction, checked


class PPOTrainer(CheckpointTrainer):
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
            load_reward_model(one, args) if isinstance(one, str) else one
            for one in (reward_funcs if isinstance(reward_funcs, list) else [reward_funcs])
        ]
        reward_funcs = [one if isinstance(one, nn.Module) else checked(one) for one in reward_funcs]
        with_adapter = is_peft_model(model) or peft_config is not None
        if ref_model is None and not with_adapter:
            ref_model = copy_policy(model, args)
        if args.use_vllm:
            own = {"min_tokens": args.min_completion_length or 0}
            if args.stop_strings:
                own |= {"stop": args.stop_strings, "include_stop_str_in_output": True}
            args.generation_kwargs = own | (args.generation_kwargs or {})
        if value_model is None and not args.share_backbone and not with_adapter:
            value_model = first_value_model(model, reward_funcs, args)
        for network in (model, ref_model, value_model):
            if network is not None:
                fuse_gelu(network)

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
        prompts = args.generation_batch_size // args.num_generations
        if isinstance(train_dataset, Dataset) and len(train_dataset) < prompts:
            raise ValueError(
                f"a rollout takes {prompts} prompts and there are {len(train_dataset)}: lower generation_batch_size, "
                "raise num_generations, or give more prompts"
            )
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
            if self.is_deepspeed_enabled:
                ref_model = prepare_deepspeed(ref_model, self.accelerator)
            else:
                ref_model = self.accelerator.prepare_model(ref_model, evaluation_mode=True)
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
        self._side_by_side: bool | None = None  # whether rows hold several sequences; not known before a forward
        self._schedule: list[list[list[int]]] = []
        self._update = Update()
        self._left_out = False  # the rest of this rollout's minibatches, after too large a step
        self._last_good: dict[str, Tensor] | None = None

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(*args, **kwargs)
        if self.args.value_learning_rate is not None:
            set_learning_rate(optimizer, self.model.value_parameters(), self.args.value_learning_rate)
        return optimizer

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
        if not len(self.texts):
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
