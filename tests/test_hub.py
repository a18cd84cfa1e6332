import contextlib
import dataclasses
import hashlib
import json
import pickle
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import huggingface_hub
import huggingface_hub.constants
import pytest
import yaml
from hub_cache import COMMIT, answering, put
from huggingface_hub.errors import HTTPError
from serving import Quiet, serving
from tiny_runs import overrides

from finetune import hub, pipeline
from finetune.config.choices import Hub
from finetune.config.compose import compose
from finetune.errors import UserError
from finetune.model import build_base, load
from finetune.records import read_json
from finetune.stage import plan


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


# --- which commit an unpinned model is ---

NEWER = "f" * 40


def online(monkeypatch, address):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    files = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)


def info(commit) -> bytes:
    return json.dumps({"id": "owner/name", "sha": commit}).encode()


@pytest.mark.parametrize(
    ("revision", "path", "told"),
    [
        (None, "revision/main", f"no revision named; its newest is taken: {NEWER}"),
        ("v1.5", "revision/v1.5", f"revision v1.5 is commit {NEWER}"),
        ("pr/1", "revision/pr%2F1", f"revision pr/1 is commit {NEWER}"),
    ],
)
def test_the_hub_says_which_commit_a_revision_is(
    cache, tiny_model, monkeypatch, caplog, revision, path, told
):
    caplog.set_level("INFO")
    put(cache, tiny_model)  # an older one
    with answering(info(NEWER)) as (address, asked):
        online(monkeypatch, address)
        assert hub.commit("owner/name", revision) == NEWER
    # Once a process the library asks the hub something of its own, too.
    assert [each for each in asked if "/models/" in each] == [f"/api/models/owner/name/{path}"]
    assert told in caplog.text


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (None, "offline mode"), ((b"", 503), "503"), ((b"<html>log in</html>", 200), "Expecting"),
        ((b"", 404), "404"),
    ],
)  # fmt: skip
def test_where_the_hub_does_not_say_its_cache_does(
    cache, tiny_model, monkeypatch, caplog, answer, why
):
    put(cache, tiny_model)
    with answering(*(answer or (b"",))) as (address, _):
        if answer:
            online(monkeypatch, address)
        assert hub.commit("owner/name") == COMMIT
        for unknown in (("owner/other", None), ("owner/name", "v2")):
            assert hub.commit_if_known(*unknown) is None
            with pytest.raises(OSError, match=why):
                hub.commit(*unknown)
    assert why in caplog.text and f"its cache names {COMMIT}" in caplog.text


@pytest.mark.parametrize(("code", "found"), [("RevisionNotFound", None), ("RepoNotFound", COMMIT)])
def test_a_revision_that_is_gone_is_not_taken_from_the_cache(
    cache, tiny_model, monkeypatch, code, found
):
    put(cache, tiny_model)
    with answering(b"{}", 404, X_Error_Code=code) as (address, _):
        online(monkeypatch, address)
        assert hub.commit_if_known("owner/name", "main") == found


def test_a_command_asks_once_and_the_cache_tells_the_next(cache, monkeypatch):
    with answering(info(NEWER)) as (address, _):
        online(monkeypatch, address)
        assert hub.commit("owner/name") == NEWER
    with answering(info(COMMIT)) as (address, _):  # the branch moved
        online(monkeypatch, address)
        assert hub.commit("owner/name") == NEWER
    hub.commit.cache_clear()  # another command, while the hub is away
    online(monkeypatch, "http://127.0.0.1:9")
    assert hub.commit("owner/name") == NEWER


def test_nobody_is_asked_what_a_commit_is(cache, monkeypatch):
    with answering(info(NEWER)) as (address, asked):
        online(monkeypatch, address)
        assert hub.commit("owner/name", COMMIT) == COMMIT
    assert asked == []


def test_without_the_package_no_commit_is_known(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    wanted = model(hub=Hub.huggingface, id="owner/name")
    assert hub.resolved(wanted) == wanted


def test_a_model_is_resolved_on_hugging_face_alone(cache, tiny_model):
    put(cache, tiny_model)
    wanted = model(hub=Hub.huggingface, id="owner/name")
    assert hub.resolved(wanted) == dataclasses.replace(wanted, revision=COMMIT)
    unknown = dataclasses.replace(wanted, id="owner/other")
    others = [model(hub=each, id="owner/name") for each in Hub if each is not Hub.huggingface]
    local = model(path=tiny_model)
    for each in (unknown, *others, local, model(hub=Hub.huggingface, id=None)):
        assert hub.resolved(each) == each


def test_exactly_the_resolved_commit_is_fetched(cache, tiny_model, tmp_path):
    snapshot = put(cache, tiny_model)
    wanted = hub.resolved(model(hub=Hub.huggingface, id="owner/name", max_length=64))
    (Path(shutil.copytree(tiny_model, tmp_path / "newer")) / "README.md").write_text("newer")
    assert put(cache, tmp_path / "newer", NEWER) != snapshot  # main is this one now
    assert hub.fetch(wanted) == snapshot
    assert hub.revision(wanted, snapshot) == COMMIT


def unpinned_line(tiny_model, domain, work, *more) -> list[str]:
    """The command line of a run on a model of the hub without a revision."""
    line = overrides(tiny_model, domain, work, "full", "model.hub=huggingface",
                     "model.id=owner/name", f"run_dir={work}/run", *more)  # fmt: skip
    return [each for each in line if not each.startswith("model.path=")]


def test_a_run_takes_the_commit_into_its_keys_its_settings_and_its_bundle(
    cache, tiny_model, tiny_domain, tmp_path, caplog
):
    put(cache, tiny_model)
    line = unpinned_line(tiny_model, tiny_domain, tmp_path, "until=export-base")

    def planned(*more):
        config = pipeline.resolve(compose([*line, *more]))
        return {
            each.step.name: each for each in plan(pipeline.steps_of(config), tmp_path / "cache")
        }

    unpinned = planned()
    assert f"its newest is taken: {COMMIT}" in caplog.text
    pinned = planned(f"model.revision={COMMIT}")
    newer = planned(f"model.revision={NEWER}")
    for name in ("base", "export-base", "train", "report"):
        assert unpinned[name].key == pinned[name].key != newer[name].key
    pipeline.run(compose(line))
    bundle = read_json(unpinned["export-base"].folder / "bundle/bundle.json")
    assert (bundle["base_model"], bundle["base_revision"]) == ("owner/name", COMMIT)
    settings = yaml.safe_load((tmp_path / "run/config.yaml").read_text("utf-8"))
    assert settings["model"]["revision"] == COMMIT


def test_a_run_whose_model_nobody_knows_ends_as_before(cache, tiny_model, tiny_domain, tmp_path):
    line = unpinned_line(tiny_model, tiny_domain, tmp_path, "until=base")
    with pytest.raises(UserError, match=r"owner/name \(revision newest\) is neither in the local"):
        pipeline.run(compose(line))


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

    class Handler(Quiet):
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
            self.answer(body)

    with serving(Handler) as address:
        yield address, asked


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


def test_the_revision_of_a_folder_is_unknown(tiny_model):
    assert hub.revision(model(), tiny_model) == "unknown"


def test_the_sizes_of_a_model_are_asked_for_alone(cache, monkeypatch):
    with answering(b'{"num_hidden_layers": 12}') as (address, asked):
        online(monkeypatch, address)
        assert hub.config_of(model(hub=Hub.huggingface, id="owner/name", revision="v1")) == {
            "num_hidden_layers": 12
        }
    assert "/owner/name/resolve/v1/config.json" in asked


@pytest.mark.parametrize("answer", [(b"", 404), (b"<html>", 200), (b"[]", 200), None])
def test_sizes_that_cannot_be_had_are_not_known(cache, monkeypatch, answer):
    with answering(*(answer or (b"",))) as (address, _):
        if answer:
            online(monkeypatch, address)
        assert not hub.config_of(model(hub=Hub.huggingface, id="owner/name"))
    assert hub.config_of(model(hub=Hub.local, path=cache)) is None
