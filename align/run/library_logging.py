"""What libraries tell everybody and nobody can act upon, kept silent."""

import logging
import os
import warnings

# Telemetry of libraries is off unless the user has said otherwise, and a trainer's own progress bars with it.
QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "WANDB_ERROR_REPORTING": "false",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}


def hush() -> None:
    """Silence what libraries tell everybody and nobody can act upon; what the user has set stands."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    # bitsandbytes looks for an optional CPU kernel whenever PEFT imports it.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    # What libraries still call each other by: TRL 1.16 in transformers, DeepSpeed in torch.
    warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing", FutureWarning, "transformers.modeling_utils")
    warnings.filterwarnings("ignore", "", FutureWarning, "torch.distributed")
    # PEFT on a GPT-2 tells that it has set an option by itself.
    warnings.filterwarnings("ignore", "fan_in_fan_out is set to False", UserWarning)
