"""The config: Hydra composes it, dataclasses and TRL's fields check it; no torch."""
