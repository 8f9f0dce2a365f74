"""How much is read at most: sizes that a file states, or unpacks to, are checked before memory is given to them."""

MAX_LINE = 64 * 2**20  # bytes or characters of one row: a line, an element of a JSON list, a row of a table
MAX_PART = 256 * 2**20  # bytes of what must be in memory as a whole: a workbook's shared strings, rows of a table
MAX_UNPACKED = 2**30  # bytes up to which a compressed file may unpack to any multiple of its size
MAX_RATIO = 500  # beyond that, this multiple; text compresses 3 to 30 times
MAX_SHEET_ROWS = 2**20  # rows of a worksheet, as in Excel
FREE_VALUES = 2**20  # values that a table may hold without a byte of the file behind them: nulls, repeats


def is_bomb(unpacked: int, packed: int) -> bool:
    """Whether `packed` bytes that unpack to `unpacked` (or more) are no honest compression."""
    return unpacked > MAX_UNPACKED and unpacked > MAX_RATIO * packed
