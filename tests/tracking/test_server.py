"""Recording on a real `mlflow server`: away, slow, and gone in mid-run."""

import dataclasses
import json
import subprocess
import sys
import time

import pytest
from servers import Slow, at, train, wait_for

from finetune.tracking import track
from finetune.tracking.missed import NOTE

STEPS = 12


def runs(client) -> dict:
    experiment = client.get_experiment_by_name("statutes")
    found = client.search_runs([experiment.experiment_id]) if experiment else []
    return {run.info.run_name: run for run in found}


def steps(client, run) -> list[int]:
    return [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")]


def test_a_server_that_dies_in_mid_run_and_comes_back(config, run_dir, report, server, there):
    curves = run_dir.parent / "key" / "curves.jsonl"
    server.start()
    with track(at(config, server.uri), run_dir) as run:
        run.watch([curves])
        train(curves, range(4))
        wait_for(lambda: runs(there))
        wait_for(lambda: len(steps(there, runs(there)[run_dir.name])) == 4)
        server.kill()
        start = time.monotonic()
        train(curves, range(4, 8))
        assert time.monotonic() - start < 1, "training waits for nobody"
        time.sleep(1)  # some attempts fail
        server.start()
        train(curves, range(8, STEPS))
        wait_for(lambda: len(steps(there, runs(there)[run_dir.name])) == STEPS)
        run.finish(report)
    recorded = runs(there)[run_dir.name]
    assert recorded.info.status == "FINISHED"
    assert steps(there, recorded) == list(range(STEPS)), "each point once"
    assert recorded.data.metrics["onnx-int8-dynamic/statutes/ndcg_at_10"] == 0.5
    files = {item.path for item in there.list_artifacts(recorded.info.run_id)}
    assert {"report.html", "outcomes"} <= files
    assert not (run_dir / NOTE).exists()
    given = {(each.dataset.name, each.tags[0].value) for each in recorded.inputs.dataset_inputs}
    assert given == {("statutes", "training"), ("statutes", "evaluation")}
    assert there.get_model_version_by_alias("statutes-starter", "champion").version in ("1", 1)
    assert vector_from(server.uri) == {"torch": False, "shape": [1, 8]}


def vector_from(uri) -> dict:
    """Load the champion in another process, as a service would, and ask it."""
    code = f"""
import json, sys
import mlflow
mlflow.set_tracking_uri({uri!r})
model = mlflow.pyfunc.load_model("models:/statutes-starter@champion")
vectors = model.predict([{{"text": "房东不押金"}}], params={{"prompt": "query"}})
print(json.dumps({{"torch": "torch" in sys.modules, "shape": list(vectors.shape)}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_next_run_sends_what_a_dead_server_missed(
    config, run_dir, report, server, there, caplog
):
    caplog.set_level("INFO")
    curves = run_dir.parent / "key" / "curves.jsonl"
    (run_dir / "bundle").rename(run_dir / "elsewhere")  # registering has its own test
    with track(at(config, server.uri), run_dir) as run:
        run.watch([curves])
        train(curves, range(STEPS))
        run.finish(report)
    assert (run_dir / NOTE).is_file()
    cut_short = run_dir.with_name("cut-short")  # ends after training, before there is a report
    cut_short.mkdir()
    with track(at(dataclasses.replace(config, seed=7), server.uri), cut_short) as run:
        run.watch([curves])
    assert "connection refused" in caplog.text and not runs_of(cut_short, run_dir)
    server.start()
    next_run = run_dir.with_name("next")
    next_run.mkdir()
    with track(at(dataclasses.replace(config, seed=8), server.uri), next_run) as run:
        run.watch([curves], live=False)
    found = runs(there)
    assert set(found) == {run_dir.name, "cut-short", "next"}
    for recorded in found.values():
        assert steps(there, recorded) == list(range(STEPS))
        assert recorded.info.status == "FINISHED"
    assert found[run_dir.name].data.tags["verdict"] == report["verdict"]
    assert not runs_of(run_dir, cut_short, next_run, holding=NOTE)
    caplog.clear()
    with track(at(config, server.uri), run_dir) as run:  # the same command again
        run.watch([curves], live=False)
        run.finish(report)
    assert "recorded already" in caplog.text


def runs_of(*folders, holding=".mlflow-run") -> list:
    return [folder for folder in folders if (folder / holding).exists()]


@pytest.mark.slow
def test_a_slow_server_does_not_slow_training(config, run_dir, report, server, there):
    curves = run_dir.parent / "key" / "curves.jsonl"
    (run_dir / "bundle").rename(run_dir / "elsewhere")
    server.start()
    slow = Slow(server.port, delay=0.5)
    with track(at(config, slow.uri), run_dir) as run:
        start = time.monotonic()
        run.watch([curves])
        train(curves, range(STEPS))
        assert time.monotonic() - start < 1, "no request has been answered so far"
        wait_for(lambda: runs(there))
        slow.delay = 0.0
        run.finish(report)
    slow.close()
    assert steps(there, runs(there)[run_dir.name]) == list(range(STEPS))


def test_a_resumed_training_sends_no_point_twice(config, run_dir, client):
    """Killed after step 7, with a checkpoint at 3: steps 4 to 7 are written again, later."""
    curves = run_dir.parent / "key" / "curves.jsonl"
    train(curves, range(8))
    with pytest.raises(KeyboardInterrupt), track(config, run_dir) as run:
        run.watch([curves])
        raise KeyboardInterrupt
    curves.unlink()
    train(curves, range(4))
    with track(config, run_dir) as run:
        run.watch([curves])
        train(curves, range(4, STEPS))
    (recorded,) = runs(client).values()
    assert steps(client, recorded) == list(range(STEPS))
    assert recorded.info.status == "FINISHED"
