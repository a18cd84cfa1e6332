"""Data sets of the hub: from a stand-in for it and, when that is gone, from the caches."""

import contextlib
from pathlib import Path

import pyarrow
import pytest
from hubs import NAME, put, served
from pyarrow import parquet
from reading import read_pairs

from finetune import pipeline
from finetune.commands import checking
from finetune.config.choices import BadRows
from finetune.config.compose import compose
from finetune.data import hub
from finetune.data.hub import pinned
from finetune.data.load import load_pairs
from finetune.data.prepare import summarise
from finetune.data.problems import Problems
from finetune.data.rows import LABEL_0
from finetune.errors import UserError
from finetune.hub import commit as commit_of
from finetune.stage import plan

datasets = pytest.importorskip("datasets")
OTHER = "f" * 40
OFFLINE = "offline"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "set"


@pytest.fixture
def connected(folder, tmp_path, monkeypatch):
    """Empty caches; ``connected(commit)`` is a hub with the folder at it.

    Of None nobody answers, and of `OFFLINE` nobody is asked, which saves the libraries' patience.
    """
    from huggingface_hub import HfFileSystem, constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", str(tmp_path / "downloads"))

    @contextlib.contextmanager
    def connect(commit):
        commit_of.cache_clear()
        HfFileSystem.clear_instance_cache()
        there = commit and commit != OFFLINE
        nobody = contextlib.nullcontext("http://127.0.0.1:9")
        with served(folder, commit) if there else nobody as address:
            for each in (constants, datasets.config):
                monkeypatch.setattr(each, "HF_HUB_OFFLINE", commit == OFFLINE)
            monkeypatch.setattr(constants, "ENDPOINT", address)
            monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE",
                                address + "/{repo_id}/resolve/{revision}/{filename}")  # fmt: skip
            monkeypatch.setattr(datasets.config, "HF_ENDPOINT", address)
            yield

    return connect


def answers(source):
    pairs, _ = read_pairs(source, {}, BadRows.stop)
    return "".join(pair.positive for pair in pairs)


def test_a_subset_and_a_split_at_a_commit(connected, folder):
    commit = put(folder)
    with connected(commit):
        assert answers(f"{NAME}@{commit}") == "甲0甲1甲2甲3"
        assert answers(f"{NAME}@{commit}:test") == "乙0乙1乙2乙3"
        assert answers(f"{NAME}@{commit}:tax/train") == "丙0丙1丙2丙3"
        loaded = load_pairs(f"{NAME}@{commit}:law/test", {}, BadRows.stop)
    assert [pair.id for pair in loaded.pairs] == [f"questions-{n}" for n in range(1, 5)]
    assert summarise(loaded)["hub"] == f"{NAME}@{commit}:law/test"


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        (":dev", ["split 'dev'", "['train', 'test']"]),
        (":vat/train", ["subset 'vat', split 'train'", "['law', 'tax']"]),
    ],
)
def test_what_the_data_set_does_not_have(connected, folder, rows, parts):
    commit = put(folder)
    with connected(commit), pytest.raises(UserError) as caught:
        answers(f"{NAME}@{commit}{rows}")
    for part in (NAME, *parts, "owner/name[@revision][:[subset/]split]"):
        assert part in str(caught.value)


def test_judgements_of_beir_get_their_texts_from_the_other_subsets(connected, folder):
    rows = {
        "default": [("q1", "c1", 1), ("q1", "c2", 0), ("q2", "c2", 2), ("q3", "c1", 1)],
        "queries": [("q1", "问一"), ("q2", "问二"), ("unasked", "问三")],
        "corpus": [("c1", "条一", "法"), ("c2", "条二", "")],
    }
    names = {"default": ("query-id", "corpus-id", "score"), "queries": ("_id", "text"),
             "corpus": ("_id", "text", "title")}  # fmt: skip
    splits = {"default": "test", "queries": "queries", "corpus": "corpus"}
    put(folder)
    lines = ["---", "configs:"]
    for name, split in splits.items():
        table = [dict(zip(names[name], row, strict=True)) for row in rows[name]]
        parquet.write_table(pyarrow.Table.from_pylist(table), folder / f"{name}.parquet")
        lines += [f"- config_name: {name}", "  data_files:",
                  f"  - {{split: {split}, path: {name}.parquet}}"]  # fmt: skip
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]), "utf-8")
    with connected(OTHER):
        loaded = load_pairs(f"{NAME}@{OTHER}:test", {}, BadRows.drop)
        with pytest.raises(UserError, match="split 'train' of the data set"):
            load_pairs(f"{NAME}@{OTHER}", {}, BadRows.drop)
    assert [(pair.id, pair.query, pair.positive) for pair in loaded.pairs] == [
        ("q1 c1", "问一", "法 条一"), ("q2 c2", "问二", "条二"),
    ]  # fmt: skip
    assert [(row.line, row.reason) for row in loaded.dropped] == [
        (2, LABEL_0), (4, "unknown id"),
    ]  # fmt: skip


@pytest.mark.parametrize("revision", ["", "@main"])
def test_no_revision_is_the_newest_commit_which_is_told(connected, folder, caplog, revision):
    commit = put(folder)
    with connected(commit):
        assert pinned(f"{NAME}{revision}:tax/train") == f"{NAME}@{commit}:tax/train"
        assert pinned(f"{NAME}{revision}") == f"{NAME}@{commit}"
    assert (f"its newest is taken: {commit}" in caplog.text) == (revision == "")


def test_a_commit_is_asked_nobody_about(connected):
    with connected(None):
        assert pinned(f"{NAME}@{OTHER}:train") == f"{NAME}@{OTHER}:train"


def test_a_check_tells_the_commit(connected, folder):
    commit = put(folder)
    source = f"{NAME}@{commit}:tax/train"
    with connected(commit):
        report = checking.check(checking.configuration(f"{NAME}:tax/train", None, []))
    assert report["data"] == report["hub"] == source


def test_without_the_hub_the_cache_tells_the_commit_and_has_the_rows(connected, folder, caplog):
    commit = put(folder)
    with connected(commit):
        assert answers(f"{NAME}:tax/train") == "丙0丙1丙2丙3"
    with connected(OFFLINE):
        assert answers(f"{NAME}:tax/train") == "丙0丙1丙2丙3"
    with connected(None):
        caplog.clear()
        assert pinned(f"{NAME}:tax/train") == f"{NAME}@{commit}:tax/train"
    assert "does not answer" in caplog.text and f"its cache names {commit}" in caplog.text


def test_without_the_hub_no_other_state_is_taken_for_the_one_asked_for(connected, folder, caplog):
    commits = []
    for answer in ("旧", "新"):
        commits.append(put(folder, law_train=answer))
        with connected(commits[-1]):
            answers(f"{NAME}:law/train")
    with connected(OFFLINE):
        assert answers(f"{NAME}@{commits[0]}:law/train") == "旧0旧1旧2旧3"
        assert answers(f"{NAME}:law/train") == "新0新1新2新3"
        assert "its subset" not in caplog.text
        assert answers(f"{NAME}") == "新0新1新2新3"
        assert "taken from the cache is its subset law" in caplog.text
        with pytest.raises(UserError, match="neither in the local cache nor to be had"):
            answers(f"{NAME}@{OTHER}:law/train")


@pytest.mark.parametrize("source", ["nobody/nothing", f"{NAME}@gone"])
def test_what_the_hub_does_not_know_is_not_taken_from_the_cache(connected, folder, source):
    commit = put(folder)
    with connected(commit), pytest.raises(UserError, match=f"{source}: no such file here, and"):
        pinned(source)


def test_a_changed_data_set_has_other_keys(connected, folder, domain):
    line = ["recipes=full", "domain=custom", f"domain.train={NAME}", f"domain.dev={domain}/dev",
            "mix=custom", f"mix.custom.train={NAME}:tax/train", "hardware=cpu"]  # fmt: skip

    def keys():
        config = pipeline.resolve(compose(line))
        assert config.domain.train == f"{NAME}@{commit}"
        assert config.mix["custom"].train == f"{NAME}@{commit}:tax/train"
        return {each.step.name: each.key for each in plan(pipeline.steps_of(config), Path("cache"))}

    found = []
    for answer in ("旧", "新"):
        commit = put(folder, law_train=answer)
        with connected(commit):
            found.append(keys())
            assert found[-1] == keys()
    for step in ("data", "mix", "train", "report"):
        assert found[0][step] != found[1][step]
    assert found[0]["base"] == found[1]["base"]


def test_what_is_known_of_a_public_set_is_told(connected, monkeypatch, caplog):
    known = "e3dda5e115e487b39ec7e618c0c6a29137052a55"
    monkeypatch.setattr(hub, "_load", lambda *named: datasets.Dataset.from_list([]))
    with caplog.at_level("INFO", logger="finetune"), connected(None):
        hub.open_hub(f"C-MTEB/BQ@{known}", Problems())
    assert "licence: unknown (BQ: unknown (mteb: not specified" in caplog.text
    assert "contamination: in the training of m3e-small" in caplog.text
    caplog.clear()
    for commit, told in ((known, False), (OTHER, True)):
        monkeypatch.setattr("finetune.hub.commit", lambda *asked, commit=commit: commit)
        pinned("C-MTEB/BQ")
        assert (f"what is known of it is of {known}" in caplog.text) is told
