import time

import numpy as np
import pytest

from finetune.evaluation import speed


class Slow:
    """Takes its time: a second for the first call, then 2 ms a query and 1 ms a passage."""

    dim = 1

    def __init__(self):
        self.asked = []
        self.clock = 0.0

    def encode(self, texts, prompt="passage", *, progress=None):
        self.asked.append((prompt, list(texts)))
        if len(self.asked) == 1:
            self.clock += 1
        elif prompt == "query":
            # One in three takes 50 times as long: the median does not see it.
            self.clock += 0.1 if len(self.asked) % 3 == 0 else 0.002
        else:
            self.clock += 0.001 * len(texts)
        return np.ones((len(texts), 1), np.float32)


@pytest.fixture
def encoder(monkeypatch):
    slow = Slow()
    monkeypatch.setattr(time, "perf_counter", lambda: slow.clock)
    return slow


def test_latency_is_the_median_of_single_queries_and_the_first_call_does_not_count(encoder):
    queries, passages = [f"问{n}" for n in range(50)], [f"文{n}" for n in range(200)]
    found = speed.measure(encoder, queries, passages)
    assert found.latency_ms == pytest.approx(2.0)
    assert found.texts_per_second == pytest.approx(1000)
    # A third of 30 are slow: in some resamples half of them are.
    assert (found.latency_low, found.timed) == (pytest.approx(2.0), 30)
    assert found.latency_low <= found.latency_high <= 100.1
    assert found.told["latency_ms"] == 2.0 and found.told["texts_per_second"] == 1000
    assert encoder.asked[0] == ("query", ["问0"])
    assert encoder.asked[1:31] == [("query", [query]) for query in queries[:30]]
    assert encoder.asked[31:] == 3 * [("passage", passages)]


def test_a_busy_moment_does_not_decide_how_many_texts_a_second(encoder):
    encode, bulks = encoder.encode, iter([5.0, 0.0, 0.0])

    def busy(texts, prompt="passage", **more):
        encoder.clock += next(bulks) if prompt == "passage" else 0
        return encode(texts, prompt, **more)

    encoder.encode = busy
    assert speed.measure(encoder, ["问"], ["文"] * 100).texts_per_second == pytest.approx(1000)


def test_a_handful_of_queries_is_enough(encoder):
    assert speed.measure(encoder, ["问"], ["文"]).latency_ms == pytest.approx(2.0)
