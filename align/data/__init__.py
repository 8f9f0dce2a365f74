"""Data: rows to records, the report on them, datasets as artifacts, tokens and loss masks."""
