"""How much is read at most: nothing is read without a bound."""

MAX_LINE = 64 * 2**20  # bytes of one line
MAX_FILE = 2 * 2**30  # bytes of a file that is read as a whole
