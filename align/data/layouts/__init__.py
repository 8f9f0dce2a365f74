"""Layouts: how a row of a file becomes a record, and how a file's layout is detected."""
