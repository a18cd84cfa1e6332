import dataclasses
import importlib.util
import shutil
import sys
import types
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest

from finetune import hub
from finetune.compose import compose
from finetune.config import Hub
from finetune.errors import UserError
from finetune.model import build_base, load

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def model(**changes):
    config = compose(["recipes=full", "model=custom"]).model
    return dataclasses.replace(config, **changes)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A Hugging Face cache with one model in it, and no network."""
    home = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(home))
    home.mkdir()
    return home


def put(home: Path, source: Path, commit: str = COMMIT) -> Path:
    folder = home / "models--owner--name"
    snapshot = folder / "snapshots" / commit
    shutil.copytree(source, snapshot)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text(commit)
    return snapshot


def test_a_pinned_model_is_found_in_the_cache_offline(cache, tiny_model, tmp_path):
    snapshot = put(cache, tiny_model)
    wanted = model(hub=Hub.huggingface, id="owner/name", revision=COMMIT, max_length=64)
    assert hub.fetch(wanted) == snapshot
    build_base(wanted, tmp_path / "base")
    assert load(tmp_path / "base").get_embedding_dimension() == 32


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
        "model.hub=modelscope", "model=custom model.path=<folder>", "model=starter",
    ):  # fmt: skip
        assert part in problem
    assert "\n" not in problem


def test_modelscope_says_how_to_install_it():
    if importlib.util.find_spec("modelscope"):
        pytest.skip("modelscope is installed")
    with pytest.raises(UserError, match=r"pip install 'finetune\[modelscope\]'"):
        hub.fetch(model(hub=Hub.modelscope, id="owner/name"))


def test_modelscope_is_not_asked_for_a_commit_of_hugging_face(monkeypatch, tmp_path):
    asked = []

    def snapshot_download(model_id, revision, allow_patterns):
        asked.append((model_id, revision))
        assert not any("*.py" in pattern for pattern in allow_patterns)
        return str(tmp_path)

    fake = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "modelscope", fake)
    for revision in (COMMIT, "v1.5", None):
        assert hub.fetch(model(hub=Hub.modelscope, id="o/n", revision=revision)) == tmp_path
    assert asked == [("o/n", None), ("o/n", "v1.5"), ("o/n", None)]


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
