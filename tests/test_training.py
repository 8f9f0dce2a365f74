"""The training loop: where it goes on, and where it stops."""

import json

import pytest

from align.stages import sft

SAVES = ["trainer.save_strategy=steps", "trainer.save_steps=2", "tracking.sample_prompts=0"]


def steps(version) -> list[int]:
    """The steps that logged a training loss, in the order of metrics.jsonl."""
    lines = [json.loads(line) for line in (version.path / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [line["step"] for line in lines if "loss" in line]


def weights(version) -> dict:
    from safetensors.numpy import load_file

    return load_file(version.model_dir / "model.safetensors")


@pytest.mark.parametrize(
    "last",
    [
        pytest.param(True, id="after its last step"),
        pytest.param(False, id="before it", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_died_takes_the_steps_that_are_left(tiny_store, run_stage, monkeypatch, capsys, last):
    straight = run_stage(tiny_store, "stage=sft", "name=straight", *SAVES)
    # died with a checkpoint of the last step, in the middle of an epoch, or at step 3 with one of step 2
    with monkeypatch.context() as patch:

        def die(*_, **__):
            raise RuntimeError("died")

        if last:
            patch.setattr(sft, "save_model", die)
        else:
            patch.setattr("align.progress.TrackingCallback.on_step_begin", _die_at(3, die), raising=False)
        with pytest.raises(RuntimeError, match="died"):
            run_stage(tiny_store, "stage=sft", "name=resumed", *SAVES)
    resumed = run_stage(tiny_store, "stage=sft", "name=resumed", *SAVES)
    assert ("goes on after step 4, its last" if last else "goes on after step 2/4") in capsys.readouterr().out
    assert steps(resumed) == steps(straight) == [1, 2, 3, 4]
    assert resumed.manifest.metrics["eval_loss"] == pytest.approx(straight.manifest.metrics["eval_loss"], abs=1e-6)
    assert ("train_loss" in resumed.manifest.metrics) is not last
    ours, theirs = weights(resumed), weights(straight)
    assert all((ours[name] == theirs[name]).all() for name in theirs)


def _die_at(step: int, die):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 == step:
            die()

    return on_step_begin
