"""Stages in order, each in its own process; finished steps are skipped and broken ones resumed."""
