"""Who scores a policy's own completions: reward models, and functions that the config names."""
