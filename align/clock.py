"""Durations as people read them."""


def clock(seconds: float) -> str:
    """A duration as `1:23` or `2:03:04`."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
