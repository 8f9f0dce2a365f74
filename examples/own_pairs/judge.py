"""What the pairs prefer, as a judge for `stage=evaluate`."""

PLEASANTRIES = ("sure", "of course", "gladly")


def terse(prompt: list[dict], completion: str) -> float:
    """1 for an answer that begins without a pleasantry."""
    return float(not completion.strip().lower().startswith(PLEASANTRIES))
