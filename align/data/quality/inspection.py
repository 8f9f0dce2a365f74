"""Reads every outcome once and keeps what the report needs: counts, examples, 175 bytes a record (290 at its end)."""

import random
from array import array
from bisect import insort
from collections import Counter, defaultdict

import numpy as np

from align.data.layouts.annotations import beside, scores
from align.data.layouts.judged import JUDGED
from align.data.layouts.omissions import remarks
from align.data.layouts.parse import Outcome, reason
from align.data.quality import patterns
from align.data.quality.findings import ROWS, Tally
from align.data.quality.near_duplicates import ngram_hashes, signature, word_hashes
from align.data.quality.text_scan import ANSWERS, scan, scan_personal
from align.data.readers.row import Unreadable
from align.data.record_texts import column_texts, flat, record_hashes, role_problem, sides_of
from align.data.tools import uses_tools
from align.records import Content, Preference, Record, RecordError, Text, UnpairedPreference, columns_of

TOKEN_SAMPLE = 2000  # records that are tokenized
LANGUAGE_SAMPLE = 2000  # records whose language is guessed
SIGNED = 20_000  # characters of a record that its signature is made of
OPENINGS = 20_000  # different first words kept while counting
BENCHMARK_NGRAM = 13  # words in a row that nobody writes twice by chance


class Inspection:
    """Everything seen so far. `observe` each outcome, then hand it to `align.data.quality.report`."""

    def __init__(
        self,
        layout: str,
        *,
        one_file: bool = False,
        against: dict[str, np.ndarray] | None = None,
        ngram: int = BENCHMARK_NGRAM,
    ):
        self.layout, self.one_file = layout, one_file
        self.against, self.ngram = against or {}, ngram
        self.rows_in = self.rows_used = 0
        self.file_rows: Counter[str] = Counter()
        self.refused: dict[str, Tally] = defaultdict(Tally)
        self.found: dict[str, Tally] = defaultdict(Tally)
        self.splits: Counter[str] = Counter()
        self.languages: Counter[str] = Counter()
        self.openings: Counter[str] = Counter()
        self.labels: Counter[bool] = Counter()
        self.kind: str | None = None
        self.turns: Counter[int] = Counter()  # messages of a prompt, or of a whole conversation
        self.earlier = 0  # prompts with an answer in them
        self.margins = self.answers = 0
        # annotators: outcomes a row; positions: 1 the first shown won, 2 the second
        self.votes: list[tuple[int, ...]] = []
        self.positions: Counter[int] = Counter()
        # a record each, in the order seen
        self.files: list[str] = []
        self.file = array("H")
        self.row = array("Q")
        self.is_eval = array("B")
        self.prompts = array("Q")
        self.whole = array("Q")
        self.pair = array("Q")  # the same for a pair and for the same pair turned round
        self.side_lengths: dict[str, array] = {}
        self.scores: dict[str, array] = {}  # a reward model's; of an answer alone under good, bad or completion
        self.disagreements: list[tuple[float, str, str]] = []  # (margin, place, text): the worst, where it is negative
        self.signatures = bytearray()  # a SIGNATURE each
        self.sample: list[Record] = []  # evenly drawn, for what is too slow to do with all
        self.columns: Counter[str] = Counter()  # records that have each
        self.not_carried: dict[str, str] = {}  # column that was not read and no record keeps -> why
        self._draw = random.Random(0)
        self._scanned = ("", "")

    # -- seeing -----------------------------------------------------------------------------------------------------

    def observe(self, outcome: Outcome, split: str = "train") -> None:
        """One row and what became of it."""
        self.rows_in += outcome.rows
        self.file_rows[outcome.file] += outcome.rows
        place = self._place(outcome.file, outcome.row)
        if outcome.refusal is not None:
            why = reason(outcome.refusal)
            if why not in self.refused and len(self.refused) >= 40:
                why = "other reasons"
            tally = self.refused[why]
            tally.add(place, f"{outcome.refusal.field or 'row'} {outcome.refusal.why}"[:200])
            tally.count += outcome.rows - 1
        else:
            self.rows_used += outcome.rows
        if outcome.rows and outcome.records and isinstance(outcome.raw, dict):
            for name, told in remarks(self.layout, outcome.raw, outcome.records[0].format):
                self.found[name].add(place)
                self.found[name].sides += told
        if outcome.rows and self.layout in JUDGED and not isinstance(outcome.raw, Unreadable):
            self._judgements(outcome)
        kept = beside(outcome.raw)
        self.not_carried |= outcome.not_carried
        for record in outcome.records:
            self._record(record, outcome.file, outcome.row, split == "eval")
            if kept:
                self._scores(scores(kept, record), record, place)

    def _judgements(self, outcome: Outcome) -> None:
        try:
            judged = JUDGED[self.layout](outcome.raw)
        except RecordError:
            return
        for verdict in judged.verdicts:
            self.found["verdicts"].count += 1
            if len(verdict.votes) > 1:
                self.votes.append(verdict.votes)
            if verdict.outcome == 0:
                self.found["ties"].add(self._place(outcome.file, outcome.row))
                self.found["ties"].sides["pairs"] += 1
            else:
                self.positions[verdict.outcome] += 1

    def _scores(self, scored: dict[str, float], record: Record, place: str) -> None:
        for side, score in scored.items():
            if isinstance(record, UnpairedPreference):
                side = "good" if record.label else "bad"
            self.scores.setdefault(side, array("d")).append(score)
        if "chosen" in scored and (margin := scored["chosen"] - scored["rejected"]) < 0:
            text = f"{margin:+.2f}  chosen: {patterns.snippet(flat(record.chosen))}"
            insort(self.disagreements, (margin, place, text))
            del self.disagreements[ROWS:]

    def _record(self, record: Record, file: str, row: int, is_eval: bool) -> None:
        place = self._place(file, row)
        if not self.files or self.files[-1] != file:
            self.files.append(file)
        sides = sides_of(record)
        texts = {side: flat(content) for side, content in sides.items()}
        self.splits["eval" if is_eval else "train"] += 1
        self.file.append(len(self.files) - 1)
        self.row.append(row)
        self.is_eval.append(is_eval)
        self.kind = self.kind or ("standard" if isinstance(next(iter(sides.values())), str) else "conversational")
        for side, text in texts.items():
            lengths = self.side_lengths.setdefault(side, array("I"))
            lengths.append(min(len(text), 2**32 - 1))
            if (place, text) != self._scanned:  # answers to one prompt come one after the other
                self._text(text, side, place)
        if "prompt" in texts:
            self._scanned = (place, texts["prompt"])
        for name, text in column_texts(record).items():
            for what, example in scan_personal(text):
                self.found[what].add(place, f"column {name}: {example}", name)
        self.columns.update(columns_of(record).keys())
        if uses_tools(record):
            self.found["tools"].add(place)
        if isinstance(record, UnpairedPreference):
            self.labels[record.label] += 1
        if isinstance(record, Preference):
            self.margins += record.margin is not None
        self._hashes(record)
        self._structure(record, sides, texts, place)
        self._words("\n".join(texts.values()), place)
        seen = len(self.row)
        if len(self.sample) < TOKEN_SAMPLE:
            self.sample.append(record)
        elif (drawn := self._draw.randrange(seen)) < TOKEN_SAMPLE:
            self.sample[drawn] = record
        if seen <= LANGUAGE_SAMPLE:
            self.languages[patterns.language_of(texts.get("prompt") or next(iter(texts.values())))] += 1

    def _text(self, text: str, side: str, place: str) -> None:
        for name, example in scan(text, side, self.kind == "conversational"):
            self.found[name].add(place, f"{side}: {example}", side)
        if side in ANSWERS:
            self.answers += 1
            opening = patterns.opening_of(text)
            if opening in self.openings or len(self.openings) < OPENINGS:
                self.openings[opening] += 1

    def _hashes(self, record: Record) -> None:
        prompt, whole, pair = record_hashes(record)
        self.prompts.append(prompt)
        self.whole.append(whole)
        self.pair.append(pair)

    def _structure(self, record: Record, sides: dict[str, Content], texts: dict[str, str], place: str) -> None:
        content = sides.get("prompt", sides.get("text"))
        if isinstance(content, list):
            self.turns[len(content)] += 1
            self.earlier += any(message["role"] == "assistant" for message in content)
            whole = content + next((sides[side] for side in ("completion", "chosen") if side in sides), [])
            if problem := role_problem(whole):
                self.found["role_order"].add(place, problem)
        question = content if isinstance(content, str) else flat(content[-1:])
        for side in ANSWERS:
            answer = texts.get(side)
            if answer is None or isinstance(record, Text):
                continue
            if patterns.is_long(question) and question.strip() in answer:
                self.found["prompt_in_answer"].add(place, f"{side}: {patterns.snippet(answer)}", side)
            elif patterns.is_long(answer) and answer.strip() in texts["prompt"]:
                self.found["answer_in_prompt"].add(place, f"{side}: {patterns.snippet(answer)}", side)

    def _words(self, text: str, place: str) -> None:
        words = word_hashes(text if self.against else text[:SIGNED])
        self.signatures += signature(words[:4096]).tobytes()
        if self.against:
            grams = ngram_hashes(words, self.ngram)
            for name, known in self.against.items():
                hits = np.isin(grams, known, kind="sort") if len(grams) else grams
                if hits.any():
                    first = int(np.flatnonzero(hits)[0])
                    words = patterns.words_of(text)[first : first + self.ngram]
                    self.found[f"benchmark {name}"].add(place, patterns.snippet(patterns.joined(words)))

    # -- what was seen ----------------------------------------------------------------------------------------------

    def place(self, record: int) -> str:
        """`file:row` of a record, by its position; `row` where there is one file."""
        return self._place(self.files[self.file[record]], self.row[record])

    def _place(self, file: str, row: int) -> str:
        return str(row) if self.one_file else f"{file}:{row}"

    def lengths(self, side: str) -> np.ndarray:
        """Characters of that side, a number a record."""
        return (
            np.frombuffer(self.side_lengths[side], np.uint32) if side in self.side_lengths else np.zeros(0, np.uint32)
        )
