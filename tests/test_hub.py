import contextlib
import dataclasses
import hashlib
import json
import pickle
import shutil
import sys
import threading
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import huggingface_hub
import huggingface_hub.constants
import pytest
from huggingface_hub.errors import HTTPError

from finetune import hub
from finetune.config.choices import Hub
from finetune.config.compose import compose
from finetune.errors import UserError
from finetune.model import build_base, load

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def model(**changes):
    config = compose(["recipes=full", "model=custom"]).model
    return dataclasses.replace(config, **changes)


def built(wanted, tmp_path) -> int:
    """Make the base model of what the hub gives; return the length of its vectors."""
    build_base(wanted, tmp_path / "base")
    return load(tmp_path / "base").get_embedding_dimension()


# --- Hugging Face ---


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty Hugging Face cache, and no network."""
    home = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(home))
    home.mkdir()
    return home


def put(home: Path, source: Path, commit: str = COMMIT) -> Path:
    """Put a model where the library does: blobs by hash, links to them, the list of the files."""
    folder = home / "models--owner--name"
    listed = {}
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        name = path.relative_to(source)
        blob = folder / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blob)
        link = folder / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(*[".."] * (len(name.parts) + 1), "blobs", blob.name))
        assert link.read_bytes() == path.read_bytes()
        listed[str(name)] = {"size": path.stat().st_size, "blob_id": blob.name}
    for name, text in {
        "refs/main": commit,
        f"trees/{commit}.json": json.dumps({"format_version": 1, "files": listed}),
    }.items():
        (folder / name).parent.mkdir()
        (folder / name).write_text(text)
    return folder / "snapshots" / commit


@pytest.mark.parametrize("network", ["HF_HUB_OFFLINE", "nobody answers"])
def test_a_pinned_model_is_found_in_the_cache(cache, tiny_model, tmp_path, monkeypatch, network):
    if network == "nobody answers":
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    snapshot = put(cache, tiny_model)
    wanted = model(hub=Hub.huggingface, id="owner/name", revision=COMMIT, max_length=64)
    assert hub.fetch(wanted) == snapshot
    assert built(wanted, tmp_path) == 32


def test_a_download_that_was_cut_short_is_not_taken_for_the_model(cache, tiny_model):
    snapshot = put(cache, tiny_model)
    (snapshot / "modules.json").unlink()
    with pytest.raises(UserError, match="is neither in the local cache nor to be had"):
        hub.fetch(model(hub=Hub.huggingface, id="owner/name", revision=COMMIT))


def test_a_proxy_that_refuses_is_no_traceback(cache, monkeypatch):
    def snapshot_download(*args, **settings):
        raise HTTPError("403 Forbidden by the proxy")  # no OSError, as the library lets it through

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(UserError, match="403 Forbidden by the proxy. Ways out"):
        hub.fetch(model(hub=Hub.huggingface, id="owner/name"))


def test_without_a_revision_the_newest_is_taken_and_told(cache, tiny_model, caplog):
    caplog.set_level("INFO")
    snapshot = put(cache, tiny_model)
    wanted = model(hub=Hub.huggingface, id="owner/name", revision=None)
    assert hub.fetch(wanted) == snapshot
    assert hub.revision(wanted, snapshot) == COMMIT
    assert f"owner/name (revision {COMMIT})" in caplog.text


@pytest.mark.parametrize(("there", "revision"), [(False, None), (False, COMMIT), (True, "f" * 40)])
def test_offline_the_error_tells_what_was_tried_and_the_ways_out(
    cache, tiny_model, there, revision
):
    if there:
        put(cache, tiny_model)
    with pytest.raises(UserError) as caught:
        hub.fetch(model(name="m3e", hub=Hub.huggingface, id="owner/name", revision=revision))
    (problem,) = caught.value.problems
    for part in (
        "model=m3e", "owner/name", revision or "newest", "huggingface", "HF_ENDPOINT",
        f"tried {cache} and https://", "model.hub=modelscope", "model=custom model.path=<folder>",
        "model=starter",
    ):  # fmt: skip
        assert part in problem
    assert "\n" not in problem


# --- ModelScope ---


def test_modelscope_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "modelscope", None)
    monkeypatch.setitem(sys.modules, "modelscope.hub.errors", None)
    with pytest.raises(UserError, match=r"pip install 'finetune\[modelscope\]'"):
        hub.fetch(model(hub=Hub.modelscope, id="owner/name"))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The cache of the real ModelScope library, which does not wait before it tries again."""
    pytest.importorskip("modelscope")
    monkeypatch.setattr("modelscope_hub._legacy_api.REPO_TREE_PAGE_MAX_ATTEMPTS", 1)
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
    connect(monkeypatch, "http://127.0.0.1:9")  # nobody answers
    return tmp_path / "cache"


def connect(monkeypatch, address: str) -> None:
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", address)
    monkeypatch.setattr("modelscope_hub.config._default_config", None)  # else remembered


@contextlib.contextmanager
def served(folder: Path, damaged: bool = False):
    """A server that answers as ModelScope's does; gives its address and the revisions asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            url = urlsplit(self.path)
            query = {key: value[0] for key, value in parse_qs(url.query).items()}
            if "Revision" not in query:  # not about the files
                self.send_error(404)
                return
            asked.append(query["Revision"])
            if url.path.endswith("/repo/files"):
                body = json.dumps({"Code": 200, "Success": True, "Data": {"Files": [
                    {"Path": str(path.relative_to(folder)), "Type": "blob",
                     "Size": path.stat().st_size,
                     "Sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
                    for path in sorted(folder.rglob("*")) if path.is_file()
                ]}}).encode()  # fmt: skip
            else:
                body = (folder / query["FilePath"]).read_bytes()
                body = bytes(len(body)) if damaged else body
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def offered(tiny_model, tmp_path) -> Path:
    """A model, and files beside it that nobody needs."""
    folder = Path(shutil.copytree(tiny_model, tmp_path / "offered"))
    for name in ("modeling_new.py", "README.md", "onnx/model.onnx", "onnx/config.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    return folder


@pytest.mark.parametrize(
    ("revision", "asked_for"), [(COMMIT, "master"), ("v1.5", "v1.5"), (None, "master")]
)
def test_what_modelscope_gave_is_found_again_without_it(
    home, offered, tiny_model, tmp_path, monkeypatch, caplog, revision, asked_for
):
    wanted = model(hub=Hub.modelscope, id="owner/na.me", revision=revision, max_length=64)
    with served(offered) as (address, asked):
        connect(monkeypatch, address)
        folder = hub.fetch(wanted)
    assert folder == home / "models/owner--na.me/snapshots" / asked_for
    assert set(asked) == {asked_for}  # no commit of Hugging Face's
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {str(p.relative_to(tiny_model)) for p in tiny_model.rglob("*") if p.is_file()}
    assert hub.revision(wanted, folder) == asked_for
    assert hub.fetch(wanted) == folder  # the server is gone
    assert f"taken from its cache: {folder}" in caplog.text
    assert built(wanted, tmp_path) == 32


def put_as_before(folder: Path, source: Path) -> None:
    """Put a model where ModelScope's library did before 1.38."""
    shutil.copytree(source, folder)
    keys = [{"Path": str(path.relative_to(source)), "Revision": "0" * 40}
            for path in source.rglob("*") if path.is_file()]  # fmt: skip
    (folder / ".msc").write_bytes(pickle.dumps(keys))
    (folder / ".mdl").write_bytes(pickle.dumps({"id": "owner/na.me"}))
    (folder / ".mv").write_text("Revision:master,CreatedAt:1700000000")
    temporary = folder.parents[1] / "._____temp/owner/na.me"
    temporary.mkdir(parents=True)
    (temporary / "model.safetensors").write_bytes(b"half")


@pytest.mark.parametrize(
    "place", ["models/owner/na___me", "hub/models/owner/na___me", "owner/na___me"]
)
def test_older_caches_of_modelscope_are_found(home, tiny_model, tmp_path, place):
    put_as_before(home / place, tiny_model)
    wanted = model(hub=Hub.modelscope, id="owner/na.me", max_length=64)
    assert hub.fetch(wanted) == home / place
    assert hub.revision(wanted, home / place) == "unknown"
    assert built(wanted, tmp_path) == 32


def test_a_download_from_modelscope_that_was_cut_short(home, tiny_model, tmp_path):
    folder = home / "models/owner--name/snapshots/master"
    shutil.copytree(tiny_model, folder)
    (folder / "model.safetensors").rename(folder / "model.safetensors.incomplete")
    with pytest.raises(UserError, match="not a model that sentence-transformers can load"):
        build_base(model(hub=Hub.modelscope, id="owner/name"), tmp_path / "base")


@pytest.mark.parametrize("there", [None, "master"])
def test_without_modelscope_the_error_tells_what_was_tried(home, tiny_model, there):
    if there:
        shutil.copytree(tiny_model, home / "models/owner--name/snapshots" / there)
    with pytest.raises(UserError) as caught:
        hub.fetch(model(name="m3e", hub=Hub.modelscope, id="owner/name", revision="v2"))
    (problem,) = caught.value.problems
    for part in (
        "model=m3e", "owner/name (revision v2)", "is neither in the local cache nor to be had from",
        f"tried {home}/models/owner--name/snapshots/v2 and", "127.0.0.1", "model.hub=huggingface",
        "model=custom model.path=<folder>", "model=starter",
    ):  # fmt: skip
        assert part in problem
    assert "HF_ENDPOINT" not in problem and "\n" not in problem


def test_what_is_damaged_on_the_way_from_modelscope_is_told(home, offered, monkeypatch):
    monkeypatch.setattr("modelscope_hub._download.DOWNLOAD_INTEGRITY_RETRY_BACKOFF", 0)
    with served(offered, damaged=True) as (address, _):
        connect(monkeypatch, address)
        with pytest.raises(UserError, match=r"nor to be had from modelscope: .* 8 of 8 file\(s\)"):
            hub.fetch(model(hub=Hub.modelscope, id="owner/name"))


# --- both, and local folders ---


def test_no_code_is_fetched(cache, monkeypatch, tmp_path):
    seen = {}

    def snapshot_download(model_id, **settings):
        seen.update(settings)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    hub.fetch(model(hub=Hub.huggingface, id="owner/name", revision=COMMIT))

    def wanted(path):
        allowed = any(fnmatch(path, pattern) for pattern in seen["allow_patterns"])
        return allowed and not any(fnmatch(path, p) for p in seen["ignore_patterns"])

    assert seen["revision"] == COMMIT
    needed = ["config.json", "modules.json", "vocab.txt", "tokenizer.json", "model.safetensors",
              "pytorch_model.bin", "1_Pooling/config.json", "2_Dense/model.safetensors",
              "2_Dense/pytorch_model.bin", "sentencepiece.bpe.model"]  # fmt: skip
    assert [path for path in needed if not wanted(path)] == []
    left = ["modeling_new.py", "README.md", "onnx/model.onnx", "onnx/config.json", "tf_model.h5",
            "openvino/openvino_model.bin", "flax_model.msgpack", "rust_model.ot"]  # fmt: skip
    assert [path for path in left if wanted(path)] == []


@pytest.mark.parametrize(
    ("changes", "phrase"),
    [
        ({"path": None}, "model.path=<folder>"),
        ({"path": Path("/nowhere/at/all")}, "no such folder"),
        ({"path": Path(__file__)}, "no such folder"),
        ({"path": Path(__file__).parent}, "not a model"),
        ({"hub": Hub.huggingface, "id": None}, "model.id=<owner/name>"),
    ],
)
def test_what_is_no_model(changes, phrase):
    with pytest.raises(UserError) as caught:
        hub.fetch(model(**changes))
    assert phrase in str(caught.value)


def test_a_home_folder_is_expanded(tmp_path, monkeypatch, tiny_model):
    monkeypatch.setenv("HOME", str(tiny_model.parent))
    assert hub.fetch(model(path=Path("~/model"))) == tiny_model


def test_the_revision_of_a_folder_is_unknown(tiny_model):
    assert hub.revision(model(), tiny_model) == "unknown"
