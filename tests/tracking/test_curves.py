"""Curves on their way from a file to MLflow."""

import json

import pytest

from finetune.tracking import content
from finetune.tracking.curves import Follower, metric_name, metrics


def write_rows(path, *rows) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ndcg@10", "ndcg_at_10"),
        ("onnx-int8-dynamic/statutes/ndcg@10", "onnx-int8-dynamic/statutes/ndcg_at_10"),
        ("base/法律 问答/ndcg@10", "base/法律 问答/ndcg_at_10"),
        ("/a//b/../c?:d/", "a/b/c__d"),
    ],
)
def test_metric_names(name, expected):
    assert metric_name(name) == expected


def test_rows_become_metrics():
    row = {
        "step": 3, "time": 1.0, "epoch": 0.5, "loss": 2, "grad_norm": float("nan"),
        "eval_ndcg@10": 0.5, "eval_runtime": 2.0, "note": "text", "flag": True,
    }  # fmt: skip
    assert metrics(row) == {"train/loss": 2.0, "select/ndcg_at_10": 0.5}


def test_follower(tmp_path):
    path = tmp_path / "curves.jsonl"
    follower = Follower([path])
    assert follower.new() == []
    path.write_text('{"step": 0}\n{"step": 1}\n{"st')
    assert follower.new() == ['{"step": 0}\n', '{"step": 1}\n'], "the last line is not whole"
    follower.sent(follower.new())
    assert follower.new() == []
    # A resumed training cuts the file and writes on.
    path.write_text('{"step": 0}\n')
    write_rows(path, {"step": 2})
    assert follower.new() == ['{"step": 2}\n']
    follower.close()


def test_a_training_that_is_done_before_the_first_look(tmp_path):
    partial, done = tmp_path / ".partial-key", tmp_path / "key"
    follower = Follower([partial / "curves.jsonl", done / "curves.jsonl"])
    done.mkdir()
    write_rows(done / "curves.jsonl", {"step": 0})
    assert follower.new() == ['{"step": 0}\n']
    follower.close()


def test_a_later_rounds_steps_follow_those_before(tmp_path):
    sent = []

    class Client:
        def log_batch(self, run_id, metrics):
            sent.extend((each.key, each.step) for each in metrics)

    follower = Follower([tmp_path / "curves.jsonl"], before=48)
    rows = [{"step": 0, "eval_ndcg@10": 0.5}, {"step": 2, "loss": 1.0}]
    content.log_rows(Client(), "run", rows, follower.before)
    assert sent == [("select/ndcg_at_10", 48), ("train/loss", 50)]
