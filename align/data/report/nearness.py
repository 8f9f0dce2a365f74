"""Which of many texts are nearly the same: MinHash signatures of word triples, 256 bytes a text.

Measured on one core against `rensa` 0.5 (Rust) on transcripts of 1,300 characters: 103 against 104 microseconds a text
with equal error, since most of it is splitting words; so numpy alone does. (`datasketch` would bring SciPy.)
"""

import zlib
from collections.abc import Iterable

import numpy as np

SIZE = 64  # hashes of 4 bytes a signature
BANDS = 16  # of 4 hashes: texts that share 8 of 10 triples meet in a band with a chance of 0.9998
THRESHOLD = 0.8  # estimated share of common triples from which two texts count as nearly the same
CROWD = 200  # texts of one band that are compared with its first one
_ODD = np.random.default_rng(20240229).integers(1, 2**63, (SIZE, 1), dtype=np.uint64) | np.uint64(1)
_SHIFT = np.random.default_rng(19690720).integers(0, 2**63, (SIZE, 1), dtype=np.uint64)
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))


def word_hashes(text: str) -> np.ndarray:
    """A hash a word, or a character in scripts without spaces."""
    words = text.lower().split()
    if len(words) * 20 < len(text):
        words = [character for character in text if not character.isspace()]
    return np.fromiter((zlib.crc32(word.encode()) for word in words), np.uint64, len(words))


def ngram_hashes(words: np.ndarray, n: int) -> np.ndarray:
    """A hash for every `n` words in a row; none where there are fewer."""
    if len(words) < n:
        return words[:0]
    grams = np.zeros(len(words) - n + 1, np.uint64)
    with np.errstate(over="ignore"):
        for offset in range(n):
            grams = (grams ^ words[offset : offset + len(grams)]) * _MIX[0]
            grams ^= grams >> np.uint64(29)
    return grams


def benchmark_grams(texts: Iterable[str], ngram: int) -> np.ndarray:
    """The n-grams of a benchmark's texts, sorted."""
    grams = [ngram_hashes(word_hashes(text), ngram) for text in texts]
    return np.unique(np.concatenate(grams)) if grams else np.zeros(0, np.uint64)


def signature(words: np.ndarray) -> np.ndarray:
    """The MinHash signature (SIZE hashes of 4 bytes) of a text's word triples."""
    grams = ngram_hashes(words, min(3, len(words))) if len(words) else np.zeros(1, np.uint64)
    with np.errstate(over="ignore"):
        return ((_ODD * grams + _SHIFT) >> np.uint64(32)).min(axis=1).astype(np.uint32)


def near_groups(signatures: np.ndarray) -> list[list[int]]:
    """Groups of two and more indices whose texts are nearly the same as another of the group, the largest first."""
    parent = list(range(len(signatures)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    rows = SIZE // BANDS
    for band in range(BANDS):
        part = signatures[:, band * rows : (band + 1) * rows].astype(np.uint64)
        key = np.zeros(len(part), np.uint64)
        with np.errstate(over="ignore"):
            for column in range(rows):
                key = (key ^ part[:, column]) * _MIX[1]
        order = np.argsort(key, kind="stable")
        edges = np.flatnonzero(np.diff(key[order])) + 1
        starts, ends = np.concatenate(([0], edges)), np.concatenate((edges, [len(order)]))
        for start, end in zip(starts[ends - starts > 1], ends[ends - starts > 1], strict=True):
            met = order[start : min(end, start + CROWD)]
            alike = (signatures[met] == signatures[met[0]]).mean(axis=1) >= THRESHOLD
            first = root(int(met[0]))
            for index in met[alike][1:]:
                parent[root(int(index))] = first
    groups: dict[int, list[int]] = {}
    for index in range(len(parent)):
        if (top := root(index)) != index or parent[index] != index:
            groups.setdefault(top, [top]).append(index)
    return sorted((sorted(set(group)) for group in groups.values()), key=lambda group: (-len(group), group[0]))
