"""Many batches side by side: each item once, errors told, the vectors those of one thread."""

import random
import threading

import numpy as np
import pytest

from finetune.errors import UserError
from finetune.inference import OnnxEncoder
from finetune.inference import onnx as module
from finetune.inference.bulk import run_all


def test_every_item_once_by_several_threads():
    both = threading.Barrier(2, timeout=10)  # opens where two threads are at work at once
    seen: list[int] = []

    def run(item: int) -> None:
        if item < 2:
            both.wait()
        seen.append(item)

    run_all(run, iter(range(50)), workers=2)
    assert sorted(seen) == list(range(50))


def test_what_an_item_raises_is_raised_and_ends_the_rest():
    seen: list[int] = []

    def run(item: int) -> None:
        seen.append(item)
        if item == 3:
            raise ValueError("item 3")

    with pytest.raises(ValueError, match="item 3"):
        run_all(run, iter(range(10_000)), workers=2)
    assert len(seen) < 10_000


def test_what_the_items_raise_is_raised():
    def items():
        yield 1
        raise KeyError("no such prompt")

    with pytest.raises(KeyError, match="no such prompt"):
        run_all(lambda item: None, items(), workers=3)


@pytest.mark.parametrize("precision", ["fp32", "int8-dynamic"])
def test_vectors_are_those_of_one_thread(tiny_bundle, precision, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 500)
    rng = random.Random(0)
    lengths = [rng.randint(1, 60) for _ in range(1200)]
    texts = ["".join(rng.choices("房东不退押金怎么办理赔", k=length)) for length in lengths]
    alone = OnnxEncoder.load(tiny_bundle, precision, threads=1)
    many = OnnxEncoder.load(tiny_bundle, precision, threads=3)
    assert sum(1 for _ in many.batches(texts)) > 2 * module.BULK
    counts: list[int] = []
    np.testing.assert_array_equal(many.encode(texts, progress=counts.append), alone.encode(texts))
    assert sum(counts) == len(texts)


def test_many_batches_run_on_one_session_of_single_threads(tiny_bundle, monkeypatch):
    started: list[int] = []
    start = module._start_session

    def counted(model, threads, **options):
        started.append(threads)
        return start(model, threads, **options)

    monkeypatch.setattr(module, "_start_session", counted)
    encoder = OnnxEncoder.load(tiny_bundle, "fp32", threads=3)
    assert started == [3]
    for _ in range(2):
        encoder.encode(["房东不退押金怎么办"] * 2000)
    assert started == [3, 1]


def test_few_batches_start_no_second_session(tiny_bundle, monkeypatch):
    encoder = OnnxEncoder.load(tiny_bundle, "fp32", threads=2)
    monkeypatch.setattr(module, "_start_session", None)  # would fail if called
    assert len(encoder.encode(["房东不退押金"] * 20)) == 20


def test_a_mistake_in_the_middle_of_many_texts_is_named(tiny_bundle, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 2000)
    texts = [*["房东不退押金怎么办" * 3] * 3000, 7]
    encoder = OnnxEncoder.load(tiny_bundle, "fp32", threads=2)
    with pytest.raises(TypeError, match=r"texts\[1000\] is int|texts\[3000\] is int"):
        encoder.encode(texts)
    with pytest.raises(UserError, match="prompt"):
        encoder.encode(texts[:3000], "question")
