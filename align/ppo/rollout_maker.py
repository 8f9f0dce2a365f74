"""How rollouts are made: the policy answers, reward functions, reference and value model look at the answers."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import PreTrainedModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from trl import RLOOTrainer
from trl.models.utils import add_hooks, remove_hooks
from trl.trainer.utils import pad

from align.data.tokens.chat_template import text_of
from align.errors import UserError
from align.models.generation import without_checkpointing
from align.models.shared_base import REF_ADAPTER, adapter
from align.ppo.actor_critic import hidden_states
from align.ppo.advantages import kl_k1
from align.ppo.head import token_logps
from align.ppo.logits_check import FiniteLogits
from align.ppo.packing import Packed, in_one_row, pack
from align.ppo.rollout import Rollout, padded
from align.ppo.shaping import shape, shape_scores
from align.rewards.functions import SHOWN

# Nats that a token's log-probability may move with what is in front of its sequence: rounding, in a batch as large.
NEIGHBOURS = {"fp32": 1e-3, "16 bits": 0.05}


OWN_LOGS = ("score", "kl")  # columns of the completion log that are PPO's own


class RolloutTrainer(RLOOTrainer):
    """The half of PPO's trainer that makes rollouts; `PPOTrainer` has the state that these methods read."""

    @property
    def rollout_number(self) -> int:
        """Rollouts begun before the one of the present step."""
        return self._step // (self.args.steps_per_generation * self.num_iterations)

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
            "logged": self._take_logged(len(prompts)),
            "logged_metrics": [dict(self._pending_metrics)],
        }
        self._pending_metrics.clear()
        ranks = gather_object([own])
        everyone = {key: [one for rank in ranks for one in rank[key]] for key in own}
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
            raise UserError(
                f"no reward function gave a score for the prompt {text_of(prompt)[:SHOWN]!r}: one of them must"
            )
        scores = shape_scores(rollout, self.args, self.reward_weights, self.score_moments, learn=mode == "train")
        metrics = shape(rollout, scores, self.args, self.kl_controller.beta)
        self._note(rollout, everyone, metrics, mode)
        return rollout, metrics["objective/kl"]

    def _take_logged(self, count: int) -> list[dict[str, Any]]:
        """What reward functions logged of each completion by `log_extra`. Raises UserError for another number."""
        logged: list[dict[str, Any]] = [{} for _ in range(count)]
        for column, values in self._pending_extra_logs.items():
            if len(values) != count:
                raise UserError(
                    f"a reward function logged {len(values)} values of {column!r} for {count} completions; log one "
                    "for each"
                )
            name = f"logged {column}" if column in OWN_LOGS else column
            for completion, value in zip(logged, values, strict=True):
                completion[name] = value
        self._pending_extra_logs.clear()
        return logged

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
            with without_checkpointing(self.policy):
                return super()._generate_single_turn(prompt_ids, images, multimodal_fields)
        device = self.accelerator.device
        rows = [torch.tensor(ids) for ids in prompt_ids]
        batch = pad(rows, padding_value=self._tokenizer.pad_token_id, padding_side="left").to(device)
        mask = pad([torch.ones_like(row) for row in rows], padding_value=0, padding_side="left").to(device)
        options = (
            {"stop_strings": self.args.stop_strings, "tokenizer": self._tokenizer} if self.args.stop_strings else {}
        )
        finite = FiniteLogits(device)
        with self._policy_for_generation() as policy, torch.no_grad():
            output = policy.generate(
                input_ids=batch,
                attention_mask=mask,
                generation_config=self.generation_config,
                logits_processor=[finite],
                synced_gpus=is_deepspeed_zero3_enabled() and not self.args.ds3_gather_for_generation,
                **options,
            )
        finite.check(self.state.global_step)
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
        with without_checkpointing(self.policy):
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
        if self._side_by_side is None:
            self._side_by_side = self.args.padding_free and not self._sees_neighbours()
        found: list[dict[int, Tensor]] = [{}, {}, {}]
        sequences = [prompt + completion for prompt, completion in zip(prompt_ids, completion_ids, strict=True)]
        counts = list(map(len, completion_ids))
        # Neighbours of like length pack well.
        order = sorted(range(len(sequences)), key=lambda one: len(sequences[one]))
        size = self.args.per_device_train_batch_size if self.model.training else self.args.per_device_eval_batch_size
        with torch.no_grad(), without_checkpointing(self.model):
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

    def _sees_neighbours(self) -> bool:
        """Whether the numbers of a sequence change with what lies in front of it in its row.

        They do where a model carries a state along the row (state-space layers, convolutions), adds positions of its
        own (ALiBi, OPT), or has an attention that does not ask where sequences begin. All ranks take part.
        """
        first, second, third = (list(range(start, start + 8)) for start in (8, 16, 24))
        tokens = self.policy.config.get_text_config().vocab_size
        rows = [[[token % tokens for token in ids] for ids in row] for row in ((first, third), (second, third))]
        was_training = self.model.training
        self.model.eval()
        with torch.no_grad(), without_checkpointing(self.model), self.accelerator.autocast():
            numbers = []
            for row in rows:
                packed = in_one_row(row, [0, 7], device=self.accelerator.device)
                logps, _, values = self.model(*vars(packed).values())
                numbers.append(torch.cat([logps.float(), values.float()]))
        self.model.train(was_training)
        apart = (numbers[0] - numbers[1]).abs().max().item()
        if apart < (NEIGHBOURS["16 bits"] if self.args.bf16 or self.args.fp16 else NEIGHBOURS["fp32"]):
            return False
        if self.accelerator.is_main_process:
            print(
                f"padding_free: models of type {self.policy.config.model_type} let sequences in one row see each "
                "other, so each sequence gets a row of its own",
                flush=True,
            )
        return True

    def _pack(self, sequences: list[list[int]], counts: list[int]) -> Packed:
        config = self.policy.config.get_text_config()
        return pack(
            sequences,
            counts,
            side_by_side=self._side_by_side,
            device=self.accelerator.device,
            hidden_size=config.hidden_size,
            widest=getattr(config, "max_position_embeddings", None),
        )

    def _note(self, rollout: Rollout, everyone: dict[str, list], metrics: dict[str, float], mode: str) -> None:
        """Metrics and completions of a rollout, under TRL's names beside PPO's."""
        for number, name in enumerate(self.reward_func_names):
            given = rollout.rewards[:, number]
            given = given[~given.isnan()]
            metrics[f"rewards/{name}/mean"] = given.mean().item()
            metrics[f"rewards/{name}/std"] = given.std().item() if len(given) > 1 else math.nan
        by_function: dict[str, list[float]] = {}
        for of_rank in everyone["logged_metrics"]:
            for name, values in of_rank.items():
                by_function.setdefault(name, []).extend(values)
        metrics |= {name: sum(values) / len(values) for name, values in by_function.items()}
        for name, value in metrics.items():
            self._metrics[mode][name].append(value)
        kl = kl_k1(rollout.logps, rollout.ref_logps).sum(1).tolist()
        self._logs["prompt"].extend(everyone["prompts"])
        self._logs["completion"].extend(everyone["completions"])
        for number, name in enumerate(self.reward_func_names):
            self._logs["rewards"][name].extend(rollout.rewards[:, number].tolist())
        self._logs["advantages"].extend(rollout.advantages.sum(1).tolist())
        logged = everyone["logged"]
        for column in {name for row in logged for name in row} | self._logs["extra"].keys() - {*OWN_LOGS}:
            self._logs["extra"][column].extend(row.get(column) for row in logged)
        self._logs["extra"]["score"].extend(rollout.scores.tolist())
        self._logs["extra"]["kl"].extend(kl)
