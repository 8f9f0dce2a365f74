"""One stage, from a command line to a published artifact."""
