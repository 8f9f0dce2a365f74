"""The rater's pages in every language: complete, chosen by the browser or by hand, all from one list."""

import ast
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import align.review
from align.records import Comparison
from align.review import security
from align.review.messages import LANGUAGES, MESSAGES, SCRIPT, negotiate, text
from align.review.store import people

from .conftest import Browser, World
from .test_signing_in import PASSWORD, invited

PACKAGE = Path(align.review.__file__).parent
TEMPLATES = sorted((PACKAGE / "templates").glob("*.html"))
FOR_ADMINS = {"routes/admin.py", "routes/settings.py", "store/campaigns.py", "loading.py"}  # which are in English
CHINESE = re.compile("[\u4e00-\u9fff]")
WORD = re.compile(r"[A-Za-z]{2,}")
SHOWN = ("aria-label", "placeholder", "title", "alt")  # attributes that people read or hear
OUR_NAMES = {"align", "review", "Enter", "Esc", "JavaScript"}


class Visible(HTMLParser):
    """Collects what a person can read on a page, without the languages that it can be switched to."""

    def __init__(self, page: str):
        super().__init__()
        self.texts: list[str] = []
        self.languages: list[str | None] = []
        self._hidden: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if tag == "html":
            self.languages.append(values.get("lang"))
        if tag in ("script", "style") or (tag == "button" and "lang" in values):
            self._hidden.append(tag)
        self.texts += [values[name] or "" for name in SHOWN if name in values]

    def handle_endtag(self, tag: str) -> None:
        if self._hidden and self._hidden[-1] == tag:
            self._hidden.pop()

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.texts.append(data)


def placeholders(message: str) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", message))


def test_every_message_is_in_every_language():
    for key, message in MESSAGES.items():
        assert message.keys() == LANGUAGES.keys(), key
        assert len({frozenset(placeholders(one)) for one in message.values()}) == 1, key
        assert all(one.strip() == one != "" for one in message.values()), key
        assert CHINESE.search(message["zh"]) or key == "progress_count", key
        assert not CHINESE.search(message["en"]), key


def test_every_message_is_used_and_every_one_that_is_used_exists():
    sources = {file: file.read_text("utf-8") for file in [*PACKAGE.rglob("*.py"), *TEMPLATES]}
    script = (PACKAGE / "static" / "rate.js").read_text("utf-8")
    call = r"\bt\(\s*[\"'](\w+)[\"']\s*[,)]"
    written = {key for source in sources.values() for key in re.findall(call, source)}
    started = {key for source in sources.values() for key in re.findall(r"\bt\(\s*[\"'](\w+_)[\"'] ~", source)}
    assert written <= MESSAGES.keys()
    assert all(any(key.startswith(start) for key in MESSAGES) for start in started)
    said = set(re.findall(r'say\("(\w+)"', script)) | set(re.findall(r'"(\w+_(?:title|text))"', script))
    assert said == set(SCRIPT)
    python = "".join(source for file, source in sources.items() if file.suffix == ".py" and file.name != "messages.py")
    quoted = set(re.findall(r"[\"'](\w+)[\"']", python))
    for key in MESSAGES:
        by_start = any(key.startswith(start) for start in (*started, "role_"))
        assert key in written | said | quoted or by_start, f"{key} is not used"


def test_no_refusal_that_a_rater_can_meet_is_written_in_one_language():
    refusals = {"Refused", "Unauthenticated", "Forbidden", "NotFound", "Conflict", "Unfit", "TooMany"}
    count = 0
    for file in PACKAGE.rglob("*.py"):
        if file.relative_to(PACKAGE).as_posix() in FOR_ADMINS:
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                name, argument = ast.unparse(node.exc.func), node.exc.args[0]
                if name in refusals and ast.unparse(argument) != "message":
                    count += 1
                    assert isinstance(argument, ast.Constant) and argument.value in MESSAGES, (file, node.lineno)
    assert count > 8
    # A rater's requests reach one function of the admins' files, which says only that there is nothing.
    assert "raise NotFound()" in (PACKAGE / "store" / "campaigns.py").read_text("utf-8")


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda file: file.name)
def test_no_word_is_written_in_a_template(template):
    source = re.sub(r"\{% block body_class %\}.*?\{% endblock %\}", "", template.read_text("utf-8"))
    source = re.sub(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}", " ", source, flags=re.DOTALL)
    for piece in Visible(source).texts:
        assert set(WORD.findall(piece)) <= OUR_NAMES, piece


def test_no_sentence_is_written_in_the_script():
    script = (PACKAGE / "static" / "rate.js").read_text("utf-8")
    code = re.sub(r"^\s*//.*$|//\s.*$", "", script, flags=re.MULTILINE)
    for literal in re.findall(r'"([^"\n]*)"|`([^`]*)`', code):
        assert not re.search(r"[a-z]+ [a-z]+ [a-z]+", "".join(literal)), literal
        assert not CHINESE.search("".join(literal))


@pytest.fixture
def pages(small_world: World) -> list[tuple[Browser, str]]:
    """Every page that a rater or a visitor can open."""
    question = {"id": "q1", "text": "1?", "kind": "sides", "required": True}
    into = small_world.campaign(title="1", instructions="1", rubric=[question], count=2)
    closed = small_world.campaign("2", title="2")
    rater = small_world.person("rater", into, closed, name="3")
    small_world.do(lambda tx: align.review.store.campaigns.set_state(tx, closed.id, "closed"))
    browser, visitor = small_world.browser(rater), small_world.browser()
    links = []
    for role in ("rater", "admin"):
        token = security.new_token()
        small_world.do(people.add_invite, security.digest(token), role=role, campaign_id=None, expires=3e9)
        links.append(f"/invite/{token}")
    found = [(visitor, path) for path in ("/login", *links, "/invite/used", "/nowhere")]
    return [*found, *((browser, path) for path in ("/", "/account", "/rate/spring", "/rate/nowhere"))]


def open_in(browser: Browser, path: str, accept: str) -> str:
    answer = browser.client.get(path, headers={"accept": "text/html", "accept-language": accept})
    assert answer.status_code in (200, 404)
    return answer.text


def test_every_page_is_in_chinese_for_a_chinese_browser(pages):
    for browser, path in pages:
        page = Visible(open_in(browser, path, "zh-CN,zh;q=0.9,en;q=0.8"))
        assert page.languages == ["zh-CN"], path
        assert any(CHINESE.search(piece) for piece in page.texts), path
        english = {word for piece in page.texts for word in WORD.findall(piece)} - OUR_NAMES
        assert not english, (path, english)


def test_every_page_is_in_english_for_any_other_browser(pages):
    for browser, path in pages:
        page = Visible(open_in(browser, path, "de,fr;q=0.5"))
        assert page.languages == ["en"] and not any(CHINESE.search(piece) for piece in page.texts), path


def test_pages_for_admins_are_in_english_and_say_so(small_world):
    small_world.campaign()
    browser = small_world.browser(small_world.person("admin"))
    page = Visible(open_in(browser, "/admin/campaigns/spring", "zh"))
    assert page.languages == ["en"] and not any(CHINESE.search(piece) for piece in page.texts)


@pytest.mark.parametrize(
    ("accept", "language"),
    [
        ("", "en"),
        ("zh", "zh"),
        ("zh-TW", "zh"),
        ("ZH-cn", "zh"),
        ("en,zh", "en"),
        ("zh,en", "zh"),
        ("en;q=0.8,zh;q=0.9", "zh"),
        ("de,zh;q=0.1", "zh"),
        ("zh;q=0,en", "en"),
        ("zh;q=0", "en"),
        ("zh;q=2,en;q=0.1", "en"),
        ("zh;level=1", "en"),
        ("*", "en"),
        ("zhx", "en"),
        (";;,,q=", "en"),
        ("zh" + ",de" * 100_000, "zh"),
    ],
)
def test_the_browsers_language_is_negotiated(accept, language):
    assert negotiate(accept) == language


def test_the_language_that_was_chosen_is_remembered(small_world):
    rater = small_world.person("rater", small_world.campaign())
    browser = small_world.browser(rater)
    assert 'lang="en"' in browser.get("/account").text
    answer = browser.post("/language", {"language": "zh", "path": "/account"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/account")
    assert "Max-Age=31536000" in answer.headers["set-cookie"]
    assert 'lang="zh-CN"' in browser.get("/account").text
    assert browser.post("/language", {"language": "xx", "path": "/account"}).status_code == 303
    assert 'lang="zh-CN"' in browser.get("/account").text
    browser.post("/language", {"language": "en", "path": "/"})
    assert 'lang="en"' in open_in(browser, "/account", "zh")


@pytest.mark.parametrize("path", ["//evil.example", "https://evil.example", "/\\evil.example", "/x?y", "", "/\n/x"])
def test_the_switch_leads_to_no_other_site(small_world, path):
    browser = small_world.browser()
    browser.get("/login")
    assert browser.post("/language", {"language": "zh", "path": path}).headers["location"] == "/"


def test_what_is_refused_is_said_in_the_browsers_language(small_world):
    into = small_world.campaign()
    browser = small_world.browser(small_world.person("rater", into))
    chinese = {"accept-language": "zh"}
    assert browser.api("/spring/undo", {"key": "k" * 10}, **chinese).json()["detail"] == "没有可以撤销的内容。"
    assert browser.api("/spring/undo", {"key": "k" * 10}).json()["detail"] == "There is nothing to undo."
    visitor = small_world.browser()
    link = f"/invite/{invited(small_world)}"
    visitor.get(link)
    short = visitor.post(link, {"name": "ada", "password": "short"}, headers=chinese).text
    assert "密码至少需要 10 个字符。" in short and 'lang="zh-CN"' in short
    long = visitor.post(link, {"name": "a" * 65, "password": PASSWORD}, headers=chinese).text
    assert "用户名最多 64 个字符。" in long
    assert "请填写用户名。" in visitor.post(link, {"password": PASSWORD}, headers=chinese).text
    assert "Name is missing." in visitor.post(link, {"password": PASSWORD}).text
    wrong = visitor.post("/login", {"name": "ada", "password": "x"}, headers=chinese)
    assert wrong.status_code == 401 and "用户名或密码错误。" in wrong.text


def test_an_item_and_what_is_said_about_it_are_in_the_browsers_language(small_world):
    row = {
        "prompt": [{"role": "system", "content": "1"}, {"role": "user", "content": "![](x)"}],
        "answers": [{"completion": [{"role": "assistant", "content": text}]} for text in ("2 ![3](x)", "4")],
    }
    into = small_world.campaign(rows=[(Comparison.from_row(row), row)])
    browser = small_world.browser(small_world.person("rater", into))
    task = browser.api("/spring/next", None, **{"accept-language": "zh"}).json()["task"]
    assert "系统" in task["prompt"] and "[图片，无说明]" in task["prompt"]
    assert "[图片：3]" in task["left"] + task["right"]
    task = browser.api("/spring/next").json()["task"]
    assert "system" in task["prompt"] and "[image: 3]" in task["left"] + task["right"]


def test_a_value_in_a_message_is_escaped():
    assert text("verdict_slight_a_html", "zh") == "A <i>略好</i>"
    assert hasattr(text("verdict_slight_a_html"), "__html__") and not hasattr(text("sign_in"), "__html__")
