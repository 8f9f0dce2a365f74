"""Findings about repetition: duplicates, contradictions, overlap of train and eval, overlap with a benchmark."""

from typing import Any

import numpy as np

from align.data.quality.findings import Finding, find
from align.data.quality.inspection import Inspection
from align.data.quality.near_duplicates import SIGNATURE, near_groups


def duplicate_findings(seen: Inspection, findings: list[Finding], statistics: dict[str, Any]) -> None:
    records = len(seen.row)
    if not records:
        return
    whole, pair, prompts = (np.frombuffer(one, np.uint64) for one in (seen.whole, seen.pair, seen.prompts))
    statistics["distinct prompts"] = len(np.unique(prompts))
    statistics["near duplicates"] = f"by MinHash, {SIGNATURE.itemsize} bytes of memory per record"
    again = _repeats(whole)
    if len(again):
        firsts = [int(np.flatnonzero(whole == whole[i])[0]) for i in again[:5]]
        examples = tuple(
            (seen.place(int(i)), f"the same as {seen.place(first)}") for i, first in zip(again, firsts, strict=False)
        )
        findings.append(
            Finding(
                "exact_duplicates",
                "warning",
                len(again),
                records,
                "records that repeat an earlier one word for word: they count twice, and may be in both train "
                "and eval",
                "",
                tuple(seen.place(int(i)) for i in again[:50]),
                examples,
            )
        )
    _contradictions(seen, whole, pair, findings)
    unique = np.setdiff1d(np.arange(records), _repeats(pair), assume_unique=True)
    signatures = np.frombuffer(seen.signatures, SIGNATURE)
    groups = near_groups(signatures if len(unique) == records else signatures[unique])
    if groups:
        members = [int(unique[i]) for group in groups for i in group[1:]]
        examples = tuple(
            (seen.place(int(unique[group[1]])), f"nearly {seen.place(int(unique[group[0]]))}, {len(group)} alike")
            for group in groups[:5]
        )
        share = len(members) / records
        findings.append(
            Finding(
                "near_duplicates",
                "warning" if share > 0.1 else "info",
                len(members),
                records,
                "records that share 8 in 10 triples of words (of characters, in scripts without spaces) with an "
                f"earlier one, in {len(groups)} groups (MinHash)",
                "look at them: a dataset built from a few templates teaches those templates",
                tuple(seen.place(i) for i in sorted(members)[:50]),
                examples,
            )
        )


def _repeats(hashes: np.ndarray) -> np.ndarray:
    """The indices, in order, of what an earlier one equals."""
    order = np.argsort(hashes, kind="stable")
    return np.sort(order[1:][hashes[order[1:]] == hashes[order[:-1]]])


def _contradictions(seen: Inspection, whole: np.ndarray, pair: np.ndarray, findings: list[Finding]) -> None:
    """The same pair with the sides turned round, or one answer that is both good and bad."""
    if not seen.labels and "chosen" not in seen.side_lengths:
        return
    order = np.lexsort((np.arange(len(pair)), pair))
    starts = np.flatnonzero(np.concatenate(([True], pair[order][1:] != pair[order][:-1])))
    groups = [group for group in np.split(order, starts[1:]) if len(group) > 1 and len(set(whole[group])) > 1]
    if not groups:
        return
    groups.sort(key=lambda group: group[0])
    records = sorted(int(record) for group in groups for record in group)
    examples = []
    for group in groups[:5]:
        other = next(record for record in group if whole[record] != whole[group[0]])
        examples.append((seen.place(int(other)), f"against {seen.place(int(group[0]))}"))
    findings.append(
        Finding(
            "contradictions",
            "error" if len(records) >= 0.01 * len(whole) else "warning",
            len(records),
            len(whole),
            f"records that contradict each other about the same answers, in {len(groups)} "
            f"{'group' if len(groups) == 1 else 'groups'}",
            "leave out every record of such a group, or ask again",
            tuple(seen.place(record) for record in records[:50]),
            tuple(examples),
        )
    )


def split_findings(seen: Inspection, findings: list[Finding]) -> None:
    is_eval = np.frombuffer(seen.is_eval, np.uint8).astype(bool)
    if is_eval.any() and not is_eval.all():
        prompts = np.frombuffer(seen.prompts, np.uint64)
        shared = np.flatnonzero(is_eval & np.isin(prompts, prompts[~is_eval]))
        if len(shared):
            findings.append(
                Finding(
                    "eval_overlap",
                    "error",
                    len(shared),
                    int(is_eval.sum()),
                    "eval records whose prompt is also in train, so they do not measure performance on new prompts",
                    "hold out by prompt, as an import without --eval does, or leave them out of train",
                    tuple(seen.place(int(i)) for i in shared[:50]),
                )
            )
    for name in seen.against:
        tally = seen.found.get(f"benchmark {name}")
        if tally and tally.count:
            findings.append(
                find(
                    tally,
                    f"overlap_{name}",
                    "error",
                    len(seen.row),
                    f"records that share {seen.ngram} consecutive words with {name}: a score on it would be too high",
                    "leave them out, with the same --against files",
                )
            )
