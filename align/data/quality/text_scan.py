"""What can be seen in one text alone: markers, characters, secrets and refusals unfit to be learnt."""

from collections.abc import Iterator

from align.data.quality import patterns
from align.records import readable_json

ANSWERS = ("completion", "chosen", "rejected")
PERSONAL = ("secrets", "emails", "phones")
"""What is looked for in a record's columns too."""
_ANYWHERE = (
    ("control_characters", patterns.CONTROL, None),
    ("line_ends", patterns.LINE_END, ("\r", "\x85", "\u2028", "\u2029")),
    ("mojibake", patterns.MOJIBAKE, ("Â", "Ã", "â€")),
    (
        "turn_markers",
        patterns.TURN_MARKER,
        ("Human:", "Assistant:", "<|", "INST]", "<s>", "</s>", "SYS>", "turn>", "###"),
    ),
    ("phones", patterns.PHONE, tuple("0123456789")),
    ("identity_numbers", patterns.IDENTITY, tuple("0123456789")),
    (
        "secrets",
        patterns.SECRET,
        ("AKIA", "ASIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "sk-", "hf_", "xox", "PRIVATE KEY", "AIza", "eyJ"),
    ),
)
"""What is looked for in every side, and the cheap signs without which there is nothing to look for."""


def scan(text: str, side: str, conversational: bool) -> Iterator[tuple[str, str]]:
    """(name of what was found, the line around it) of a side's text."""
    for name, pattern, signs in _ANYWHERE:
        if (signs is None or any(sign in text for sign in signs)) and (found := pattern.search(text)):
            yield name, patterns.snippet(text, found)
    if "\ufffd" in text:
        yield "replacement_characters", patterns.snippet(text[max(0, text.index("\ufffd") - 30) :])
    yield from _emails(text)
    if side not in ANSWERS:
        return
    if found := patterns.refusal(text):
        yield "refusals", patterns.snippet(text, found)
    if patterns.END_MARKER.search(text[-40:]):
        yield "end_markers", patterns.snippet(text[-60:])
    if conversational and text != text.strip():
        yield "outer_space", readable_json(text[:20] + " ... " + text[-20:])


def scan_personal(text: str) -> Iterator[tuple[str, str]]:
    """Of `scan`, what must not be published wherever it stands: secrets, telephone numbers and e-mail addresses."""
    for name, pattern, signs in _ANYWHERE:
        if name in PERSONAL and any(sign in text for sign in signs or ()) and (found := pattern.search(text)):
            yield name, patterns.snippet(text, found)
    yield from _emails(text)


def _emails(text: str) -> Iterator[tuple[str, str]]:
    if "@" in text and (found := patterns.EMAIL.search(text)):
        yield "emails", patterns.snippet(text, found)
