"""Policy and value under one module, so that one engine (DDP, DeepSpeed) trains both in one forward.

Only what a loss reads is computed: the language-model head sees the states that chose a completion token and no other.
"""

from functools import partial
from typing import Any

from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from align.models.shared_base import VALUE_ADAPTER, adapter, checkpoint_under_adapter
from align.ppo.head import token_logps


class ActorCritic(nn.Module):
    """A causal language model and an estimate of each state's value.

    The value comes from a network of its own (`value_model`), from a low-rank adapter of its own on the policy's
    frozen base (the policy's adapter `value`), or from the policy's own states; in the last two with `value_head`.
    What this module lacks is asked of the policy, which it stands for in a trainer.

    Args:
        policy: a causal language model, or a PEFT model of one.
        value_model: a sequence classifier with one label.
        value_head: a linear map from a state to its value; exactly one of the two is given.
        temperature: that completions are sampled with, which divides the logits.
    """

    def __init__(
        self,
        policy: PreTrainedModel | PeftModel,
        value_model: PreTrainedModel | None = None,
        value_head: nn.Linear | None = None,
        temperature: float = 1.0,
    ):
        super().__init__()
        if (value_model is None) == (value_head is None):
            raise ValueError("a value comes from a value_model or from a value_head: give one of the two")
        self.policy = policy
        self.value_model = value_model
        self.value_head = value_head
        self.temperature = temperature

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("policy"), name)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        states: Tensor,
        targets: Tensor,
        valued: int | None = None,
        entropy: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Log-probabilities of the scored tokens, the entropy there if asked for, and the states' values.

        Args:
            input_ids, position_ids, states, targets: a `Packed` batch of n scored tokens.
            valued: only the first so many of them get a value; None is all.

        Returns:
            [n], [n] or None, and [valued], in fp32.
        """
        hidden = hidden_states(self.policy, input_ids, position_ids, states)
        logps, entropies = token_logps(self.policy, hidden, targets, self.temperature, entropy=entropy)
        head = self.value_model.score if self.value_model is not None else self.value_head
        if self.value_model is not None:
            hidden = hidden_states(self.value_model, input_ids, position_ids, states[:valued])
        elif self.has_value_adapter:
            with adapter(self.policy, VALUE_ADAPTER):
                hidden = hidden_states(self.policy, input_ids, position_ids, states[:valued])
        values = head(hidden[:valued].to(next(head.parameters()).dtype))
        return logps, entropies, values.squeeze(-1).float()

    @property
    def has_value_adapter(self) -> bool:
        """True if the value is an adapter on the policy's base."""
        return VALUE_ADAPTER in getattr(self.policy, "peft_config", {})

    def value_parameters(self) -> list[nn.Parameter]:
        """What only the value is made of."""
        own = [module for module in (self.value_model, self.value_head) if module is not None]
        adapted = [one for name, one in self.policy.named_parameters() if f".{VALUE_ADAPTER}." in name]
        return [parameter for module in own for parameter in module.parameters()] + adapted

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """Of both networks; what is computed again is computed under the adapter of the first time."""
        for model in (self.policy, self.value_model):
            if model is not None:
                model.activation_checkpointing_enable(activation_checkpointing_kwargs or None, **options)
        if self.has_value_adapter:
            for module in self.policy.modules():
                if hasattr(module, "_gradient_checkpointing_func"):
                    checkpoint = module._gradient_checkpointing_func
                    module._gradient_checkpointing_func = partial(checkpoint_under_adapter, self.policy, checkpoint)


def hidden_states(
    model: PreTrainedModel | PeftModel, input_ids: Tensor, position_ids: Tensor, states: Tensor
) -> Tensor:
    """The last layer's states at the places `states` of the flattened batch, [n, hidden]."""
    whole = model.get_base_model() if isinstance(model, PeftModel) else model
    backbone = getattr(whole, whole.base_model_prefix)
    output = backbone(input_ids=input_ids, position_ids=position_ids, use_cache=False)
    return output.last_hidden_state.flatten(0, 1)[states]
