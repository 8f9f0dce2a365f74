"""The review loop in one script: a model answers, people rate the answers, the next model learns from the ratings.

    make demo                             # or any chat model of yours, in the same artifact directory
    python examples/review_loop.py

Two raters are simulated: each signs in over HTTP, as people do in the browser, and prefers what the demo's judge
scores higher. In a loop of your own, send each person the link that `align review invite` prints, and wait.
"""

import argparse
import http.cookiejar
import json
import re
import secrets
import subprocess
import sys
import urllib.parse
import urllib.request
from html import unescape
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data" / "demo"))

from world import judge

ALIGN = [sys.executable, "-m", "align.cli"]


def align(*words: str) -> str:
    """Run an `align` command, show it, and return what it printed."""
    print("$ align", *words, flush=True)
    ended = subprocess.run([*ALIGN, *words], stdout=subprocess.PIPE, text=True, check=True)
    print(ended.stdout, flush=True)
    return ended.stdout


class Rater:
    """A person in a browser: cookies, the token of the forms, and a verdict on every pair."""

    def __init__(self, invitation: str, name: str):
        self.site = re.match(r"https?://[^/]+", invitation)[0]
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self.browser = urllib.request.build_opener(urllib.request.ProxyHandler({}), cookies)
        form = {"csrf": self.token(invitation), "name": name, "password": secrets.token_urlsafe(12)}
        self.open(invitation, urllib.parse.urlencode(form).encode())

    def open(self, url: str, body: bytes | None = None, **headers: str) -> str:
        request = urllib.request.Request(url, body, {"Origin": self.site, **headers})
        with self.browser.open(request, timeout=30) as answer:
            return answer.read().decode()

    def token(self, page: str) -> str:
        return re.search(r'name="csrf" content="([^"]+)"', self.open(page))[1]

    def rate(self, campaign: str) -> int:
        """Rate until nothing is left; the number of ratings."""
        headers = {"X-CSRF-Token": self.token(f"{self.site}/rate/{campaign}"), "Content-Type": "application/json"}
        base = f"{self.site}/api/campaigns/{campaign}"
        answer = json.loads(self.open(f"{base}/next", b"", **headers))
        while task := answer["task"]:
            rating = json.dumps({"key": secrets.token_urlsafe(12), "verdict": verdict(task)}).encode()
            answer = json.loads(self.open(f"{base}/assignments/{task['assignment']}/rating", rating, **headers))
        return answer["done"]


def verdict(task: dict[str, str]) -> str:
    """The side with the higher gold score; "slight" where they are near."""
    prompt, left, right = (text(task[side]) for side in ("prompt", "left", "right"))
    gap = judge(prompt, left) - judge(prompt, right)
    if gap == 0:
        return "tie"
    return ("slight_" if abs(gap) < 0.3 else "") + ("a" if gap > 0 else "b")


def text(html: str) -> str:
    return unescape(re.sub(r"<[^>]+>", "", html)).strip()


def main(artifacts: Path, policy: str, overrides: dict[str, list[str]]) -> None:
    """Sample, rate, train, evaluate; `overrides` by stage."""
    place = ("--artifacts", str(artifacts))

    def run(stage: str, *words: str) -> None:
        align("run", f"experiment=tiny_{stage}", *words, f"artifacts.root={artifacts}", *overrides.get(stage, []))

    run("sample", f"inputs.policy={policy}", "sample.max_prompts=400")
    align("review", "load", "comparisons:latest", "--campaign", "loop", *place)
    command = [*ALIGN, "review", "serve", "--port", "0", *place]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            site = re.search(r"http://[\w.:]+", server.stdout.readline())[0]
            for name in ("Ada", "Ben"):
                invitation = align("review", "invite", "--campaign", "loop", "--url", site, *place)
                rater = Rater(re.search(r"http://\S+", invitation)[0], name)
                print(f"{name} rated {rater.rate('loop')} pairs\n", flush=True)
        finally:
            server.terminate()
    align("review", "export", "loop", "--name", "loop-prefs", *place)
    run("dpo", f"inputs.policy={policy}", "inputs.dataset=loop-prefs:latest")
    run("evaluate", "inputs.policy=dpo", f"inputs.baseline={policy}")
    align("review", "ratings", "dpo:latest", *place)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"))
    parser.add_argument("--policy", default="sft:latest")
    parser.add_argument("--seed", type=int, default=0, help="of the answers and of training")
    arguments = parser.parse_args()
    seeds = {"sample": [f"sample.seed={arguments.seed}"], "dpo": [f"trainer.seed={arguments.seed}"]}
    main(arguments.artifacts, arguments.policy, seeds)
