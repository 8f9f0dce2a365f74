"""How artifacts are named."""

import pytest

from align.artifacts.refs import Ref, is_ref
from align.errors import UserError


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("sft", Ref("sft", None, "latest")),
        ("sft:latest", Ref("sft", None, "latest")),
        ("sft:v2", Ref("sft", 2, None)),
        ("sft:v0012", Ref("sft", 12, None)),
        ("hh-rlhf_sft.0:best", Ref("hh-rlhf_sft.0", None, "best")),
    ],
)
def test_ref_parses(text, ref):
    assert Ref.parse(text) == ref
    assert Ref.parse(str(ref)) == ref


@pytest.mark.parametrize(
    "text",
    ["", ":", "sft:", ":v1", "sft:v0", "sft:2", "sft:v1:v2", "../sft", "a..b", "/sft", "sft/x", "sft:../x", "SFT"]
    + ["s ft", "sft\n", "sft:v1\n", "sft\x00", "-sft", ".sft", "sft∕x", "ѕft", "sft:v٣", "a" * 129, "hf", "hf:v1"],
)
def test_ref_refuses(text):
    with pytest.raises(UserError, match="not an artifact reference such as sft:v2") as caught:
        Ref.parse(text)
    assert "\n" not in str(caught.value) and "\x00" not in str(caught.value)


@pytest.mark.parametrize("text", ["hf:org/model@main", "./rows.jsonl", "../model", "data/x", "/data", "~/model", "."])
def test_what_is_no_ref(text):
    assert not is_ref(text)
