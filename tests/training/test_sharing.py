"""Encoding by several processes, which stand for machines or for the GPUs of one."""

import time
from functools import partial

import numpy as np
import pytest
from launched import in_processes

from finetune import model as models
from finetune.config.choices import Precision
from finetune.inference import OnnxEncoder
from finetune.inference.onnx import CHUNK
from finetune.machine import processes
from finetune.sets import EvaluationSet
from finetune.training import sharing
from finetune.training.trainer import Guard

SELECT = EvaluationSet("select", {"q": "押金"}, {"d": "房东"}, {"q": {"d": 1}})
TEXTS = [f"{'房东不退押金老板'[n % 8]}{n % 97}{'网店' * (n % 5)}" for n in range(2 * CHUNK + 100)]


class Noting:
    """An encoder that notes in which process it encodes how much."""

    def __init__(self, bundle, folder):
        self.encoder = OnnxEncoder.load(bundle, "int8-dynamic", 1)
        self.folder = folder
        self.dim = self.encoder.dim

    def encode(self, texts, prompt, **more):
        with (self.folder / f"process-{processes.rank()}").open("a") as notes:
            notes.write(f"{len(texts)}\n")
        while processes.first() and self.waits():
            time.sleep(0.01)
        return self.encoder.encode(texts, prompt, **more)

    def waits(self):
        """Until the other process has a chunk too, if it will."""
        return (self.folder / "helps").exists() and not (self.folder / "process-1").exists()


class Failing(Noting):
    """One that fails in all processes but the first."""

    def encode(self, texts, prompt, **more):
        if processes.first():
            return super().encode(texts, prompt, **more)
        (self.folder / "process-1").touch()
        raise ValueError("no")


def encode(load, folder, device, count):
    sharing._PATIENCE = sharing._SLOWER = processes.GRACE = 1.0

    def lead() -> int:
        encoder = sharing.Shared(load, device, folder)
        np.save(folder / "vectors.npy", encoder.encode(TEXTS[:count], "query"))
        return 0

    return processes.run(lead)


def encoded(folder):
    """Number of texts that each process encoded."""
    return [sum(map(int, path.read_text().split())) for path in sorted(folder.glob("process-*"))]


@pytest.fixture(scope="module")
def alone(tiny_bundle):
    return OnnxEncoder.load(tiny_bundle, "int8-dynamic", 1).encode(TEXTS, "query")


@pytest.mark.parametrize("kind", [Noting, Failing])
def test_vectors_are_those_of_one_process(kind, tiny_bundle, alone, tmp_path):
    (tmp_path / "helps").touch()
    load = partial(kind, tiny_bundle, tmp_path)
    codes = in_processes(encode, load, tmp_path, "cpu", len(TEXTS), machines=2)
    assert codes == [0, int(kind is Failing)]
    np.testing.assert_array_equal(np.load(tmp_path / "vectors.npy"), alone)
    counts = encoded(tmp_path)
    if kind is Noting:
        assert sum(counts) == len(TEXTS) and min(counts) > 0
    else:
        assert counts[0] == len(TEXTS)  # also what the other did not bring
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(
    ("machines", "count"),
    [(1, len(TEXTS)), (2, CHUNK)],  # the first already takes all CPUs; a single chunk
)
def test_where_help_is_of_no_use_the_first_encodes_alone(
    machines, count, tiny_bundle, alone, tmp_path
):
    load = partial(Noting, tiny_bundle, tmp_path)
    assert in_processes(encode, load, tmp_path, "cpu", count, machines=machines) == [0, 0]
    assert encoded(tmp_path) == [count]
    np.testing.assert_array_equal(np.load(tmp_path / "vectors.npy"), alone[:count])


def test_every_gpu_helps_and_one_process_a_machine_on_cpus(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert (processes.helpers("cuda"), processes.helpers("cpu")) == (7, 1)
    for local, helps in (("0", True), ("3", False)):
        monkeypatch.setenv("LOCAL_RANK", local)
        assert processes.helps("cuda") and processes.helps("cpu") is helps


# --- in training ---

SOME = TEXTS[:500]


def encode_together(base, folder):
    processes.connect("cpu", 2)
    encoder = models.TorchEncoder(models.load(base), tokens=64, together=True)
    np.save(folder / f"{processes.rank()}.npy", encoder.encode(SOME, "query"))


def test_processes_that_train_get_the_vectors_of_one(tiny_model, tmp_path):
    assert in_processes(encode_together, tiny_model, tmp_path) == [0, 0]
    encoder = models.TorchEncoder(models.load(tiny_model), tokens=64)
    alone = encoder.encode(SOME, "query")
    assert np.linalg.norm(alone, axis=1) == pytest.approx(np.ones(len(SOME)))
    for rank in range(2):
        np.testing.assert_array_equal(np.load(tmp_path / f"{rank}.npy"), alone)


def score_together(folder):
    Guard.values = lambda self, model: np.full(3, 0.5 + 1e-9 * processes.rank())  # of its machine
    processes.connect("cpu", 2)
    guard = Guard(SELECT, Precision.fp32, together=True)
    (folder / str(processes.rank())).write_text(str(guard(None)["ndcg@10"]))
    processes.wait()  # what one tells the others ends with it


def test_all_decide_by_the_score_of_the_first(tmp_path):
    assert in_processes(score_together, tmp_path) == [0, 0]
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["0.5", "0.5"]
