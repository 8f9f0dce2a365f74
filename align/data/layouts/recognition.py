"""How to read the rows of a source: detected from a sample, with every part of the mapping checked."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from align.data.layouts.detect import SAMPLE, UndefinedLabels, recognise
from align.data.layouts.formats import LAYOUTS
from align.data.layouts.mapping import MappingError, Names, label_columns, speakers
from align.data.layouts.parse import Outcome, Reading, outcomes_of, prepare, prepared_rows, read_outcomes
from align.data.layouts.unread import ColumnUse
from align.data.layouts.verdicts import Mapped, label_text
from align.data.readers.files import Source
from align.data.readers.row import Unreadable
from align.errors import UserError
from align.records import Prompt, RecordError, columns_of, shown

MOST = 100_000  # rows searched for what a mapping names

Sample = list[tuple[int, Any]]


def recognise_source(
    source: Source,
    *,
    layout: str | None = None,
    names: Names = Names(),  # noqa: B008 (frozen)
    wanted: str | None = None,
    keep: Sequence[str] | None = None,
) -> Reading:
    """How to read the rows of `source`: what is not given is detected from its first rows.

    Raises:
        UserError: no layout fits.
        MappingError: `names` names what is not ours, what no row has, or what the layout does not read.
        UndefinedLabels: nothing says which answer a label prefers.
    """
    names.check(kept=keep or ())
    keep = None if keep is None else tuple(keep)
    if layout is not None and layout not in LAYOUTS:
        raise UserError(f"layout {layout!r} is not known: write one of {', '.join(LAYOUTS)}")
    if source.format is not None and layout is None:
        reading = Reading("trl", wanted or source.format, names, "a dataset artifact's own", keep)
        check_mapping(source, reading)
        return reading
    _check_words(source, names)
    sample = _sample(source, names)
    rows = [row for _, row in sample]
    try:
        found = recognise(rows, source.name, wanted=wanted, layout=layout)
    except UndefinedLabels as error:  # again, with the labels of every row
        raise UndefinedLabels(source.name, prepared_rows(source, names), error.layout, error.column) from None
    reading = Reading(found.layout, found.format, names, found.why, keep)
    _check_use(source, reading, sample)
    return reading


def check_mapping(source: Source, reading: Reading) -> None:
    """Check that rows have what the mapping of `reading` names, and that its layout reads it.

    Raises:
        MappingError: a part of the mapping would have no effect.
    """
    _check_words(source, reading.names)
    if reading.names.columns or reading.names.labels:
        _check_use(source, reading, _sample(source, reading.names))


def _check_words(source: Source, names: Names) -> None:
    if names.labels:
        _check_labels(source, names)
    if names.roles:
        _check_roles(source, names)


def _check_use(source: Source, reading: Reading, sample: Sample) -> None:
    names = reading.names
    if not (names.columns or names.labels):
        return
    unread = _unread(source, reading, sample)
    if unread and (natural := _natural_format(sample, reading)) != reading.format:
        # a mapping may describe whole rows, of which only the prompts are wanted
        unread &= _unread(source, replace(reading, format=natural), sample)
    if fields := sorted(unread & names.columns.keys()):
        mapping = ", ".join(f"{field}={names.columns[field]}" for field in fields)
        raise MappingError(
            f"{source.name}: columns {mapping}: rows have the layout {reading.layout}, which does not read "
            f"{' and '.join(fields)}; map a field that it reads (see align data rules), choose another layout, or "
            "remove this mapping"
        )
    columns = {column for _, row in sample for column in label_columns(row, Mapped)}
    if names.labels and columns and columns <= unread:
        raise MappingError(
            f"{source.name}: labels {_words(names.labels)}: column {', '.join(sorted(columns))} holds them, and rows "
            f"have the layout {reading.layout}, which reads no label there; choose another layout, or map the column "
            "with label=<column>"
        )


def _sample(source: Source, names: Names) -> Sample:
    """The first rows that can be read, and where there are none, the first that cannot.

    A mapping may fit later rows only: rows of another kind before them are skipped.
    """
    readable: Sample = []
    broken: Sample = []
    for count, (number, row) in enumerate(source.rows()):
        row = prepare(row, names)
        if isinstance(row, RecordError | Unreadable):
            broken.append((number, Unreadable(str(row)) if isinstance(row, RecordError) else row))
            del broken[SAMPLE:]
        else:
            readable.append((number, row))
        if len(readable) == SAMPLE or count == MOST:
            break
    return readable or broken


def _outcomes(source: Source, reading: Reading, sample: Sample) -> Iterable[Outcome]:
    if reading.layout == "message_tree":  # a flat list of messages is gathered into trees first
        return read_outcomes([replace(source, first=SAMPLE)], reading)
    return outcomes_of(source.name, sample, replace(reading, names=Names()))  # the mapping is applied already


def _unread(source: Source, reading: Reading, sample: Sample) -> set[str]:
    """The columns, by our names, that no record of the sample uses and no prompt keeps."""
    use = ColumnUse(replace(reading, names=Names()))
    kept = set(reading.keep or ())
    for outcome in _outcomes(source, reading, sample):
        use.observe(outcome)
        if reading.format == Prompt.format:
            kept.update(*(columns_of(record) for record in outcome.records))
    return {column.name for column in use.unread()} - kept


def _natural_format(sample: Sample, reading: Reading) -> str:
    rows = [row for _, row in sample if not isinstance(row, Unreadable)]
    try:
        return recognise(rows, "", layout=reading.layout).format
    except UserError:
        return reading.format


def _check_labels(source: Source, names: Names) -> None:
    """Raises MappingError if no row has a label that the mapping names."""
    seen: Counter[str] = Counter()
    for row in _rows(source, names):
        if any(label_columns(row, Mapped)):
            return
        for column, values in label_columns(row).items():
            seen.update(f"{column} {shown(label_text(value), 30)}" for value in values)
    if seen:
        holds = ", ".join(f"{value} ({count} rows)" for value, count in seen.most_common(6))
        why = f"no row has one of these labels; the rows have {holds}"
    else:
        why = "no row has a label column: map one with label=<column>"
    raise MappingError(f"{source.name}: labels {_words(names.labels)}: {why}")


def _check_roles(source: Source, names: Names) -> None:
    """Raises MappingError if no row has a speaker that the mapping names."""
    seen: Counter[str] = Counter()
    ours = Names(columns=names.columns)
    for row in _rows(source, ours):
        seen.update(speakers(row))
        if seen.keys() & names.roles.keys():
            return
    names_seen = ", ".join(name for name, _ in seen.most_common(6))
    why = f"the speakers are {names_seen}" if seen else "the rows are not conversations"
    raise MappingError(f"{source.name}: roles {_words(names.roles)}: no row has one of these roles; {why}")


def _rows(source: Source, names: Names) -> Iterator[Any]:
    for count, row in enumerate(prepared_rows(source, names)):
        if count == MOST:
            return
        yield row


def _words(words: Any) -> str:
    return ", ".join(f"{theirs}={ours}" for theirs, ours in words.items())
