"""From what a model or a person wrote to HTML that is safe to show: Markdown without HTML, then a sanitizer, last.

Nothing that was written can load anything: images become their text, and what the sanitizer does not know is gone.
Formulas (`$...$`, `$$...$$`) become MathML, which browsers draw by themselves.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import nh3
from latex2mathml.converter import convert as to_mathml
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererProtocol
from markdown_it.token import Token
from markupsafe import Markup, escape
from mdit_py_plugins.dollarmath import dollarmath_plugin

LONGEST = 200_000  # characters of one text that are shown
LONGEST_FORMULA = 2_000
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


def _image(renderer: RendererProtocol, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    return f"<em>[image: {escape(tokens[at].content) or 'no description'}]</em>"


def _formula(source: str, options: dict[str, Any]) -> str:
    """MathML, or the source where it is no formula that the converter reads."""
    display = "block" if options.get("display_mode") else "inline"
    if len(source) <= LONGEST_FORMULA:
        try:
            return to_mathml(source, display=display)
        except (Exception, RecursionError):  # noqa: BLE001 - the converter raises whatever its dictionaries raise
            pass
    return f"<code>{escape(source)}</code>"


def _reader() -> MarkdownIt:
    reader = MarkdownIt("commonmark", {"html": False, "breaks": True, "maxNesting": 40})
    reader.enable(["table", "strikethrough"])
    reader.use(dollarmath_plugin, allow_digits=False, double_inline=True, renderer=_formula)
    reader.add_render_rule("image", _image)
    return reader


_MARKDOWN = _reader()


@lru_cache(maxsize=4096)
def to_html(text: str) -> Markup:
    """Text as safe HTML."""
    cut = text[:LONGEST]
    try:
        html = _MARKDOWN.render(cut)
    except RecursionError:
        html = f"<pre>{escape(cut)}</pre>"
    if len(text) > LONGEST:
        html += f"<p><em>[{len(text) - LONGEST} more characters are not shown]</em></p>"
    return Markup(
        nh3.clean(
            html,
            tags=_TAGS,
            attributes=_ATTRIBUTES,
            url_schemes={"http", "https", "mailto"},
            link_rel="noopener noreferrer nofollow",
        )
    )


def as_code(value: Any) -> Markup:
    """JSON, as a block of code."""
    return Markup("<pre><code>{}</code></pre>").format(json.dumps(value, ensure_ascii=False, indent=1)[:LONGEST])


def turns(content: Any, role: str) -> list[tuple[str, Markup]]:
    """(role, safe HTML) of a text, or of each of its messages; `role` is who wrote a plain text."""
    if isinstance(content, str):
        return [(role, to_html(content))]
    found = []
    for message in content:
        html = to_html(message.get("content") or "")
        if message.get("tool_calls"):
            html += as_code(message["tool_calls"])
        found.append((str(message["role"]), html))
    return found
