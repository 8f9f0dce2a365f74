"""Models on their way from disk to a trainer and back: loading, saving, adapters, generation, scoring."""
