"""A run directory as the pipeline leaves it, with a bundle made without torch."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from made_outcomes import QUALITY, write_outcome
from onnx import TensorProto, helper, numpy_helper
from servers import Server
from tokenizers import Tokenizer, models, pre_tokenizers

from finetune.config import Config
from finetune.config.compose import compose
from finetune.inference import BundleFile, BundleInfo
from finetune.records import write_json

DIM = 8


@pytest.fixture
def config(tmp_path) -> Config:
    return compose([
        "recipes=contrastive", "domain=statutes", "model=starter", "tracking=mlflow",
        f"tracking.uri=sqlite:///{tmp_path}/mlflow.db", f"paths.runs={tmp_path}/runs",
    ])  # fmt: skip


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """A database with MLflow's tables: making them takes seconds, so it is done once."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def client(config, empty_store, tmp_path, monkeypatch):
    """A client of the store that `config` names; artifacts go to the temporary folder."""
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    return MlflowClient(tracking_uri=config.tracking.uri, registry_uri=config.tracking.uri)


@pytest.fixture
def report() -> dict:
    row = {"set": "statutes", "n": 48, "ci_low": 0.4, "ci_high": 0.6}
    return {
        "verdict": "Better than the base on statutes by 5.1 ± 2.0 points NDCG@10 (p = 0.001).",
        "about": {"domain": "statutes", "domain_set": "statutes"},
        "scores": [
            {**row, "artifact": "base", "metric": "ndcg@10", "value": 0.45, "delta": None,
             "p_value": None},
            {**row, "artifact": "onnx-int8-dynamic", "metric": "ndcg@10", "value": 0.5,
             "delta": 0.05, "p_value": 0.001},
        ],
        "baselines": [],
        "speed": [{"artifact": "onnx-int8-dynamic", "latency_ms": 3.0, "texts_per_second": 900.0,
                   "bytes": 35_000_000}],
        "gates": [{"name": "gain", "status": "passed", "value": 0.05, "threshold": 0.0}],
        "stages": [{"name": "data", "key": "0123456789abcdef", "seconds": 1.5, "cached": False}],
        "data": {"pairs": 944, "sources": {"写": 944}},
    }  # fmt: skip


@pytest.fixture
def run_dir(tmp_path, report) -> Path:
    folder = tmp_path / "runs" / "contrastive-statutes-starter-01234567"
    (folder / "plots").mkdir(parents=True)
    write_json(folder / "report.json", report)
    for name in ("report.html", "README.md", "config.yaml", "plots/scores.svg"):
        (folder / name).write_text("内容", encoding="utf-8")
    make_bundle(folder / "bundle")
    write_outcome(folder / "outcomes" / "onnx-int8-dynamic" / "statutes.jsonl", QUALITY)
    write_json(folder / "outcomes" / "sets.json", {"statutes": "digest of its texts"})
    return folder


@pytest.fixture
def server(tmp_path, empty_store, monkeypatch):
    for name, seconds in (("_PAUSE", 0.1), ("_LONG_PAUSE", 0.3)):
        monkeypatch.setattr(f"finetune.tracking.curves.{name}", seconds)
    folder = tmp_path / "server"
    folder.mkdir()
    server = Server(folder, shutil.copy(empty_store, folder / "mlflow.db"))
    yield server
    server.kill()


@pytest.fixture
def there(server):
    """A client of the server, wherever it is."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=server.uri, registry_uri=server.uri)


def make_bundle(folder: Path) -> None:
    """Write a bundle whose vector of a text is the normalised mean of random token vectors."""
    (folder / "int8-dynamic").mkdir(parents=True)
    characters = "如何申请退款？房东不押金"
    vocabulary = {"[PAD]": 0, "[UNK]": 1} | {c: i for i, c in enumerate(characters, start=2)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    path = folder / "int8-dynamic" / "model.onnx"
    onnx.save(_mean_of_rows(len(vocabulary)), str(path))
    BundleInfo(
        name="tiny", dim=DIM, max_length=32, prompts={"query": "如", "passage": ""},
        pooling="mean", normalize=True, base_model="none", base_revision="unknown", licence="mit",
        pad_id=0, tokenizer_sha256=_sha256(folder / "tokenizer.json"),
        precisions={
            "int8-dynamic": BundleFile("int8-dynamic/model.onnx", _sha256(path),
                                       path.stat().st_size)
        },
    ).write(folder)  # fmt: skip


def _mean_of_rows(size: int) -> onnx.ModelProto:
    rows = np.random.default_rng(0).normal(size=(size, DIM)).astype(np.float32)
    constants = {"rows": rows, "one": np.array([1], np.int64), "two": np.array([2], np.int64)}
    nodes = [
        helper.make_node("Gather", ["rows", "input_ids"], ["tokens"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "two"], ["mask3"]),
        helper.make_node("Mul", ["tokens", "mask3"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "one"], ["sum"], keepdims=0),
        helper.make_node("LpNormalization", ["sum"], ["sentence_embedding"], axis=1, p=2),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", DIM])
    graph = helper.make_graph(
        nodes, "tiny", inputs, [output],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
