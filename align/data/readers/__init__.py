"""Rows of files and hub datasets: JSON Lines, JSON, CSV, Parquet, Arrow, XLSX and text."""
