from pathlib import Path

import numpy as np
import pytest

from finetune.commands import scoring
from finetune.evaluation.lengths import at_lengths
from finetune.evaluation.remembered import Remembering
from finetune.inference import shortened


class Counting:
    """Gives 3-4-12 to every text; counts the texts that it is asked for."""

    dim = 3

    def __init__(self):
        self.asked = 0

    def encode(self, texts, prompt="passage", *, progress=None):
        self.asked += len(texts)
        sign = -1 if prompt == "query" else 1
        if progress is not None:
            progress(len(texts))
        return np.tile(np.array([3, 4, 12], np.float32) * sign / 13, (len(texts), 1))


def test_vectors_are_cut_and_have_length_one_again():
    vectors = np.array([[3, 4, 12], [0, 0, 1]], np.float32)
    np.testing.assert_allclose(shortened(vectors, 2), [[0.6, 0.8], [0, 0]])
    np.testing.assert_allclose(shortened(vectors, 1), [[1], [0]])


def test_one_that_remembers_encodes_each_text_once_for_all_lengths():
    encoder = Counting()
    found, shown = {}, []
    for suffix, shorter in at_lengths(Remembering(encoder), [3, 2, 1]):
        passages = shorter.encode(["a", "b"], progress=shown.append)
        found[suffix] = shorter.encode(["a"], "query"), passages, shorter.dim
    assert list(found) == ["", "@2", "@1"]  # 3 is the whole vector
    assert [dim for _, _, dim in found.values()] == [3, 2, 1]
    np.testing.assert_allclose(found["@2"][0], [[-0.6, -0.8]], atol=1e-6)
    np.testing.assert_allclose(found["@1"][1], [[1], [1]], atol=1e-6)
    assert encoder.asked == 3 and shown == [2, 2, 2]


def test_finetune_evaluate_encodes_each_text_once_for_all_lengths(monkeypatch):
    encoder = Counting()
    monkeypatch.setattr(scoring, "_encoders", lambda *_: iter([("x", encoder, [2, 1])]))
    found = {}
    for name, shorter in scoring._all_lengths(Path("bundle"), None):
        found[name] = shorter.encode(["a"])
    assert list(found) == ["x", "x@2", "x@1"] and encoder.asked == 1


@pytest.mark.parametrize("dims", [(), [3], [4, 3]])
def test_without_shorter_lengths_the_encoder_is_used_as_it_is(dims):
    encoder = Counting()
    assert list(at_lengths(encoder, dims)) == [("", encoder)]
