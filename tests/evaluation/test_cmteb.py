"""C-MTEB's tasks on local data that is laid out as on the hub; no network."""

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune.data.catalogue import read_catalogue
from finetune.errors import UserError
from finetune.evaluation import cmteb
from finetune.evaluation.artifacts import score
from finetune.inference import OnnxEncoder
from finetune.records import Scored
from finetune.sets import EvaluationSet, RerankingSet, ScoredSet

mteb = pytest.importorskip("mteb")  # of the extra `cmteb`

TEXTS = [
    "房东不退押金",
    "老板不发工资",
    "网店商品质量",
    "离婚财产赔偿",
    "医院医生学校",
    "合同规定法律",
]
QUERIES = {f"q{n}": f"{text[: 2 + n % 4]}吗" for n, text in enumerate(TEXTS * 4)}
CORPUS = {f"d{n}": text for n, text in enumerate(TEXTS)} | {
    f"x{n}": a[:3] + b[3:] for n, (a, b) in enumerate(zip(TEXTS, TEXTS[1:], strict=False))
}
QRELS = {f"q{n}": {f"d{n % 6}": 1} for n in range(24)}
PAIRS = [(text, other[:3] + text[3:], float(n % 2)) for n, text in enumerate(TEXTS * 3)
         for other in (TEXTS[(n + n % 2 + 1) % 6],)]  # fmt: skip


def hub(folder: Path, split: str, **tables: list[dict]) -> Path:
    """Write parquet files as the hub has them, and the README that names their configurations."""
    lines = ["---", "configs:"]
    for name, rows in tables.items():
        path = folder / name / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), path)
        lines += [f"- config_name: {name}", "  data_files:", f"  - split: {split}",
                  f"    path: {name}/{split}-*"]  # fmt: skip
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    return folder


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture(scope="module")
def encoder(tiny_bundle):
    return OnnxEncoder.load(tiny_bundle, "int8-dynamic")


def ran(name, encoder, folder, out):
    cmteb.run(name, encoder, "onnx-int8-dynamic", folder, out)
    return cmteb.read(cmteb.result(out))


@pytest.mark.parametrize(("name", "split"), [("ATEC", "test"), ("AFQMC", "validation")])
def test_similarity(encoder, tmp_path, name, split):
    rows = [{"sentence1": a, "sentence2": b, "score": int(s)} for a, b, s in PAIRS]
    found = ran(name, encoder, hub(tmp_path / name, split, default=rows), tmp_path)
    ours = score(encoder, ScoredSet("s", tuple(
        Scored(str(n), a, b, s, "") for n, (a, b, s) in enumerate(PAIRS)
    )))  # fmt: skip
    assert found["value"] == pytest.approx(ours.metrics["spearman"].mean(), abs=1e-6)
    assert (found["task"], found["type"], found["split"]) == (name, "STS", split)


def test_another_copy_of_a_task_is_read_anew(encoder, tmp_path):
    found = []
    for n, labels in enumerate(([0, 1], [1, 0])):
        rows = [{"sentence1": a, "sentence2": b, "score": labels[int(s)]} for a, b, s in PAIRS]
        folder = hub(tmp_path / f"{n}" / "ATEC", "test", default=rows)
        found.append(ran("ATEC", encoder, folder, tmp_path / f"{n}")["value"])
    assert found[0] == pytest.approx(-found[1]) and found[0] != 0


def test_pair_classification_is_published_as_average_precision(encoder, tmp_path):
    rows = [{"sent1": a, "sent2": b, "labels": int(s)} for a, b, s in PAIRS]
    found = ran("Ocnli", encoder, hub(tmp_path / "Ocnli", "validation", default=rows), tmp_path)
    ours = score(encoder, ScoredSet("s", tuple(
        Scored(str(n), a, b, s, "") for n, (a, b, s) in enumerate(PAIRS)
    )))  # fmt: skip
    assert found["metric"] == "cosine_ap"
    assert found["value"] == pytest.approx(ours.metrics["ap"].mean(), abs=1e-6)


def tables():
    return {
        "corpus": [{"_id": key, "text": text, "title": ""} for key, text in CORPUS.items()],
        "queries": [{"_id": key, "text": text} for key, text in QUERIES.items()],
        "default": [{"query-id": q, "corpus-id": d, "score": s}
                    for q, row in QRELS.items() for d, s in row.items()],
    }  # fmt: skip


def test_retrieval_as_we_score_it(encoder, tmp_path):
    folder = hub(tmp_path / "CovidRetrieval", "dev", **tables())
    found = ran("CovidRetrieval", encoder, folder, tmp_path)
    ours = score(encoder, EvaluationSet("s", QUERIES, CORPUS, QRELS))
    assert found["value"] == pytest.approx(ours.metrics["ndcg@10"].mean(), abs=1e-5)
    content = json.loads((tmp_path / "CovidRetrieval.json").read_text("utf-8"))
    assert content["task_name"] == "CovidRetrieval" and content["mteb_version"] == mteb.__version__


def test_reranking_as_we_score_it(encoder, tmp_path):
    candidates = {
        query: tuple(dict.fromkeys([*QRELS[query], *list(CORPUS)[n % 5 : n % 5 + 4]]))
        for n, query in enumerate(QUERIES)
    }
    top = [{"query-id": query, "corpus-ids": list(names)} for query, names in candidates.items()]
    judged = {q: {name: int(name in QRELS[q]) for name in names} for q, names in candidates.items()}
    content = tables() | {
        "default": [{"query-id": q, "corpus-id": d, "score": s}
                    for q, row in judged.items() for d, s in row.items()],
        "top_ranked": top,
    }  # fmt: skip
    found = ran("T2Reranking", encoder, hub(tmp_path / "T2Reranking", "dev", **content), tmp_path)
    ours = score(encoder, RerankingSet("s", QUERIES, CORPUS, judged, candidates))
    assert found["value"] == pytest.approx(ours.metrics["map"].mean(), abs=1e-5)


def test_of_two_splits_the_published_one_counts(encoder, tmp_path):
    rows = [{"text": f"{text}{n}", "label": n % 3} for n, text in enumerate(TEXTS * 10)]
    folder = tmp_path / "MultilingualSentiment"
    folder.mkdir()
    for split in ("train", "validation", "test"):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")
    found = ran("MultilingualSentiment", encoder, folder, tmp_path)
    content = json.loads((tmp_path / "MultilingualSentiment.json").read_text("utf-8"))
    assert set(content["scores"]) == {"validation", "test"}
    assert (found["split"], found["metric"]) == ("validation", "main_score")
    assert found["value"] == content["scores"]["validation"][0]["accuracy"]


def test_data_that_is_not_there(encoder, tmp_path, monkeypatch):
    (tmp_path / "BQ").mkdir()
    with pytest.raises(UserError, match="the data of BQ cannot be had in"):
        cmteb.run("BQ", encoder, "base", tmp_path / "BQ", tmp_path)


def test_the_tasks_are_those_of_the_benchmark():
    tasks = mteb.get_benchmark(cmteb.BENCHMARK).tasks
    assert {task.metadata.name: task.metadata.type for task in tasks} == dict(cmteb.TASKS)
    assert len(cmteb.TASKS) == 31


def test_the_cards_of_the_tasks_name_what_mteb_loads():
    cards = {each.name: each for each in read_catalogue("cmteb").sets}
    for task in mteb.get_benchmark(cmteb.BENCHMARK).tasks:
        metadata = type(task).metadata  # a task that ran on a local copy has it changed
        card = cards[metadata.name]
        assert (card.id, card.revision) == (metadata.dataset["path"], metadata.dataset["revision"])
        assert card.use.endswith(f" on {', '.join(task.eval_splits)}")
        assert metadata.license in card.licence


def test_published_scores_and_contamination():
    # From embeddings-benchmark/results; x100 there.
    assert cmteb.published("moka-ai/m3e-base", "T2Retrieval") == pytest.approx(0.73143)
    assert cmteb.published("moka-ai/m3e-base", "nothing") is None
    assert cmteb.published(None, "BQ") is None
    assert cmteb.contaminated("PAWSX", ["paws-x"]) and cmteb.contaminated("LCQMC", ["lcqmc"])
    assert not cmteb.contaminated("BQ", ["BQX", "LCQMC"])


def test_without_mteb(monkeypatch):
    monkeypatch.setitem(sys.modules, "mteb", None)
    import importlib.metadata

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(UserError, match=r"mteb is not installed: pip install 'finetune\[cmteb\]'"):
        cmteb.version()
