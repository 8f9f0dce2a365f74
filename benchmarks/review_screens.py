"""The pictures of the review app in the README: a real server, made-up answers and raters, Chromium.

python benchmarks/review_screens.py        # writes benchmarks/screens/*.png
"""

import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import sqlalchemy as sa
from playwright.sync_api import Browser, sync_playwright

from align.records import Comparison
from align.review import security
from align.review.database import Database, migrate
from align.review.loading import to_items
from align.review.schemas import RatingIn, Settings
from align.review.store import assignment, campaigns, people, ratings

FOLDER = Path(__file__).parent / "screens"
SHOWN = {
    "prompt": "A ball is thrown upwards at 12 m/s. How high does it rise, and how would I compute that in Python?",
    "answers": [
        {
            "completion": "At the top its speed is zero, so energy gives\n\n$$h = "
            "\\frac{v^2}{2g} = \\frac{12^2}{2 \\cdot "
            "9.81} \\approx 7.3\\ \\text{m}$$\n\n```python\ndef height(v: float, g: float = 9.81) -> float:\n"
            '    """Metres that a body thrown upwards at v m/s rises."""\n    return v**2 / (2 * g)\n```\n\n'
            "Air resistance makes it a little **less**.",
            "model": "dpo:v3",
        },
        {
            "completion": "Use $v = gt$, so it takes $12 / 9.81 \\approx 1.2$ s. The height is $v \\cdot t \\approx "
            "14.7$ m.\n\n"
            "| quantity | value |\n|---|---|\n| time | 1.2 s |\n| height | 14.7 m |\n\n- `print(12 * 1.2)`",
            "model": "sft:v2",
        },
    ],
}
PHONE = {
    "prompt": "لماذا السماء زرقاء؟",
    "answers": [
        {"completion": "بسبب **تشتت رايلي**: يتشتت الضوء الأزرق في الهواء أكثر من الأحمر.", "model": "dpo:v3"},
        {"completion": "لأنها تعكس لون البحر.", "model": "sft:v2"},
    ],
}
INSTRUCTIONS = "请先看事实是否正确，再看表达是否清楚、完整。"
CHINESE = {
    "prompt": "以 12 m/s 的速度竖直上抛一个小球，它能上升多高？怎样用 Python 计算？",
    "answers": [
        {
            "completion": "到达最高点时速度为零，由能量守恒得\n\n$$h = \\frac{v^2}{2g} = \\frac{12^2}{2 \\cdot 9.81} "
            "\\approx 7.3\\ \\text{m}$$\n\n```python\ndef height(v: float, g: float = 9.81) -> float:\n"
            '    """以 v m/s 竖直上抛的物体上升的高度（米）。"""\n    return v**2 / (2 * g)\n```\n\n'
            "空气阻力会使实际高度**略低**一些。",
            "model": "dpo:v3",
        },
        {
            "completion": "由 $v = gt$ 得，用时 $12 / 9.81 \\approx 1.2$ 秒，"
            "高度为 $v \\cdot t \\approx 14.7$ 米。\n\n"
            "| 物理量 | 数值 |\n|---|---|\n| 时间 | 1.2 秒 |\n| 高度 | 14.7 米 |\n\n- `print(12 * 1.2)`",
            "model": "sft:v2",
        },
    ],
}
MODELS = {"dpo:v3": 1.0, "dpo:v2": 0.5, "sft:v2": -0.4}


def rated(tx: sa.Connection) -> people.Person:
    """A campaign in which four people have rated, one of whom leans to the left side; the admin who looks at it."""
    draw = random.Random(5)
    settings = Settings(title="Which answer helps more?", overlap=3, gold=0.0)
    into = campaigns.add_campaign(tx, "spring", settings, now=time.time())
    rows = []
    for number in range(120):
        answers = [{"completion": f"{one} {number}", "model": one} for one in draw.sample(sorted(MODELS), 2)]
        rows.append((Comparison.from_row({"prompt": f"Question {number}", "answers": answers}), {}))
    campaigns.add_items(tx, into, to_items(rows, settings), None)
    raters = [people.add_person(tx, role="rater", now=0.0, name=f"rater {number}") for number in range(4)]
    for one in raters:
        people.join(tx, into.id, one.id)
    now = time.time() - 5 * 86400
    for number in range(260):
        one = raters[number % 4]
        given = assignment.take_next(tx, into, one, now=now)
        now += draw.expovariate(1 / 1500)
        if given is None:
            continue
        left, right = (given.b, given.a) if given.flipped else (given.a, given.b)
        gap = MODELS[left.split()[0]] - MODELS[right.split()[0]] + draw.gauss(0, 0.5) + 0.5 * (one is raters[3])
        verdict = ("b", "slight_b", "tie", "slight_a", "a")[sum(gap > limit for limit in (-0.8, -0.25, 0.25, 0.8))]
        sent = RatingIn(key=f"rating-{number:08}", verdict=verdict, milliseconds=int(draw.lognormvariate(9.6, 0.5)))
        ratings.rate(tx, into, one, given.id, sent, now=now)
    admin = people.add_person(tx, role="admin", now=0.0, name="Ada")
    people.join(tx, into.id, admin.id)
    in_chinese = Settings(title="哪个回答对用户更有帮助？", overlap=3, gold=0.0, instructions=INSTRUCTIONS)
    for name, row, rules in (
        ("physics", SHOWN, settings),
        ("arabic", PHONE, settings),
        ("chinese", CHINESE, in_chinese),
    ):
        one_pair = campaigns.add_campaign(tx, name, rules, now=time.time())
        campaigns.add_items(tx, one_pair, to_items([(Comparison.from_row(row), row)], rules), None)
        people.join(tx, one_pair.id, admin.id)
    return admin


def take(browser: Browser, origin: str, token: str) -> None:
    """The pictures."""

    def page(width: int, height: int, locale: str = "en-US"):
        viewport = {"width": width, "height": height}
        context = browser.new_context(base_url=origin, viewport=viewport, locale=locale)
        context.add_cookies([{"name": "align_session", "value": token, "url": origin}])
        return context.new_page()

    FOLDER.mkdir(exist_ok=True)
    screen = page(1280, 800)
    screen.goto("/rate/physics")
    screen.locator("#left .prose").wait_for()
    screen.keyboard.press("2")
    screen.screenshot(path=FOLDER / "rate.png")
    screen.goto("/admin/campaigns/spring")
    screen.locator("#figures").screenshot(path=FOLDER / "progress.png")
    chinese = page(1280, 800, "zh-CN")
    chinese.goto("/rate/chinese")
    chinese.locator("#left .prose").wait_for()
    chinese.keyboard.press("1")
    chinese.screenshot(path=FOLDER / "rate-zh.png")
    phone = page(390, 780)
    phone.goto("/rate/arabic")
    phone.locator("#left .prose").wait_for()
    phone.locator('.v:has(input[value="both_good"])').click()
    phone.screenshot(path=FOLDER / "phone.png")


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / ".review").mkdir(mode=0o700)
        database = Database(str(folder / ".review" / "review.db"))
        database.now(migrate)
        admin, token = database.now(rated), security.new_token()
        database.now(people.add_session, security.digest(token), admin.id, now=0.0, expires=time.time() + 3600)
        words = [sys.executable, "-m", "align.cli", "review", "serve", "--port", "0", "--artifacts", place]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
        try:
            origin = re.search(r"align review on (\S+),", server.stdout.readline())[1]
            with sync_playwright() as driver:
                options = ["--no-sandbox"] if os.geteuid() == 0 else []
                take(driver.chromium.launch(executable_path=shutil.which("chromium"), args=options), origin, token)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
