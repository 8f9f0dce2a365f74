"""What PPO's trainer takes: TRL's online configuration, and the fields that are PPO's own."""

from dataclasses import dataclass, field

from trl.trainer.rloo_config import RLOOConfig


@dataclass
class PPOConfig(RLOOConfig):
    r"""
    Configuration class for the [`PPOTrainer`].

    All of [`~trl.RLOOConfig`]'s fields hold, under its names; where TRL's removed PPO had another name for one, it is
    given. A rollout is `generation_batch_size` completions, taken in `num_iterations` passes of minibatches of
    `per_device_train_batch_size * gradient_accumulation_steps * processes` completions, one optimizer step each.

    Parameters:
        > Rollout

        num_generations (`int`, *optional*, defaults to `1`):
            Completions a prompt.
        num_iterations (`int`, *optional*, defaults to `4`):
            Passes over a rollout (`num_ppo_epochs`).
        min_completion_length (`int`, *optional*):
            Tokens before a completion may end.
        stop_strings (`list[str]`, *optional*):
            Texts that end a completion, beside the EOS tokens.

        > Reward

        normalize_scores (`bool`, *optional*, defaults to `False`):
            Shift and scale scores by the running mean and standard deviation of all so far. Comes before
            `reward_clip_range`, which comes before the two penalties.
        missing_eos_penalty (`float`, *optional*):
            Taken from the score of a completion that did not end by itself.
        length_penalty (`float`, *optional*, defaults to `0.0`):
            Taken from the score for each token of the completion.
        beta (`float`, *optional*, defaults to `0.05`):
            KL coefficient (`kl_coef`, as it is in the metrics). `0.0` keeps measuring the KL and takes nothing.
        kl_estimator (`str`, *optional*, defaults to `"k1"`):
            `"k1"`: the log-ratio to the reference, taken from each token's reward. `"k3"`: never negative, added to
            the loss in place of the penalty.
        kl_target (`float`, *optional*):
            Move `beta` so that the KL of a completion, in nats, comes near this (Ziegler et al. 2019). `None` keeps
            it.
        kl_horizon (`int`, *optional*, defaults to `10000`):
            Episodes over which `beta` is moved.
        kl_budget (`float`, *optional*):
            Stop when a rollout's mean KL is above this, in nats a completion, with the weights as they were at the
            last rollout within it.
        whiten_rewards (`bool`, *optional*, defaults to `False`):
            Scale the rewards of a rollout's tokens to variance 1, over all processes.

        > Advantages and update

        gamma (`float`, *optional*, defaults to `1.0`):
            Discount factor.
        lam (`float`, *optional*, defaults to `0.95`):
            Lambda of generalized advantage estimation.
        normalize_advantages (`bool`, *optional*, defaults to `True`):
            Whiten a rollout's advantages over all processes.
        epsilon (`float`, *optional*, defaults to `0.2`):
            Clip of the policy's ratio (`cliprange`); `epsilon_high` is that above 1, where it differs.
        cliprange_value (`float`, *optional*, defaults to `0.2`):
            Clip of the value around its estimate at the rollout; `None` for none.
        vf_coef (`float`, *optional*, defaults to `0.1`):
            Weight of the value loss.
        entropy_coef (`float`, *optional*, defaults to `0.0`):
            Weight of the entropy bonus.
        value_learning_rate (`float`, *optional*):
            Of the value model; `None` is `learning_rate`.
        share_backbone (`bool`, *optional*, defaults to `False`):
            Read the value from the policy's own states with a linear head, in place of a value model.
        max_approx_kl (`float`, *optional*):
            Leave out the rest of a rollout's minibatches after one whose `policy/approxkl` is above this.
        ratio_threshold (`float`, *optional*, defaults to `10.0`):
            Stop with an error when a minibatch's mean ratio is above this.

        > Pretraining mix (Ouyang et al. 2022)

        ptx_coef (`float`, *optional*, defaults to `0.0`):
            Weight of the language-modeling loss on `ptx_dataset`.
        ptx_batch_size (`int`, *optional*, defaults to `4`):
            Texts in each micro-batch of each process.
        ptx_max_length (`int`, *optional*, defaults to `512`):
            Tokens of a text; the rest is cut off.

        > Speed

        padding_free (`bool`, *optional*, defaults to `True`):
            Lay the update's sequences side by side in rows. Models that let neighbours in a row see each other
            (state-space models, ALiBi) get a row for each sequence in any case.
    """

    num_generations: int = field(default=1, metadata={"help": "Completions a prompt."})
    num_iterations: int = field(default=4, metadata={"help": "Passes over a rollout."})
    min_completion_length: int | None = field(default=None, metadata={"help": "Tokens before a completion may end."})
    stop_strings: list[str] | None = field(
        default=None, metadata={"help": "Texts that end a completion, beside the EOS tokens."}
    )
    normalize_scores: bool = field(
        default=False, metadata={"help": "Shift and scale scores by the running moments of all so far."}
    )
    missing_eos_penalty: float | None = field(
        default=None, metadata={"help": "Taken from the score of a completion that did not end by itself."}
    )
    length_penalty: float = field(default=0.0, metadata={"help": "Taken from the score for each token."})
    kl_estimator: str = field(
        default="k1",
        metadata={"help": "k1: a penalty in each token's reward. k3: a term of the loss.", "choices": ["k1", "k3"]},
    )
    kl_target: float | None = field(default=None, metadata={"help": "KL of a completion that beta is moved towards."})
    kl_horizon: int = field(default=10_000, metadata={"help": "Episodes over which beta is moved."})
    kl_budget: float | None = field(default=None, metadata={"help": "KL of a completion at which training stops."})
    whiten_rewards: bool = field(default=False, metadata={"help": "Scale rewards to variance 1."})
    gamma: float = field(default=1.0, metadata={"help": "Discount factor."})
    lam: float = field(default=0.95, metadata={"help": "Lambda of generalized advantage estimation."})
    normalize_advantages: bool = field(default=True, metadata={"help": "Whiten a rollout's advantages."})
    cliprange_value: float | None = field(default=0.2, metadata={"help": "Clip of the value around its old estimate."})
    vf_coef: float = field(default=0.1, metadata={"help": "Weight of the value loss."})
    entropy_coef: float = field(default=0.0, metadata={"help": "Weight of the entropy bonus."})
    value_learning_rate: float | None = field(default=None, metadata={"help": "Learning rate of the value model."})
    share_backbone: bool = field(default=False, metadata={"help": "Read the value from the policy's own states."})
    max_approx_kl: float | None = field(
        default=None, metadata={"help": "Approximate KL after which the rest of a rollout's minibatches is left out."}
    )
    ratio_threshold: float = field(default=10.0, metadata={"help": "Mean ratio at which training stops."})
    ptx_coef: float = field(default=0.0, metadata={"help": "Weight of the language-modeling loss."})
    ptx_batch_size: int = field(default=4, metadata={"help": "Texts in each micro-batch of each process."})
    ptx_max_length: int = field(default=512, metadata={"help": "Tokens of a text."})
    padding_free: bool = field(default=True, metadata={"help": "Lay the update's sequences side by side in rows."})
    disable_dropout: bool = field(default=True, metadata={"help": "Whether to disable dropout."})

    def __post_init__(self) -> None:
        # RLOOConfig refuses one completion a prompt, which its leave-one-out baseline needs more of and PPO does not.
        super(RLOOConfig, self).__post_init__()
        if self.pad_to_multiple_of == "auto":
            self.pad_to_multiple_of = None
        if self.auto_find_batch_size:
            raise ValueError(
                "auto_find_batch_size would change the rollout; lower per_device_train_batch_size instead"
            )
        if self.sync_ref_model:
            raise ValueError(
                "sync_ref_model would move what the KL is measured from; PPO keeps its reference: leave it false"
            )
        if self.router_aux_loss_coef:
            raise ValueError("router_aux_loss_coef is no term of PPO's loss: leave it null or 0")
        if self.generation_batch_size is not None and self.steps_per_generation is not None:
            raise ValueError("generation_batch_size and steps_per_generation say the same: set one of them")
        batch = self.per_device_train_batch_size * self.world_size
        minibatch = batch * self.gradient_accumulation_steps
        if self.generation_batch_size is None:
            self.steps_per_generation = self.steps_per_generation or self.gradient_accumulation_steps
            self.generation_batch_size = batch * self.steps_per_generation
        if self.generation_batch_size % minibatch:
            raise ValueError(
                f"a rollout of {self.generation_batch_size} completions does not divide into minibatches of "
                f"{minibatch} (per_device_train_batch_size {self.per_device_train_batch_size} x "
                f"gradient_accumulation_steps {self.gradient_accumulation_steps} x {self.world_size} processes): set "
                f"generation_batch_size to a multiple of {minibatch}"
            )
        self.steps_per_generation = self.generation_batch_size // batch
        if self.generation_batch_size % self.num_generations:
            raise ValueError(
                f"a rollout of {self.generation_batch_size} completions does not divide into groups of "
                f"num_generations {self.num_generations}"
            )
        if self.kl_estimator not in ("k1", "k3"):
            raise ValueError(f"kl_estimator is {self.kl_estimator!r}, but takes k1 or k3")
        for name in ("kl_target", "kl_budget", "max_approx_kl"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, but takes nats above 0, or None for none")

    @property
    def steps_per_rollout(self) -> int:
        """Optimizer steps taken on one rollout."""
        return self.num_iterations * self.steps_per_generation // self.gradient_accumulation_steps
