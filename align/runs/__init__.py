"""Runs as people watch them: their records, curves and differences, and what they left on disk."""
