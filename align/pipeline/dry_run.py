"""What a run would do and why, without doing it: `--dry-run` of a pipeline."""

from typing import Any

from align.artifacts import checkpoints, run_lock
from align.artifacts.config_file import read_settings
from align.artifacts.store import Store
from align.artifacts.text import printable, shorten
from align.artifacts.verification import read_file
from align.artifacts.version import Version
from align.config.compose import public
from align.config.identity import counts, identity_config
from align.errors import UserError
from align.run.plan import Plan

_SHOWN = 3  # differences that are named
_ERROR = 120  # characters of an error


def forecast(plan: Plan, store: Store) -> str:
    """`is running`, `resumes` or `runs`, and the reason, of a plan that is not done."""
    run_dir = store.runs_root / plan.identity
    holder = run_lock.read_holder(run_dir)
    if holder is not None and run_lock.is_held(run_dir):
        return f"is running: process {holder.pid} on {holder.host} has it since {holder.since}"
    whole = checkpoints.all_whole(run_dir / "checkpoints")
    if whole:
        return f"resumes after step {max(whole)}: {_ended(holder)}"
    if plan.published:
        return f"runs, because force=true, beside {plan.published[-1].ref}"
    return f"runs: {_why(plan, store)}"


def _ended(holder: run_lock.Holder | None) -> str:
    words = {
        run_lock.STOPPED: "it was stopped",
        run_lock.INTERRUPTED: "it was interrupted",
        run_lock.FAILED: "it failed",
    }
    if holder is None:
        return "it was left half done"
    why = f": {shorten(printable(holder.error), _ERROR)}" if holder.error else ""
    return words.get(holder.state, "its process died") + why


def _why(plan: Plan, store: Store) -> str:
    """What is new against the last version of that name, if there is one."""
    name = plan.cfg.name
    numbers = store.numbers(name)
    if not numbers:
        return f"there is no {name} yet"
    last = store.version(name, numbers[-1])
    differ = differences(plan, last)
    if not differ:
        return f"{last.ref} was made with other packages, code or processes"
    more = f" and {len(differ) - _SHOWN} more" if len(differ) > _SHOWN else ""
    return f"not as {last.ref} was: {'; '.join(differ[:_SHOWN])}{more}"


def differences(plan: Plan, version: Version) -> list[str]:
    """What of a plan's inputs and config is another in a version: `trainer.beta 0.1 -> 0.05`."""
    found = []
    theirs = dict(version.manifest.each_input())
    for role, record in _each(plan.to_manifest()):
        before = theirs.get(role)
        if before is None or before["ref"] != record["ref"]:
            found.append(f"{role} {before['ref'] if before else '-'} -> {record['ref']}")
        elif before["digest"] != record["digest"] and not _same_rows(before, record):
            found.append(f"{role} {record['ref']} has changed")
    matters = set(identity_config(plan.cfg))
    now = _flat(public(plan.cfg), matters)
    try:
        then = _flat(read_settings(read_file(version, "config.yaml")), matters)
    except UserError:
        return found
    keys = dict.fromkeys([*now, *then])
    return found + [
        f"{key} {then.get(key, '-')} -> {now.get(key, '-')}"
        for key in keys
        if counts(key) and now.get(key) != then.get(key)
    ]


def _same_rows(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether a dataset is of the same files, or commit: how they are read then differs, which the config tells."""
    splits = [split for split in ("train", "eval") if split in before and split in now]
    return bool(splits) and all(before[split] == now[split] for split in splits)


def _each(inputs: dict[str, Any]) -> list[tuple[str, dict]]:
    return [(role, one) for role, given in inputs.items() for one in (given if isinstance(given, list) else [given])]


def _flat(config: dict[str, Any], blocks: set[str], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of the blocks of a config that can change a number."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if not prefix and key not in blocks:
            continue
        if isinstance(value, dict) and value:
            found |= _flat(value, blocks, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
