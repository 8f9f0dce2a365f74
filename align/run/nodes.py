"""Several nodes: what the main process decided, checked and found again on every other one.

The store is on a disk that all nodes see. Nothing else needs to be: each node finds the main process's inputs in its
own Hugging Face cache (or fetches that commit) and at its own paths, and compares their digests, its data, its code
files and its packages with the main process's.
"""

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from align.artifacts.inputs import Input, resolve_input
from align.artifacts.manifest import json_digest
from align.artifacts.provenance import numeric_packages
from align.artifacts.store import Store
from align.config.identity import identity_config
from align.distributed import ranks
from align.errors import UserError
from align.run.plan import Plan, resolve_data
from align.runs.record import RECORD_FILE


@dataclass(frozen=True)
class Facts:
    """What the main process tells of its node."""

    host: str
    root: str  # of the store
    record: bytes  # of the run, in the store: by it another node knows that it sees the same disk
    config: str  # digest of the config that computes, with the code files that it names
    packages: dict[str, str]


def agree(plan: Plan, store: Store) -> tuple[Plan, Store]:
    """The main process's plan and store as this node has them; unchanged where there is one node.

    Raises:
        UserError: on every process alike, if one node lacks something or has something else, by its name.
    """
    if ranks.nodes() == 1:
        return plan, store
    facts = ranks.share(_facts(plan, store) if ranks.is_main() else None)
    own, problem = None, None
    if ranks.is_first_of_host() and ranks.node() != 0:
        try:
            own = _on_this_node(plan, facts)
        except UserError as error:
            problem = f"node {os.uname().nodename}: {error}"
    answers = ranks.gather((ranks.node(), own, problem))
    problems = [text for _, _, text in answers if text is not None]
    if problems:
        raise UserError(problems[0])
    mine = next((inputs for node, inputs, _ in answers if node == ranks.node() and inputs is not None), plan.inputs)
    cfg = plan.cfg
    if not ranks.is_main():  # the main process publishes its config as the user wrote it
        cfg = copy.deepcopy(cfg)
        cfg.artifacts.root = facts.root
        store = Store(Path(facts.root))
    return replace(plan, cfg=cfg, inputs=mine), store


def _facts(plan: Plan, store: Store) -> Facts:
    return Facts(
        host=os.uname().nodename,
        root=str(store.root.absolute()),
        record=(store.runs_root / plan.identity / RECORD_FILE).read_bytes(),
        config=json_digest(identity_config(plan.cfg)),
        packages=_packages(plan),
    )


def _packages(plan: Plan) -> dict[str, str]:
    return numeric_packages(
        deepspeed=plan.cfg.deepspeed.config is not None, quantized=plan.cfg.adapter.kind == "qlora"
    )


def _on_this_node(plan: Plan, facts: Facts) -> dict[str, Any]:
    """Role -> input, found on this node.

    Raises:
        UserError: something is missing here, or is not what the main process has.
    """
    _check_store(plan, facts)
    for name, version in (_packages(plan) | dict.fromkeys(facts.packages.keys() - _packages(plan))).items():
        if version != facts.packages.get(name):
            raise UserError(
                f"{name} is {version or 'not installed'} here and {facts.packages.get(name) or 'not installed'} on "
                f"{facts.host}; install the same packages on every node: pip install -c constraints.txt ."
            )
    if json_digest(identity_config(plan.cfg)) != facts.config:
        raise UserError(
            f"a file that the config names (a judge, reward functions, a chat template) is not the same as on "
            f"{facts.host}; put the checkout on a shared disk, or copy it to every node"
        )
    store = Store(Path(facts.root))
    inputs = _map_inputs(plan.inputs, lambda role, given: _find(role, given, plan, store, facts))
    records = resolve_data(copy.deepcopy(plan.cfg), inputs.get("dataset"))
    for format, record in plan.data.items():
        if records.get(format, {}).get("digest") != record["digest"]:
            raise UserError(
                f"the files of data.{format} are not the same as on {facts.host}; put them on a shared disk, or copy "
                "them to every node"
            )
    return inputs


def _check_store(plan: Plan, facts: Facts) -> None:
    file = Store(Path(facts.root)).runs_root / plan.identity / RECORD_FILE
    try:
        same = file.read_bytes() == facts.record
    except OSError:
        same = False
    if not same:
        raise UserError(
            f"the store {facts.root} of {facts.host} is not seen here; name a folder on a disk that all nodes share: "
            "artifacts.root=<folder>, or ALIGN_ARTIFACTS"
        )


def _find(role: str, given: Input, plan: Plan, store: Store, facts: Facts) -> Input:
    """An input of the main process on this node, with its own path."""
    code = plan.cfg.model.trust_remote_code
    options = {"repo_type": "dataset"} if role == "dataset" else {"code": code}
    own = resolve_input(store, given.ref, **options)
    if own.digest != given.digest:
        raise UserError(f"{role} {given.ref} is not the same as on {facts.host}; copy it to every node, or share it")
    return replace(given, path=own.path, manifest=own.manifest)


def _map_inputs(inputs: dict[str, Any], find: Callable[[str, Input], Input]) -> dict[str, Any]:
    """Role -> inputs of a plan, each one replaced."""
    found: dict[str, Any] = {}
    for role, held in inputs.items():
        if isinstance(held, dict):
            found[role] = {ref: find(role, given) for ref, given in held.items()}
        elif isinstance(held, list):
            found[role] = [find(role, given) for given in held]
        else:
            found[role] = find(role, held)
    return found
