"""What the run above a sweep's jobs is told of them."""

from dataclasses import dataclass, field

import pytest
from made_runs import finished

from finetune.commands import swept


@dataclass
class Above:
    """A run that remembers what it was told."""

    run_id: str | None = "0123"
    told: list = field(default_factory=list)

    def finish(self, metrics, files, note=""):
        self.told.append((metrics, [file.read_text("utf-8") for file in files], note))


@pytest.fixture
def three(tmp_path):
    """One setting with three seeds, which gain 10, 20 and 15 points; INT8 loses one of them."""
    gains = {1: 0.1, 2: 0.2, 3: 0.15}
    return [finished(tmp_path / f"r{seed}", gain, seed, int8=gain - 0.01)
            for seed, gain in gains.items()]  # fmt: skip


def test_mean_smallest_and_largest_over_the_seeds(three, tmp_path):
    above = Above()
    swept.record(above, {"seeds alone": [*three, three[0]]}, tmp_path)
    ((metrics, (file,), note),) = above.told
    assert metrics == pytest.approx({
        "tuned/dev/ndcg@10_mean": 0.6, "tuned/dev/ndcg@10_min": 0.55, "tuned/dev/ndcg@10_max": 0.65,
        "tuned/dev/ndcg@10_delta_mean": 0.15, "tuned/dev/ndcg@10_delta_min": 0.1,
        "tuned/dev/ndcg@10_delta_max": 0.2,
        "onnx-int8-dynamic/dev/ndcg@10_mean": 0.59, "onnx-int8-dynamic/dev/ndcg@10_min": 0.54,
        "onnx-int8-dynamic/dev/ndcg@10_max": 0.64,
        "onnx-int8-dynamic/dev/ndcg@10_delta_mean": 0.14,
        "onnx-int8-dynamic/dev/ndcg@10_delta_min": 0.09,
        "onnx-int8-dynamic/dev/ndcg@10_delta_max": 0.19,
    })  # fmt: skip
    assert file == note
    tuned, int8 = [line for line in note.splitlines() if "| dev |" in line]
    start = "| seeds alone | dev | tuned | 3 | 60.0 (55.0 – 65.0) | 45.0 | +15.0 (+10.0 – +20.0) |"
    assert tuned.startswith(start) and "| +14.0 (+9.0 – +19.0) |" in int8


def test_settings_stand_side_by_side(three, tmp_path):
    other = finished(tmp_path / "other", 0.05, scale=50)
    above = Above()
    swept.record(above, {"loss.scale=20": three, "loss.scale=50 x=a/b": [other]}, tmp_path)
    ((metrics, _, note),) = above.told
    assert metrics["tuned/dev/ndcg@10_delta_mean/loss.scale 20"] == pytest.approx(0.15)
    alone = [metrics[f"tuned/dev/ndcg@10_{each}/loss.scale 50 x a_b"]
             for each in ("mean", "min", "max")]  # fmt: skip
    assert alone == pytest.approx([0.5] * 3)
    assert "| loss.scale=50 x=a/b | dev | tuned | 1 | 50.0 | 45.0 | +5.0 | +5.0 – +5.0 |" in note


def test_names_of_metrics_fit_into_mlflow(tmp_path):
    runs = {f"domain.train={'长' * 300}{seed}": [finished(tmp_path / f"r{seed}", seed=seed)]
            for seed in (1, 2)}  # fmt: skip
    above = Above()
    swept.record(above, runs, tmp_path)
    ((metrics, _, _),) = above.told
    assert len(metrics) == 12 and max(map(len, metrics)) < 250


def test_nothing_is_told_where_nobody_listens_or_there_is_nothing(three, tmp_path):
    for above, runs in ((Above(None), {"a": three}), (Above(), {})):
        swept.record(above, runs, tmp_path)
        assert above.told == [] and not list(tmp_path.rglob("settings.md"))


@pytest.mark.parametrize(
    ("changed", "phrase"),
    [({"epochs": 2}, "differ in more than the seed"), ({"sets": {"dev": "x"}}, "not the same set")],
)
def test_what_cannot_be_put_together_is_said(three, tmp_path, caplog, changed, phrase):
    above = Above()
    other = finished(tmp_path / "other", 0.05, seed=4, int8=0.0, **changed)
    swept.record(above, {"a": [*three, other]}, tmp_path)
    assert above.told == [] and phrase in caplog.text
