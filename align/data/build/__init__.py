"""Datasets as artifacts: import, mix, filter, pair and publish."""
