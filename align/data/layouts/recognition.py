"""How the rows of a source are to be read: told from a sample of them, and every word of a mapping put to use."""

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

MOST = 100_000  # rows looked through for what a mapping names

Sample = list[tuple[int, Any]]


def recognise_source(
    source: Source,
    *,
    layout: str | None = None,
    names: Names = Names(),  # noqa: B008 (frozen)
    wanted: str | None = None,
    keep: Sequence[str] | None = None,
) -> Reading:
    """How the rows of `source` are to be read; what is given stands, the rest is told from its first rows.

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
    """That rows have what the mapping of `reading` names, and that its layout makes something of it.

    Raises:
        MappingError: a word of the mapping would be without effect.
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
        # prompts are made of rows that hold more: what belongs to the rows as they are is no mistake
        unread &= _unread(source, replace(reading, format=natural), sample)
    if fields := sorted(unread & names.columns.keys()):
        told = ", ".join(f"{field}={names.columns[field]}" for field in fields)
        raise MappingError(
            f"{source.name}: columns {told}: rows are read as {reading.layout}, which makes nothing of "
            f"{' and '.join(fields)}; map a field that it reads (align data rules lists them), name another "
            "layout, or leave the word out"
        )
    columns = {column for _, row in sample for column in label_columns(row, Mapped)}
    if names.labels and columns and columns <= unread:
        raise MappingError(
            f"{source.name}: labels {_told(names.labels)}: column {', '.join(sorted(columns))} holds them, and rows "
            f"are read as {reading.layout}, which reads no label there; name another layout, or map the column: "
            "label=<column>"
        )


def _sample(source: Source, names: Names) -> Sample:
    """The first rows that can be read, and where there are none, the first that cannot.

    A mapping may fit later rows only: those of another kind before them are passed over.
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
    return outcomes_of(source.name, sample, replace(reading, names=Names()))  # the sample is in our words already


def _unread(source: Source, reading: Reading, sample: Sample) -> set[str]:
    """The columns, in our words, that no record of the sample was made of, and that no prompt keeps."""
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
    """Raises MappingError where no row has a label that the mapping names."""
    seen: Counter[str] = Counter()
    for row in _rows(source, names):
        if any(label_columns(row, Mapped)):
            return
        for column, values in label_columns(row).items():
            seen.update(f"{column} {shown(label_text(value), 30)}" for value in values)
    if seen:
        holds = ", ".join(f"{value} ({count} rows)" for value, count in seen.most_common(6))
        why = f"no row has such a label; there are {holds}"
    else:
        why = "no row has a column for a label: map one, label=<column>"
    raise MappingError(f"{source.name}: labels {_told(names.labels)}: {why}")


def _check_roles(source: Source, names: Names) -> None:
    """Raises MappingError where nobody in any row is called what the mapping names."""
    seen: Counter[str] = Counter()
    ours = Names(columns=names.columns)
    for row in _rows(source, ours):
        seen.update(speakers(row))
        if seen.keys() & names.roles.keys():
            return
    who = f"who speaks is called {', '.join(name for name, _ in seen.most_common(6))}" if seen else "nobody speaks"
    raise MappingError(f"{source.name}: roles {_told(names.roles)}: no row has such a role; {who}")


def _rows(source: Source, names: Names) -> Iterator[Any]:
    for count, row in enumerate(prepared_rows(source, names)):
        if count == MOST:
            return
        yield row


def _told(words: Any) -> str:
    return ", ".join(f"{theirs}={ours}" for theirs, ours in words.items())
