"""The manifest: what it holds, its digest, and what it refuses."""

import json
import re

import pytest

from align.artifacts.manifest import Manifest
from align.errors import UserError

IDENTITY = "0123456789abcdef"


def a_manifest(**changes):
    files = {"model/model.safetensors": {"sha256": "a" * 64, "size": 10}}
    return Manifest(**{"name": "sft", "version": 2, "type": "model", "files": files} | changes)


def test_manifest_round_trip():
    inputs = {"policy": {"ref": "pretrain:v1", "digest": "d"}, "dataset": [{"ref": "a/b", "digest": "e"}]}
    manifest = a_manifest(inputs=inputs, metrics={"eval_loss": 1.5}, seed=0, identity=IDENTITY)
    assert Manifest.from_json(manifest.to_json(), "here") == manifest
    assert [role for role, _ in manifest.each_input()] == ["policy", "dataset"]


def test_manifest_digest_is_of_the_content():
    manifest = a_manifest()
    log = {"metrics.jsonl": {"sha256": "b" * 64, "size": 1}}
    same = a_manifest(version=3, ended="2026-01-01T00:00:00Z", seed=3, files=manifest.files | log)
    assert same.digest == manifest.digest
    assert a_manifest(type="reward_model").digest != manifest.digest
    assert a_manifest(files={"model/x": {"sha256": "a" * 64, "size": 10}}).digest != manifest.digest


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda body: body.pop("files"), "no field 'files'"),
        (lambda body: body.update(colour=1), "unknown field 'colour'"),
        (lambda body: body.update(version="2"), "version is '2'"),
        (lambda body: body.update(version=True), "version is True"),
        (lambda body: body.update(type="modle"), "type is 'modle'"),
        (lambda body: body.update(schema=None), "schema is None"),
        (lambda body: body.update(schema=2), "use a newer align"),
        (lambda body: body.update(inputs={"policy": "sft:v1"}), "inputs['policy']"),
        (lambda body: body["files"].update({"../x": {"sha256": "a" * 64, "size": 1}}), "not a path inside"),
        (lambda body: body["files"].update({"x": {"sha256": "a", "size": 1}}), "files['x']"),
        (lambda body: body["files"]["model/model.safetensors"].update(size=11), "digest is"),
    ],
)
def test_manifest_refuses_what_is_wrong(change, says):
    body = json.loads(a_manifest().to_json())
    change(body)
    with pytest.raises(UserError, match=re.escape(says)) as caught:
        Manifest.from_json(json.dumps(body), "sft/v0002/manifest.json")
    assert str(caught.value).startswith("sft/v0002/manifest.json ")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\udcff"])
def test_manifest_refuses_what_is_no_json_object(text):
    with pytest.raises(UserError, match="is damaged: not"):
        Manifest.from_json(text.encode("utf-8", "surrogateescape"), "here")
