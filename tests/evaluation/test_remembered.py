import numpy as np

from finetune.evaluation.remembered import Remembered


class Counting:
    """The vector of a text is its number, a query's is negative."""

    dim = 1

    def __init__(self):
        self.asked = []

    def encode(self, texts, prompt="passage", *, progress=None):
        self.asked.append((prompt, list(texts)))
        if progress is not None:
            progress(len(texts))
        sign = -1 if prompt == "query" else 1
        return np.array([[sign * float(text)] for text in texts], np.float32).reshape(-1, 1)


def remembered():
    encoder = Counting()
    return encoder, Remembered(encoder, ["1", "2"], np.array([[10.0], [20.0]], np.float32))


def test_known_passages_are_not_encoded_again():
    encoder, memory = remembered()
    counted = []
    vectors = memory.encode(["2", "7", "1", "7", "2"], progress=counted.append)
    assert vectors[:, 0].tolist() == [20, 7, 10, 7, 20]
    assert encoder.asked == [("passage", ["7", "7"])]
    assert sum(counted) == 5


def test_all_known_or_none_at_all():
    encoder, memory = remembered()
    assert memory.encode(["1"]).tolist() == [[10.0]]
    assert memory.encode([]).shape == (0, 1)
    assert encoder.asked == [] and memory.dim == 1


def test_queries_are_always_encoded():
    encoder, memory = remembered()
    assert memory.encode(["1"], "query").tolist() == [[-1.0]]
    assert encoder.asked == [("query", ["1"])]


def test_memory_stays_as_it_was():
    _, memory = remembered()
    memory.encode(["1", "9"])[:] = 0
    assert memory.encode(["1", "2"])[:, 0].tolist() == [10, 20]
