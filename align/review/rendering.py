"""From what a model or a person wrote to HTML that is safe to show: Markdown without HTML, then a sanitizer, last.

Nothing that was written can load anything: images become their text, and what the sanitizer does not know is removed.
Formulas (`$...$`, `$$...$$`) become MathML, which browsers draw by themselves.

Some texts take the Markdown parser a time that grows with the square of their length. Each content therefore has a
budget of parser steps, the same on every machine; a text that exceeds it is shown as it was written.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nh3
from latex2mathml.converter import convert as to_mathml
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererProtocol
from markdown_it.rules_block import StateBlock
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markupsafe import Markup, escape
from mdit_py_plugins.dollarmath import dollarmath_plugin

from align.review.messages import text

LONGEST = 200_000  # characters of one content that are shown
LONGEST_FORMULA = 2_000  # characters
STEPS = 10_000  # of the parser for one content
FORMULAS = 20_000  # characters of formulas in one content, each counted with FORMULA_COST more
FORMULA_COST = 30
MESSAGE_COST = 20  # steps for each message of a conversation
CELL_COST = 3  # steps for each piece of text that the parser found, such as a table's cell
CACHED = 32_000_000  # characters of texts and their HTML that are kept
_MATH = {
    *("math", "mrow", "mi", "mn", "mo", "ms", "mtext", "mspace", "mfrac", "msqrt", "mroot", "mstyle", "mpadded"),
    *("mphantom", "menclose", "msub", "msup", "msubsup", "munder", "mover", "munderover", "mtable", "mtr", "mtd"),
}
_TAGS = {
    *("p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "ul", "ol", "li", "pre", "code", "em"),
    *("strong", "s", "a", "table", "thead", "tbody", "tr", "th", "td", "span", "div"),
    *_MATH,
}
_ATTRIBUTES = {
    "a": {"href", "title"},
    "ol": {"start"},
    "math": {"display"},
    "mo": {"stretchy", "fence", "form", "lspace", "rspace", "separator", "accent"},
    "mi": {"mathvariant"},
    "mtd": {"columnalign"},
    "mfrac": {"linethickness"},
    "mspace": {"width"},
}


@dataclass
class Budget:
    """What rendering may still take: counted down by every text that is rendered with it."""

    steps: int = STEPS
    formulas: int = FORMULAS
    characters: int = LONGEST


class PageBudget:
    """What the contents of a page may take together, each no more than its own budget.

    Args:
        contents: how many contents may use their budget up; all that come later are shown as they were written.
    """

    def __init__(self, contents: int):
        self.left = Budget(contents * STEPS, contents * FORMULAS, contents * LONGEST)

    def turns(self, content: Any, role: str) -> list[tuple[str, Markup]]:
        """As `turns`, within what is left."""
        left = self.left
        budget = Budget(min(STEPS, left.steps), min(FORMULAS, left.formulas), min(LONGEST, left.characters))
        left.steps, left.formulas, left.characters = (
            left.steps - budget.steps,
            left.formulas - budget.formulas,
            left.characters - budget.characters,
        )
        rendered = turns(content, role, budget)
        left.steps += budget.steps
        left.formulas += max(0, budget.formulas)
        left.characters += budget.characters
        return rendered


class OverBudget(Exception):
    """A text takes more steps than there are left."""


# -- the parser ------------------------------------------------------------------------------------------------------


def _spend(env: Any, steps: int) -> None:
    env["budget"].steps -= steps
    if env["budget"].steps < 0:
        raise OverBudget


def _count_inline(state: StateInline, silent: bool) -> bool:
    _spend(state.env, 1)
    return False


def _count_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    _spend(state.env, 1)
    return False


def _count_bars(state: StateCore) -> None:
    """Tables are read in one step, cell by cell: what may become a cell is counted before."""
    _spend(state.env, state.src.count("|"))


def _count_pieces(state: StateCore) -> None:
    _spend(state.env, CELL_COST * sum(token.type == "inline" for token in state.tokens))


def _image(renderer: RendererProtocol, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    description = tokens[at].content
    key = "image" if description else "image_without_description"
    return f"<em>{escape(text(key, env['language'], description=description))}</em>"


def _inline_formula(renderer: RendererProtocol, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    return _formula(tokens[at].content, "inline", env["budget"])


def _block_formula(renderer: RendererProtocol, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    return _formula(tokens[at].content, "block", env["budget"])


def _formula(source: str, display: str, budget: Budget) -> str:
    """MathML, or the source where the converter cannot read it or there is too much of it."""
    budget.formulas -= len(source) + FORMULA_COST
    if len(source) <= LONGEST_FORMULA and budget.formulas >= 0:
        try:
            return to_mathml(source, display=display)
        except (Exception, RecursionError):  # noqa: BLE001 - the converter raises whatever its dictionaries raise
            pass
    return f"<code>{escape(source)}</code>"


def _reader() -> MarkdownIt:
    reader = MarkdownIt("commonmark", {"html": False, "breaks": True, "maxNesting": 40})
    reader.enable(["table", "strikethrough"])
    reader.use(dollarmath_plugin, allow_digits=False, double_inline=True)
    for name in ("math_inline", "math_inline_double"):
        reader.add_render_rule(name, _inline_formula)
    for name in ("math_block", "math_block_label"):
        reader.add_render_rule(name, _block_formula)
    reader.add_render_rule("image", _image)
    # The first of all rules, which the parser also tries in paragraphs, quotes, lists and texts of links.
    reader.inline.ruler.before("text", "budget", _count_inline)
    everywhere = {"alt": ["paragraph", "reference", "blockquote", "list"]}
    reader.block.ruler.before("table", "budget", _count_block, everywhere)
    reader.core.ruler.before("block", "bars", _count_bars)
    reader.core.ruler.before("inline", "pieces", _count_pieces)
    return reader


_MARKDOWN = _reader()


# -- texts -----------------------------------------------------------------------------------------------------------


class _Cache:
    """What was rendered last, up to so many characters."""

    def __init__(self, characters: int):
        self.left = characters
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], tuple[str, Budget]] = OrderedDict()

    def get(self, source: str, language: str) -> tuple[str, Budget] | None:
        """The HTML of a text, and what rendering it took."""
        with self._lock:
            if (source, language) in self._kept:
                self._kept.move_to_end((source, language))
            return self._kept.get((source, language))

    def put(self, source: str, language: str, html: str, spent: Budget) -> None:
        with self._lock:
            if (source, language) in self._kept:
                return
            self._kept[source, language] = html, spent
            self.left -= len(source) + len(html)
            while self.left < 0:
                (old, _), (old_html, _) = self._kept.popitem(last=False)
                self.left += len(old) + len(old_html)


_CACHE = _Cache(CACHED)


def to_html(source: str, budget: Budget | None = None, language: str = "en") -> Markup:
    """Text as safe HTML.

    Args:
        budget: what it may take, counted down.
        language: of what is said about it, such as that it was cut.
    """
    budget = budget or Budget()
    shown = source[: max(0, budget.characters)]
    budget.characters -= len(shown)
    html = _as_markdown(shown, budget, language)
    if len(source) > len(shown):
        html += f"<p><em>{text('cut', language, count=len(source) - len(shown))}</em></p>"
    return Markup(html)


def _as_markdown(source: str, budget: Budget, language: str) -> str:
    """Sanitized HTML of a text, from the cache where the budget allows what it took."""
    kept = _CACHE.get(source, language)
    if kept is not None and kept[1].steps <= budget.steps and kept[1].formulas <= budget.formulas:
        html, spent = kept
        budget.steps -= spent.steps
        budget.formulas -= spent.formulas
        return html
    before = Budget(budget.steps, budget.formulas)
    try:
        if budget.steps <= 0:
            raise OverBudget
        html = _sanitize(_MARKDOWN.render(source, {"budget": budget, "language": language}))
    except (OverBudget, RecursionError):
        budget.steps = 0  # what comes after it in the same content is not parsed either
        return _sanitize(f"<pre>{escape(source)}</pre>")
    if budget.formulas >= 0:  # otherwise another budget gives other HTML
        _CACHE.put(source, language, html, Budget(before.steps - budget.steps, before.formulas - budget.formulas))
    return html


def _sanitize(html: str) -> str:
    return nh3.clean(
        html,
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
    )


def as_code(value: Any, language: str = "en") -> Markup:
    """JSON, as a block of code."""
    try:
        code = json.dumps(value, ensure_ascii=False, indent=1)
    except RecursionError:
        code = text("too_deep", language)
    return Markup("<pre><code>{}</code></pre>").format(code[:LONGEST])


def turns(content: Any, role: str, budget: Budget | None = None, language: str = "en") -> list[tuple[str, Markup]]:
    """(role, safe HTML) of a text, or of each of its messages; `role` is whose a plain text is."""
    budget = budget or Budget()
    if isinstance(content, str):
        return [(role, to_html(content, budget, language))]
    rendered = []
    for message in content:
        budget.steps = max(0, budget.steps - MESSAGE_COST)
        html = to_html(message.get("content") or "", budget, language)
        if message.get("tool_calls"):
            html += as_code(message["tool_calls"], language)
        rendered.append((str(message["role"]), html))
    return rendered
