import numpy as np

from finetune.evaluation.remembered import Remembering


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


def remembering(*given, **more):
    encoder = Counting()
    memory = Remembering(encoder, *given, **more)
    memory.remember(["1", "2"], np.array([[10.0], [20.0]], np.float32))
    return encoder, memory


def test_known_passages_are_not_encoded_again():
    encoder, memory = remembering()
    counted = []
    vectors = memory.encode(["2", "7", "1", "7", "2"], progress=counted.append)
    assert vectors[:, 0].tolist() == [20, 7, 10, 7, 20]
    assert encoder.asked == [("passage", ["7", "7"])]
    assert sum(counted) == 5


def test_what_was_encoded_is_known():
    encoder, memory = remembering()
    memory.encode(["3", "4"])
    assert memory.encode(["4", "5", "1", "3"])[:, 0].tolist() == [4, 5, 10, 3]
    assert memory.encode(["5", "4", "2"])[:, 0].tolist() == [5, 4, 20]
    assert encoder.asked == [("passage", ["3", "4"]), ("passage", ["5"])]


def test_one_that_does_not_learn_knows_what_it_was_told_and_no_more():
    encoder, memory = remembering(learns=False)
    for _ in range(2):
        assert memory.encode(["1", "3"])[:, 0].tolist() == [10, 3]
    assert encoder.asked == 2 * [("passage", ["3"])]


def test_all_known_or_none_at_all():
    encoder, memory = remembering()
    assert memory.encode(["1"]).tolist() == [[10.0]]
    assert memory.encode([]).shape == (0, 1)
    assert encoder.asked == [] and memory.dim == 1


def test_a_query_is_not_the_passage_of_the_same_text():
    encoder, memory = remembering()
    assert memory.encode(["1"], "query").tolist() == [[-1.0]]
    assert memory.encode(["1"]).tolist() == [[10.0]]
    assert memory.encode(["1"], "query").tolist() == [[-1.0]]
    assert encoder.asked == [("query", ["1"])]


def test_texts_that_the_encoder_reads_alike_are_encoded_once():
    encoder, memory = remembering(lambda text: text.replace("貳", "2").replace("參", "3"))
    assert memory.encode(["貳", "3"])[:, 0].tolist() == [20, 3]
    assert memory.encode(["參", "2"])[:, 0].tolist() == [3, 20]
    assert encoder.asked == [("passage", ["3"])]  # as it was given: the encoder converts it


def test_memory_stays_as_it_was():
    _, memory = remembering()
    memory.encode(["1", "9"])[:] = 0
    assert memory.encode(["1", "9"])[:, 0].tolist() == [10, 9]
