"""What to look for in a text: characters, markers and phrases that do not belong in training data."""

import re
import unicodedata

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u200b\u202a-\u202e\u2060-\u2069\ufeff]")
"""Control characters, and those that hide or turn text around; tabs, line ends and joiners are not among them."""
MOJIBAKE = re.compile(r"[ÂÃ][\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹Œ‘’“”•–—˜™š›œžŸ¡-¿]|â€[\x80-\xbf™œžŸ˜¢¦“”\"]")
"""UTF-8 that was read as Windows-1252: Ã© for é."""
TURN_MARKER = re.compile(
    r"\b(?:Human|Assistant):|<\|(?:im_start|im_end|endoftext|eot_id|start_header_id|end_header_id|begin_of_text"
    r"|system|user|assistant|end|pad)\|>|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>|### ?(?:Instruction"
    r"|Response|Human|Assistant):"
)
"""Chat templates' tokens, and the words that old ones mark turns with."""
END_MARKER = re.compile(r"\s*(?:<\|(?:endoftext|im_end|eot_id|end|end_of_text)\|>|</s>|<end_of_turn>|<eos>)\s*\Z")
LINE_END = re.compile("\r\n?|\x85|\u2028|\u2029")
"""What ends a line beside a line feed: Windows' two characters, NEL, and Unicode's separators."""
# A boundary of a word is one of ASCII letters and digits: between Chinese characters nothing else parts them.
EMAIL = re.compile(
    r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,4}\.[A-Za-z]{2,24}\b", re.ASCII
)
PHONE = re.compile(
    r"(?<![\w.$/-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{2,4}(?:[ .-]\d{2,4}){2,4}"
    r"|\(\d{3}\) ?\d{3}[ .-]\d{4}|\d{3}[.-]\d{3}[.-]\d{4}|1?-?800-\d{3}-\d{4}"
    r"|(?:\+?86[ -]?)?(?!1\d{4}0{6})1[3-9]\d([ -]?)\d{4}\1\d{4}|\(?0\d{2,3}\)?[ -]\d{7,8})(?![\w-])",
    re.ASCII,
)
"""Telephone numbers as they are written abroad, in North America and in China."""
SECRET = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36}\b|\bsk-(?:proj-|ant-)?[A-Za-z0-9_-]{32,}"
    r"|\bhf_[A-Za-z0-9]{34}\b|\bxox[abprs]-[A-Za-z0-9-]{20,}|-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----"
    r"|\bAIza[0-9A-Za-z_-]{35}\b|\beyJ[A-Za-z0-9_-]{20,}\.eyJ[A-Za-z0-9_-]{20,}\.",
    re.ASCII,
)


class _IdentityNumber:
    """Numbers that name a person: a Chinese resident's, by its check digit, and a US social security number."""

    _CANDIDATE = re.compile(
        r"(?<![\w.-])(?:([1-9]\d{5}(?:18|19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx])"
        r"|(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4})(?![\w-])",
        re.ASCII,
    )
    _WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)  # GB 11643-1999, ISO 7064 MOD 11-2

    def search(self, text: str) -> re.Match[str] | None:
        """The first one in a text, as a pattern's `search`."""
        return next((found for found in self._CANDIDATE.finditer(text) if self._holds(found[1])), None)

    def _holds(self, number: str | None) -> bool:
        if number is None:
            return True
        total = sum(int(digit) * weight for digit, weight in zip(number, self._WEIGHTS, strict=False))
        return number[-1].upper() == "10X98765432"[total % 11]


IDENTITY = _IdentityNumber()
REFUSAL = re.compile(
    r"\bas an ai\b|\bas a (?:large )?language model\b|\bi(?:'|’)?m (?:just |only )?an ai\b"
    r"|\bi(?:'|’)?m (?:very |so |really )?sorry,? but i (?:can(?:'|’)?t|cannot|am unable|am not able)"
    r"|\bi (?:can(?:'|’)?t|cannot|won(?:'|’)?t|am unable to|am not able to) (?:help|assist|provide|do that|answer|"
    r"fulfill)"
    r"|\bi(?:'|’)?m (?:unable|not able) to (?:help|assist|provide|answer)"
    r"|(?:对不起|抱歉)[，,]?(?:但是?)?我?(?:无法|不能)|(?:作为|我是)一?[个名]?(?:人工智能|AI)",
    re.IGNORECASE,
)
_REFUSES = (
    "an ai",
    "language model",
    "sorry",
    "can't",
    "can’t",
    "cannot",
    "won't",
    "won’t",
    "able to",
    "对不起",
    "抱歉",
    "作为",
    "人工智能",
)
REFUSAL_PART = 400  # characters at an answer's start where a refusal would be


def refusal(answer: str) -> re.Match[str] | None:
    """Where an answer refuses in its first sentences, or speaks as an AI."""
    start = answer[:REFUSAL_PART]
    low = start.lower()
    return REFUSAL.search(start) if any(sign in low for sign in _REFUSES) else None


# scripts without spaces between words: Thai, Lao, Burmese, Khmer, Japanese and Chinese
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_HAS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_WORD = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")


def words_of(text: str) -> list[str]:
    """The words of a text in small letters; in a script without spaces between them each character is one."""
    text = text.lower()
    return text.split() if text.isascii() or not _HAS_UNSPACED.search(text) else _WORD.findall(text)


def is_long(text: str) -> bool:
    """Whether a text is too long to be in another one by chance: 40 characters, or 16 where each is a word."""
    if len(text) < 40 and not text.isascii():
        return len(text) >= 16 and 2 * len(_HAS_UNSPACED.findall(text)) > len(text)
    return len(text) >= 40


def joined(words: list[str]) -> str:
    """Words in a row as they would stand in a text."""
    return "".join(
        word if _HAS_UNSPACED.match(word) or position == 0 else f" {word}" for position, word in enumerate(words)
    )


def opening_of(text: str) -> str:
    """The first four words of a text, or eight where characters are words."""
    text = " ".join(text[:80].lower().split())
    words = [*_WORD.finditer(text)][:8]
    if words and not _HAS_UNSPACED.match(text):
        words = words[:4]
    return text[: words[-1].end()] if words else ""


_SCRIPTS = (
    ("Chinese", 0x3400, 0x9FFF),
    ("Japanese", 0x3040, 0x30FF),
    ("Korean", 0xAC00, 0xD7AF),
    ("Cyrillic", 0x0400, 0x04FF),
    ("Arabic", 0x0600, 0x06FF),
    ("Hebrew", 0x0590, 0x05FF),
    ("Greek", 0x0370, 0x03FF),
    ("Devanagari", 0x0900, 0x097F),
    ("Thai", 0x0E00, 0x0E7F),
)
_COMMON = {
    "English": "the and is to of you that for with this are what have how can not it be on as was do your i a in",
    "German": "der die das und ist nicht ich sie mit ein eine zu auf für von den wie wir auch sich",
    "French": "le la les et est pas je vous une un des que pour dans avec sur qui ce au du",
    "Spanish": "el la los y es no que una un por para con las como del se lo su más qué",
    "Portuguese": "o os e é não que uma um por para com as como do da se em você mais são",
    "Italian": "il la e è non che una un per con di del della gli come si sono più le lo",
    "Dutch": "de het een en is niet van ik dat op te met voor zijn aan er maar hoe wat ook",
}
_WORDS = {language: frozenset(words.split()) for language, words in _COMMON.items()}


def language_of(text: str) -> str:
    """A guess from the first 600 characters: by script, and for Latin letters by the commonest words; `?` if none.

    Good enough to see a mix in thousands of rows, not to judge one row.
    """
    text = text[:600]
    if not text.isascii():
        # a word counts once, in Latin letters as in Chinese: a few long names do not make a text English
        starts = [ord(word[0]) for word in re.findall(f"[{_UNSPACED}]|[^\\W\\d_{_UNSPACED}]+", text)]
        counts = {name: sum(low <= code <= high for code in starts) for name, low, high in _SCRIPTS}
        if counts["Japanese"] > 0.1 * len(starts):
            return "Japanese"
        name = max(counts, key=counts.__getitem__)
        if starts and counts[name] > 0.3 * len(starts):
            return name
    words = re.findall(r"[^\W\d_]+", text.lower())
    votes = {language: sum(word in common for word in words) for language, common in _WORDS.items()}
    best = max(votes, key=votes.__getitem__)
    return best if votes[best] >= max(1, 0.08 * len(words)) else "?"


def unmix(text: str) -> str | None:
    """Text with Windows-1252 mojibake undone, where that gives back exactly what it was; None otherwise."""
    try:
        repaired = text.encode("cp1252").decode("utf-8")
        return repaired if repaired != text and repaired.encode("utf-8").decode("cp1252") == text else None
    except UnicodeError:
        pass
    # the rest of the text may hold what Windows-1252 lacks: repair the broken runs alone
    repaired = re.sub(r"[À-ô][\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹Œ‘’“”•–—˜™š›œžŸ¡-¿]{1,3}", _repair_run, text)
    return repaired if repaired != text else None


def _repair_run(found: re.Match[str]) -> str:
    try:
        return found[0].encode("cp1252").decode("utf-8")
    except UnicodeError:
        return found[0]


def snippet(text: str, found: re.Match[str] | None = None, width: int = 90) -> str:
    """One printable line around what was found."""
    start = max(0, found.start() - width // 3) if found else 0
    cut = text[start : start + width]
    line = "".join(
        character if character.isprintable() else f"\\u{ord(character):04x}" if not character.isspace() else " "
        for character in unicodedata.normalize("NFC", cut)
    )
    return ("…" if start else "") + " ".join(line.split()) + ("…" if start + width < len(text) else "")
