"""`align init`: a small project of the user's own, outside any checkout of align."""

from pathlib import Path

from align.errors import UserError

_EXPERIMENT = """\
# @package _global_
# DPO on this project's own pairs: align run --config-dir conf experiment=my_dpo
defaults:
  - override /stage: dpo
  - override /data: local
data:
  preference: {train: data/pairs.jsonl, eval_fraction: 0.25}
trainer:
  learning_rate: 1.0e-4
  num_train_epochs: 3
  per_device_train_batch_size: 4
  gradient_accumulation_steps: 1
  max_length: 128
  activation_checkpointing: false
"""
_PIPELINE = """\
# From random weights to DPO on this project's own data: align pipeline --config-dir conf pipeline=mine
# Begin from a model of your own instead: leave the step pretrain out, and give sft.model.source=hf:org/model.
steps:
  pretrain:
    overrides: [stage=pretrain, model=tiny_gpt2, data=demo, trainer.max_steps=60, trainer.learning_rate=2e-3,
                trainer.per_device_train_batch_size=16, trainer.gradient_accumulation_steps=1]
  sft:
    overrides: [stage=sft, data=local, data.prompt_completion.train=data/answers.jsonl,
                data.prompt_completion.eval_fraction=0.25, model.chat_template=conf/model/chat.jinja]
    inputs: {policy: pretrain}
  dpo:
    overrides: [experiment=my_dpo]
    inputs: {policy: sft}
  evaluate:
    overrides: [stage=evaluate, data=local, data.preference.eval=data/pairs.jsonl,
                evaluate.judge='judge.py:judge', evaluate.max_new_tokens=16]
    inputs: {policy: [dpo], baseline: sft}
"""
_JUDGE = '''\
"""How good an answer is, for `evaluate`: here, whether it is a short, polite sentence. Replace it by your own."""


def judge(prompt, completion: str) -> float:
    """A score from 0 to 1."""
    polite = any(word in completion.lower() for word in ("please", "thank", "glad", "happy"))
    return 0.5 * polite + 0.5 * (0 < len(completion.split()) <= 20)
'''
_README = """\
# {name}

A project made by `align init`. It runs as it is, on a CPU:

    align pipeline --config-dir conf pipeline=mine --dry-run   # what would run, and on which data
    align pipeline --config-dir conf pipeline=mine             # pretrain, sft, dpo, evaluate
    align run --config-dir conf experiment=my_dpo trainer.beta=0.05
    align artifacts ls

- `conf/` holds your own recipes. Every group of align's configs (stage, model, data, adapter, deepspeed, experiment,
  pipeline, ...) may have a folder here; a file here is found before one of the same name that align brings along.
  `export ALIGN_CONF=$PWD/conf` saves typing `--config-dir conf`.
- `data/` holds your data. `align data check data/pairs.jsonl` says what it is and whether it is sound.
- `judge.py` scores answers for the evaluation.
- Models and reports go to `artifacts/`, as immutable versions.
"""
_PAIRS = [
    (
        "How do I reset my password?",
        "Open Settings, then Account. I am happy to walk you through it.",
        "Figure it out.",
    ),
    ("Can you help me with my order?", "I am glad to help. What is the order number?", "No."),
    ("Where is the invoice?", "It is under Billing. Please tell me if it is missing.", "Somewhere."),
    ("Is the shop open on Sunday?", "Yes, from ten to four. Thank you for asking.", "Look it up."),
    ("My parcel is late.", "I am sorry. Please give me the tracking number.", "Wait."),
    ("How do I cancel?", "Under Account, choose Cancel. Thank you for trying it.", "You cannot."),
    ("Do you ship abroad?", "Yes, to most countries. I am happy to check yours.", "Maybe."),
    ("Can I change the address?", "Yes, until it ships. Please send me the new one.", "Too late."),
]


def init_project(folder: str) -> str:
    """Write a project that runs as it is: an experiment, a pipeline, data and a judge; what to type next.

    Raises:
        UserError: the folder holds something already, or cannot be written.
    """
    root = Path(folder).expanduser()
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"{folder} exists already; name a folder that does not exist yet, or is empty")
    import json

    answers = [{"prompt": prompt, "completion": chosen} for prompt, chosen, _ in _PAIRS]
    pairs = [{"prompt": prompt, "chosen": chosen, "rejected": rejected} for prompt, chosen, rejected in _PAIRS]
    files = {
        "README.md": _README.format(name=root.resolve().name),
        "conf/experiment/my_dpo.yaml": _EXPERIMENT,
        "conf/pipeline/mine.yaml": _PIPELINE,
        "data/answers.jsonl": "".join(json.dumps(row) + "\n" for row in answers),
        "data/pairs.jsonl": "".join(json.dumps(row) + "\n" for row in pairs),
        "judge.py": _JUDGE,
        ".gitignore": "artifacts/\nwandb/\n",
    }
    try:
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror or error}); name another folder") from error
    return f"made {folder}; next: cd {folder} && align pipeline --config-dir conf pipeline=mine"
