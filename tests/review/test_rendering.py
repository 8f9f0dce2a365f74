"""What models and people wrote, as HTML: nothing in it runs, loads or takes long, and good text survives."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from align.review import rendering
from align.review.rendering import (
    FORMULA_COST,
    FORMULAS,
    LONGEST,
    LONGEST_FORMULA,
    STEPS,
    Budget,
    PageBudget,
    as_code,
    to_html,
    turns,
)
from align.review.store import campaigns

PROJECT = Path(__file__).parents[2]
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


def test_tools_that_are_nested_too_deeply_are_no_error():
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    assert "nested too deeply" in as_code(value)


def test_html_is_shown_as_it_was_written():
    """Taken out by the sanitizer it would be gone, and the rater would judge something else."""
    assert "&lt;b&gt;bold&lt;/b&gt;" in str(to_html("<b>bold</b>"))


def test_the_sanitizer_comes_last(monkeypatch):
    """Whatever Markdown or mathematics might make of a text, what is unknown goes and links stay harmless."""
    monkeypatch.setattr(rendering._MARKDOWN, "render", lambda text, env: text)
    for payload in (
        "<script>1</script>",
        '<a href="javascript:1">x</a>',
        "<p onclick=1 style=x class=y>z</p>",
        "<img src=x>",
    ):
        html = str(to_html(f"{payload} unseen before"))
        assert not re.search("script|onclick|style|class|img", html), html


SLOW = {
    "[": "[" * LONGEST,
    "![": "![" * (LONGEST // 2),
    "[a](": "[a](" * (LONGEST // 4),
    "emphasis": "*a " * (LONGEST // 3),
    "delimiters": "a*" * (LONGEST // 2),
    "lists": "- a\n" * (LONGEST // 4),
    "headings": "# a\n" * (LONGEST // 4),
    "lines": "a\n" * (LONGEST // 2),
    "a table": "|" + "a|" * 200 + "\n|" + "-|" * 200 + "\n" + ("|" + "a|" * 200 + "\n") * 400,
    "links": "[a](b) " * (LONGEST // 7),
    "references": "[a]: b\n\n" + "[a]" * (LONGEST // 3),
    "dollars": "$x " * (LONGEST // 3),
}


@pytest.mark.parametrize("kind", SLOW)
def test_a_text_takes_a_bounded_number_of_steps(kind, monkeypatch):
    """200,000 brackets once took 20 s. The text is shown all the same."""
    spent = []
    spend = rendering._spend
    monkeypatch.setattr(rendering, "_spend", lambda env, steps: spent.append(steps) or spend(env, steps))
    html = str(to_html(SLOW[kind]))
    assert sum(spent[:-1]) <= STEPS and len(spent) <= STEPS + 2
    assert html.startswith("<pre>") and len(html) > len(SLOW[kind])
    if kind == "a table":
        assert len(spent) == 1  # the parser makes all cells in one step, so they are counted before


def test_deep_nesting_is_cut():
    for text in ("> " * 20_000 + "x", "- " * 5_000, "*" * 20_000 + "x", "$" + "{" * 1_900 + "$"):
        assert len(str(to_html(text))) < 200_000


@pytest.mark.parametrize("file", ["README.md", "CHANGELOG.md", "data/README.md"])
def test_what_people_write_is_far_from_the_limit(file):
    text = (PROJECT / file).read_text("utf-8")
    budget = Budget()
    html = str(to_html(text, budget))
    assert not html.startswith("<pre>") and STEPS - budget.steps < STEPS / 4 * len(text) / 10_000


def test_formulas_have_a_budget_of_their_own():
    html = str(to_html("$a$ " * 2000))
    count = html.count("<math")
    assert 100 < count <= FORMULAS // FORMULA_COST and html.count("<code>a</code>") == 2000 - count


def test_a_conversation_has_one_budget(monkeypatch):
    converted = []
    render = rendering._MARKDOWN.render
    monkeypatch.setattr(rendering._MARKDOWN, "render", lambda text, env: converted.append(text) or render(text, env))
    messages = [{"role": "user", "content": f"**{number}**" + "[" * 500} for number in range(300)]
    shown = turns(messages, "user")
    assert len(shown) == 300 and "<strong>" in shown[0][1] and shown[-1][1].startswith("<pre>")
    assert len(converted) < 100
    long = turns([{"role": "user", "content": "x" * LONGEST}, {"role": "user", "content": "yes"}], "user")
    assert long[1][1] == "<p><em>[3 more characters are not shown]</em></p>"


def test_a_page_of_many_texts_has_a_budget():
    page = PageBudget(contents=3)
    shown = [page.turns(text, "user")[0][1] for text in ("[" * 50_000, "a **b**", "[" * 50_001, "a **b**", "**c**")]
    assert [html.startswith("<pre>") for html in shown] == [True, False, True, False, False]
    assert 0 < page.left.steps < STEPS
    assert page.turns("[" * 50_002, "user")[0][1].startswith("<pre>") and page.left.steps == 0
    assert page.turns("**new**", "user")[0][1].startswith("<pre>")


def test_the_cache_is_bounded_by_size(monkeypatch):
    cache = rendering._Cache(1000)
    monkeypatch.setattr(rendering, "_CACHE", cache)
    for number in range(100):
        to_html(f"**{number}** " + "x" * 80)
    assert 0 <= cache.left < 1000 and 1 <= len(cache._kept) < 10
    to_html("y" * 2000)
    assert cache.left >= 0
    # What is kept costs the budget what rendering it did.
    first, second = Budget(), Budget()
    assert to_html("**a**", first) == to_html("**a**", second) and first == second != Budget()


def test_pages_are_rendered_off_the_event_loop(small_world, monkeypatch):
    """A text on a page holds up nobody else's requests."""
    small_world.campaign(instructions="**Read** both.")
    threads = []
    render = rendering._MARKDOWN.render

    def watch(text: str, env: Any) -> str:
        try:
            threads.append(asyncio.get_running_loop())
        except RuntimeError:
            threads.append(None)
        return render(text, env)

    monkeypatch.setattr(rendering, "_CACHE", rendering._Cache(0))
    monkeypatch.setattr(rendering._MARKDOWN, "render", watch)
    into = small_world.do(campaigns.get_campaign, "spring")
    rater, admin = small_world.person("rater", into), small_world.person("admin")
    browser = small_world.browser(rater)
    browser.get("/rate/spring")
    number = browser.api("/spring/next").json()["task"]["assignment"]
    browser.api(f"/spring/assignments/{number}/rating", {"key": "k" * 10, "verdict": "a", "flag": True})
    small_world.browser(admin).get("/admin/campaigns/spring/disputes")
    assert len(threads) == 1 + 3 + 3 + 3 and set(threads) == {None}


def test_long_texts_and_formulas_are_cut():
    html = str(to_html("a" * (LONGEST + 5000)))
    assert "5000 more characters are not shown" in html and len(html) < LONGEST + 200
    assert "<math" in str(to_html(f"${'x+' * 100}y$"))
    assert "<math" not in str(to_html(f"${'x+' * LONGEST_FORMULA}y$"))
    assert str(to_html("> " * 60 + "x")).count("<blockquote>") <= 40


def test_what_markdown_cannot_read_is_shown_as_it_is(monkeypatch):
    def fail(text: str, env: Any) -> Any:
        raise RecursionError

    monkeypatch.setattr(rendering._MARKDOWN, "render", fail)
    assert str(to_html("<b>too deep")) == "<pre>&lt;b&gt;too deep</pre>"
