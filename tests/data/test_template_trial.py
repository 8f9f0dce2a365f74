"""Chat templates that would never end, or take all memory, are refused before anything else renders them."""

import shutil
import time

import pytest

from align.config.paths import PROJECT
from align.data.tokens import template_trial
from align.data.tokens.template_trial import check_template_runs
from align.errors import UserError

HOSTILE = {
    "nested loops": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "does not end within . seconds",
    ),
    "loops that write": (
        "{% for a in range(99999) %}{% for b in range(999) %}xxxxxxxxxx{% endfor %}{% endfor %}",
        "writes more than 100000 characters|does not end",
    ),
    "a huge format": ("{{ '%2000000000d' % 1 }}", "takes more than 256 MiB"),
    "a huge str.format": ("{{ '{:>2000000000}'.format(1) }}", "takes more than 256 MiB|writes more"),
    "a long repetition": ("{{ 'x' * 2000000000 }}", "takes more than 256 MiB"),
    "a constant that is computed while compiling": ("{{ 9 ** (9 ** 9) }}", "does not end|takes more"),
    "doubling": (
        "{% set n = namespace(x='x') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
        "takes more than 256 MiB",
    ),
}
HARMLESS = {
    "plain": "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}",
    "generation": "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}",
    "break": "{% for m in messages %}{% break %}{% endfor %}",
    "its own error": "{{ raise_exception('only one message') }}",
    "no template": "{% for %}",
    "an attribute that is not allowed": "{{ ''.__class__.__mro__ }}",
    "json and time": "{{ messages | tojson(indent=2) }}{{ strftime_now('%Y') }}",
}


@pytest.fixture(autouse=True)
def _small_limits(monkeypatch, tmp_path):
    """The child reads the limits from its own file; here they are lower, so that the tests are fast."""
    text = (PROJECT / "align" / "data" / "tokens" / "template_trial.py").read_text("utf-8")
    for name, value in (("SECONDS", "1"), ("BYTES", "1 << 28"), ("CHARACTERS", "100_000")):
        line = next(line for line in text.splitlines() if line.startswith(f"{name} = "))
        text = text.replace(line, f"{name} = {value}")
        monkeypatch.setattr(template_trial, name, eval(value))
    file = tmp_path / "template_trial.py"
    file.write_text(text)
    monkeypatch.setattr(template_trial, "__file__", str(file))


@pytest.mark.parametrize(("template", "said"), HOSTILE.values(), ids=list(HOSTILE))
def test_a_hostile_template_is_refused(template, said):
    start = time.monotonic()
    with pytest.raises(UserError, match=f"the chat template of evil ({said}).* for a conversation of a few messages"):
        check_template_runs(template, "evil")
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("template", HARMLESS.values(), ids=list(HARMLESS))
def test_a_harmless_template_passes(template):
    check_template_runs(template, "good", [{"role": "user", "content": "é \x1b[31m"}])


def test_a_template_of_align_and_one_seen_before_start_no_process(monkeypatch):
    check_template_runs(HARMLESS["plain"], "good")
    monkeypatch.setattr(template_trial.subprocess, "run", lambda *given, **options: pytest.fail("a process"))
    check_template_runs(HARMLESS["plain"], "good")
    check_template_runs((PROJECT / "conf" / "model" / "chat.jinja").read_text(), "good")


def test_every_reader_of_a_template_tries_it_first(tiny_store, capsys):
    """A stage before it takes an accelerator, and `align data`, before they render anything."""
    from align.artifacts.store import Store
    from align.cli import main
    from align.run import stage
    from tests.conftest import stage_overrides

    store = Store(tiny_store)
    source = store.resolve("sft:v1").model_dir
    folder = store.stage("evil")
    (folder / "model").mkdir()
    for file in source.iterdir():
        (folder / "model" / file.name).write_bytes(file.read_bytes())
    (folder / "model" / "chat_template.jinja").write_text(HOSTILE["a long repetition"][0])
    store.publish(folder, name="evil", type="model")
    assert (
        stage.main(stage_overrides(tiny_store, "stage=dpo", "inputs.policy=evil:v1", "inputs.ref_model=evil:v1")) == 2
    )
    assert "the chat template of evil:v1 takes more than 256 MiB" in capsys.readouterr().err
    words = ["data", "check", "data/demo/preferences.eval.jsonl", "--model", "evil:v1"]
    assert main([*words, "--artifacts", str(tiny_store)]) == 2
    assert "the chat template of --model evil:v1 takes more than 256 MiB" in capsys.readouterr().err


def test_every_template_that_may_be_rendered_is_tried(tiny_store, capsys):
    """transformers takes another of a model's templates where there are tools."""
    from align.run import stage
    from tests.conftest import stage_overrides

    folder = tiny_store.parent / "model"
    shutil.copytree(tiny_store / "sft" / "v0001" / "model", folder)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text(HOSTILE["a long repetition"][0])
    assert stage.main(stage_overrides(tiny_store, "stage=sft", f"inputs.policy={folder}")) == 2
    assert f"the chat template of {folder} takes more than 256 MiB" in capsys.readouterr().err
