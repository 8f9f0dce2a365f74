"""What a stage is given: artifacts, paths and repositories of a hub."""

import dataclasses
import http.server
import json
import threading

import pytest

from align.artifacts.digests import path_digest
from align.artifacts.inputs import parse_hub, resolve_input
from align.artifacts.store import Store
from align.errors import UserError
from tests.artifacts.versions import publish


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_input_artifact(store):
    version = publish(store)
    given = resolve_input(store, "sft:latest")
    assert (given.kind, given.ref, given.path, given.type) == ("artifact", "sft:v1", version.model_dir, "model")
    assert given.manifest == version.manifest
    record = given.to_manifest()
    assert record == {
        "ref": "sft:v1",
        "digest": version.digest,
        "kind": "artifact",
        "type": "model",
        "source": "sft:latest",
    }
    child = publish(store, "dpo", inputs={"policy": record, "baseline": [record, record]})
    assert [one.version for one in store.parents(child)] == [version] * 3


def test_input_dataset_artifact_is_the_version_folder(store):
    version = publish(store, "pairs", {"records/train.jsonl": b"{}\n"}, type="dataset", format="preference")
    assert resolve_input(store, "pairs").path == version.path


def test_input_path(store, tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    folder = resolve_input(store, "./model")
    assert (folder.kind, folder.ref, folder.path, folder.type) == ("path", "./model", tmp_path / "model", None)
    assert folder.to_manifest() == {"ref": "./model", "digest": folder.digest, "kind": "path"}
    (tmp_path / "model" / ".git").mkdir()
    (tmp_path / "model" / ".git" / "HEAD").write_text("x")
    assert path_digest(tmp_path / "model") == folder.digest
    (tmp_path / "model" / "extra.json").symlink_to("../rows.jsonl")
    (tmp_path / "model" / "loop").symlink_to(".")
    assert path_digest(tmp_path / "model") != folder.digest
    with pytest.raises(UserError, match=r"for the file or folder here, write \./rows.jsonl"):
        resolve_input(store, "rows.jsonl")
    with pytest.raises(UserError, match="input './nowhere' does not exist"):
        resolve_input(store, "./nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no config.json"):
        resolve_input(store, "./empty")


@pytest.mark.parametrize("text", ["hf:", "hf:a/b/c", "hf:a/b@", "hf:../x", "hf:a/b@..", "hf:a b", "hf:/a"])
def test_hub_names_are_checked(text):
    with pytest.raises(UserError, match="is not a Hugging Face repository: write hf:org/name"):
        parse_hub(text)


COMMIT = "c" * 40
HUB_FILES = ["config.json", "model.safetensors", "pytorch_model.bin", "modeling.py", "onnx/config.json"]


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as one public repository, org/tiny, needs."""

    def do_GET(self):
        self.server.asked.append(self.path)
        content = b"{}"
        if self.path.startswith("/api/models/org/tiny/revision/"):
            content = json.dumps({"id": "org/tiny", "sha": COMMIT, "siblings": []}).encode()
        elif self.path.startswith(f"/api/models/org/tiny/tree/{COMMIT}"):
            files = [{"type": "file", "path": path, "size": 2, "oid": "d" * 40} for path in HUB_FILES]
            content = json.dumps(files).encode()
        elif not self.path.startswith(f"/org/tiny/resolve/{COMMIT}/"):
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.send_header("ETag", '"' + "d" * 40 + '"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on this machine, and a cache of our own; `hub.offline()` takes it away."""
    constants = pytest.importorskip("huggingface_hub.constants")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    server.offline = lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_input_hub_takes_weights_and_text_only(store, hub):
    given = resolve_input(store, "hf:org/tiny@main")
    assert (given.kind, given.ref, given.revision) == ("hub", f"hf:org/tiny@{COMMIT}", COMMIT)
    got = sorted(path.relative_to(given.path).as_posix() for path in given.path.rglob("*") if path.is_file())
    assert got == ["config.json", "model.safetensors"]
    assert not [path for path in hub.asked if path.endswith((".bin", ".py"))]
    record = given.to_manifest()
    assert record["source"] == "hf:org/tiny@main" and record["revision"] == COMMIT
    with pytest.raises(UserError, match="no such model repository"):
        resolve_input(store, "hf:org/absent")
    hub.offline()
    again = resolve_input(store, "hf:org/tiny@main")
    assert dataclasses.replace(again, text=given.text) == given
    assert resolve_input(store, f"hf:org/tiny@{COMMIT}").digest == given.digest
    with pytest.raises(UserError, match="hf:org/other is not in the local cache and could not be downloaded"):
        resolve_input(store, "hf:org/other")
