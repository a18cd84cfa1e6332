"""Recording in MLflow, against a real store in a temporary database."""

import dataclasses
import json
import logging
import os
import pickle
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from made_outcomes import QUALITY, write_outcome
from servers import wait_for

from finetune.config import Tracking
from finetune.config.choices import Tracker
from finetune.errors import UserError
from finetune.inference import BundleInfo
from finetune.tracking import track
from finetune.tracking.target import parameters

ROOT = Path(__file__).parents[2]


def with_tracking(config, **changes):
    return dataclasses.replace(config, tracking=dataclasses.replace(config.tracking, **changes))


def python(code, **environment):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )


def runs(client):
    experiment = client.get_experiment_by_name("statutes")
    return client.search_runs([experiment.experiment_id]) if experiment else []


def only_run(client):
    (run,) = runs(client)
    return run


def write_rows(path: Path, *rows) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def recorded(config, run_dir, report, client, monkeypatch):
    """A run whose curves came while it ran and whose folder was renamed before it ended."""
    monkeypatch.setattr("finetune.tracking.curves._PAUSE", 0.1)
    partial = run_dir.parent / ".partial-key"
    partial.mkdir()
    with track(config, run_dir) as run:
        run.watch([partial / "curves.jsonl"])
        write_rows(partial / "curves.jsonl", {"step": 0, "eval_ndcg@10": 0.5, "time": 1.0})
        wait_for(lambda: runs(client))
        wait_for(lambda: "select/ndcg_at_10" in only_run(client).data.metrics)
        partial.rename(run_dir.parent / "key")
        write_rows(
            run_dir.parent / "key" / "curves.jsonl",
            {"step": 5, "loss": 2.0, "learning_rate": 1e-5, "grad_norm": 1.5, "time": 2.0},
            {"step": 10, "eval_ndcg@10": 0.6, "eval_runtime": 1.0, "time": 3.0},
        )
        run.finish(report)
    return only_run(client)


def test_a_run_in_mlflow(recorded, config, run_dir, client):
    assert recorded.info.run_name == run_dir.name
    assert recorded.info.status == "FINISHED"
    assert recorded.data.params["train.learning_rate"] == str(config.train.learning_rate)
    assert recorded.data.params["loss._target_"] == config.loss["_target_"]
    assert not any(key.startswith(("paths", "tracking")) for key in recorded.data.params)
    assert recorded.data.tags["verdict"].startswith("Better than the base")
    assert recorded.data.tags["gate.gain"] == "passed"
    found = recorded.data.metrics
    assert found["onnx-int8-dynamic/statutes/ndcg_at_10"] == 0.5
    assert found["onnx-int8-dynamic/statutes/ndcg_at_10_delta"] == 0.05
    assert found["onnx-int8-dynamic/latency_ms"] == 3.0
    history = client.get_metric_history(recorded.info.run_id, "select/ndcg_at_10")
    assert [(point.step, point.value) for point in history] == [(0, 0.5), (10, 0.6)]
    assert found["train/loss"] == 2.0
    given = {each.tags[0].value: each.dataset for each in recorded.inputs.dataset_inputs}
    assert {key: (each.name, each.digest) for key, each in given.items()} == {
        "training": ("statutes", "0123456789abcdef"),
        "evaluation": ("statutes", "digest of its te"),
    }  # fmt: skip
    files = {item.path for item in client.list_artifacts(recorded.info.run_id)}
    assert {"report.html", "report.json", "README.md", "config.yaml", "plots"} <= files


def test_the_registered_model_answers_without_torch(recorded, config, run_dir, client):
    (version,) = client.search_model_versions("name = 'statutes-starter'")
    assert version.run_id == recorded.info.run_id
    code = f"""
import json, sys
import mlflow
mlflow.set_tracking_uri({config.tracking.uri!r})
model = mlflow.pyfunc.load_model("models:/statutes-starter/1")
import pandas
table = model.predict(pandas.DataFrame({{"text": ["如何申请退款？", "房东"]}}))
rows = model.predict([{{"text": "房东"}}], params={{"prompt": "query"}})
import finetune
assert finetune.__file__.startswith({str(run_dir.parents[1])!r}), "the model brings its own code"
loaded = [m for m in ("torch", "transformers", "sentence_transformers") if m in sys.modules]
print(json.dumps([table.tolist(), rows.tolist(), loaded, str(model.metadata.signature.inputs)]))
"""
    result = python(code, PYTHONPATH="")
    assert result.returncode == 0, result.stderr
    table, rows, loaded, inputs = json.loads(result.stdout.splitlines()[-1])
    from finetune.inference import OnnxEncoder

    encoder = OnnxEncoder.load(run_dir / "bundle")
    np.testing.assert_allclose(table, encoder.encode(["如何申请退款？", "房东"]), atol=1e-6)
    np.testing.assert_allclose(rows, encoder.encode(["房东"], "query"), atol=1e-6)
    assert loaded == []
    assert "text" in inputs


def test_what_is_compared_and_described_are_the_vectors_that_are_served(
    config, run_dir, report, client
):
    import mlflow

    bundle = run_dir / "bundle"
    dataclasses.replace(BundleInfo.read(bundle), dims=(4,), default_dim=4).write(bundle)
    cut = run_dir / "outcomes" / "onnx-int8-dynamic@4" / "statutes.jsonl"
    write_outcome(cut, [value / 2 for value in QUALITY])
    with track(config, run_dir) as run:
        run.finish(report)
    (version,) = client.search_model_versions("name = 'statutes-starter'")
    there = Path(client.download_artifacts(version.run_id, "outcomes/statutes.jsonl"))
    assert there.read_text() == cut.read_text()
    model = mlflow.models.get_model_info("models:/statutes-starter/1")
    assert model.signature.outputs.inputs[0].shape == (-1, 4)


def test_a_repeat_records_nothing_and_imports_nothing(recorded, config, run_dir, report):
    for stage in report["stages"]:
        stage.update(cached=True, seconds=1.5)
    before = Path(config.tracking.uri.removeprefix("sqlite:///")).read_bytes()
    code = f"""
import pickle, sys
from pathlib import Path
from finetune.tracking import track
config, report = pickle.loads({pickle.dumps((config, report))!r})
with track(config, Path({str(run_dir)!r})) as run:
    run.watch([Path({str(run_dir.parent / "key" / "curves.jsonl")!r})], live=False)
    run.finish(report)
sys.exit("mlflow" in sys.modules)
"""
    result = python(code)
    assert result.returncode == 0, result.stderr
    assert Path(config.tracking.uri.removeprefix("sqlite:///")).read_bytes() == before


def test_a_changed_report_continues_the_same_run(recorded, config, run_dir, report, client):
    report["scores"][1]["value"] = 0.55
    with track(config, run_dir) as run:
        run.finish(report)
    again = only_run(client)
    assert again.info.run_id == recorded.info.run_id
    assert again.data.metrics["onnx-int8-dynamic/statutes/ndcg_at_10"] == 0.55
    assert again.info.status == "FINISHED"
    assert len(client.search_model_versions("name = 'statutes-starter'")) == 1, "same bundle"


def test_a_deleted_run_is_recorded_anew(config, run_dir, client, report):
    (run_dir / "bundle").rename(run_dir / "elsewhere")
    with track(config, run_dir) as run:
        run.finish(report)
    first = only_run(client).info.run_id
    client.delete_run(first)
    report["verdict"] = "changed"
    with track(config, run_dir) as run:
        run.finish(report)
    assert only_run(client).info.run_id != first


def test_an_exception_marks_the_run_as_failed(config, run_dir, client, tmp_path):
    def fail():
        with track(config, run_dir) as run:
            write_rows(tmp_path / "curves.jsonl", {"step": 0, "loss": 1.0, "time": 1.0})
            run.watch([tmp_path / "curves.jsonl"])
            wait_for(lambda: client.get_experiment_by_name("statutes"))
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        fail()
    assert only_run(client).info.status == "FAILED"


def test_a_run_that_stops_early_is_finished(config, run_dir, client, tmp_path):
    write_rows(tmp_path / "curves.jsonl", {"step": 0, "loss": 1.0, "time": 1.0})
    with track(config, run_dir) as run:
        run.watch([tmp_path / "curves.jsonl"])
        wait_for(lambda: client.get_experiment_by_name("statutes"))
    assert only_run(client).info.status == "FINISHED"


def test_a_dead_server_costs_one_warning_and_no_time(
    config, run_dir, report, caplog, tmp_path, monkeypatch
):
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    write_rows(tmp_path / "curves.jsonl", {"step": 0, "loss": 1.0})
    start = time.monotonic()
    with caplog.at_level(logging.INFO), track(
        with_tracking(config, uri="http://user:secret@127.0.0.1:9"), run_dir
    ) as run:  # fmt: skip
        run.watch([tmp_path / "curves.jsonl"])
        run.finish(report)
    assert time.monotonic() - start < 15
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "connection refused" in warnings[0] and "goes on" in warnings[0]
    assert "secret" not in caplog.text
    assert not (run_dir / ".mlflow-run").exists()


def test_a_server_that_hangs_costs_two_requests(config, run_dir, report, caplog, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        start = time.monotonic()
        with track(with_tracking(config, uri=uri), run_dir) as run:
            run.watch([run_dir / "curves.jsonl"])
            run.finish(report)
        assert time.monotonic() - start < 5
    assert [r.getMessage() for r in caplog.records if "no answer in time" in r.getMessage()]


def test_the_same_command_records_what_a_dead_server_missed(config, run_dir, report, client):
    with track(with_tracking(config, uri="http://127.0.0.1:9"), run_dir) as run:
        run.finish(report)
    with track(config, run_dir) as run:
        run.finish(report)
    assert only_run(client).data.tags["verdict"] == report["verdict"]


def test_none_imports_nothing_and_leaves_nothing(config, run_dir, report, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code = f"""
import pickle, sys
from pathlib import Path
from finetune.tracking import track
config, report = pickle.loads({pickle.dumps(
    (with_tracking(config, kind=Tracker.none), report))!r})
with track(config, Path({str(run_dir)!r})) as run:
    run.watch([Path("curves.jsonl")])
    run.finish(report)
sys.exit("mlflow" in sys.modules)
"""  # fmt: skip
    result = python(code)
    assert result.returncode == 0, result.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_mlflow_that_is_not_installed(config, run_dir, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'finetune\[track\]'"), track(config, run_dir):
        pass


def test_a_uri_that_is_none(config, run_dir):
    wrong = dataclasses.replace(
        config, tracking=Tracking(Tracker.mlflow, "./mlruns", "x", None, None)
    )
    with pytest.raises(UserError, match=r"tracking\.uri=\./mlruns: expected a database"):
        with track(wrong, run_dir):
            pass


def test_parameters_leave_out_what_is_not_the_run(config):
    found = parameters(config)
    other = dataclasses.replace(config, until="train", run_dir=Path("elsewhere"))
    assert parameters(other) == found
    assert found["train.batch_size"] == str(config.train.batch_size)
    assert parameters(dataclasses.replace(config, seed=1)) != found
