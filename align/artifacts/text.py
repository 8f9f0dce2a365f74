"""Numbers and words as a person reads them in a terminal: sizes, moments, durations, tables."""

from collections.abc import Sequence

_UNITS = ("kB", "MB", "GB", "TB", "PB")


def human_size(size: float) -> str:
    """Bytes in the unit that leaves one to three digits before the point, in powers of 1000: 1.2 MB."""
    number, unit = float(size), "B"
    for larger in _UNITS:
        if number < 999.95:
            break
        number, unit = number / 1000, larger
    return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"


def minute(moment: str | None) -> str:
    """2026-11-21T10:20:30Z as 2026-11-21 10:20."""
    return (moment or "")[:16].replace("T", " ")


def clock(seconds: float) -> str:
    """A duration as `1:23` or `2:03:04`."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def short_number(value: object) -> str:
    """Four significant digits of a float; anything else as printed."""
    return f"{value:.4g}" if isinstance(value, float) else printable(value)


def printable(text: object) -> str:
    """`text` on one line without control characters: a manifest may come from somebody else."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def shorten(text: str, length: int) -> str:
    """`text` cut in its middle to at most `length` characters, the cut shown as an ellipsis."""
    if len(text) <= length:
        return text
    head = length // 2
    return f"{text[:head]}…{text[len(text) - (length - head - 1) :]}"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> str:
    """Aligned columns under headings; the columns named in `right` are aligned to the right."""
    cells = [list(headings), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    lines = []
    for row in cells:
        padded = [
            cell.rjust(width) if heading in right else cell.ljust(width)
            for cell, width, heading in zip(row, widths, headings, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)
