import numpy as np
import pytest

from finetune.export import Comparison, Parity, compare, misses
from finetune.export.parity import told, worse


def unit(rows):
    rows = np.asarray(rows, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_the_same_vectors():
    vectors = unit(np.random.default_rng(0).standard_normal((30, 8)))
    parity = compare(vectors, vectors)
    assert parity.texts == 30 and parity.top10_overlap == 1
    assert parity.min_cosine == pytest.approx(1) and parity.centred_cosine == pytest.approx(1)


def test_worked_by_hand():
    reference = np.array([[1, 0], [0, 1]], dtype=np.float32)
    candidate = np.array([[1, 0], [0.6, 0.8]], dtype=np.float32)
    parity = compare(reference, candidate)
    assert parity.min_cosine == pytest.approx(0.8)
    assert parity.mean_cosine == pytest.approx(0.9)
    # The mean is (.5, .5): (.5, -.5) against itself is 1, (-.5, .5) against (.1, .3) is 1/sqrt 5.
    assert parity.centred_cosine == pytest.approx((1 + 5**-0.5) / 2)
    assert parity.top10_overlap == 1  # each has one other text


def test_overlap_counts_shared_neighbours():
    rng = np.random.default_rng(0)
    reference, other = unit(rng.standard_normal((50, 8))), unit(rng.standard_normal((50, 8)))

    def nearest(vectors):
        scores = vectors @ vectors.T
        np.fill_diagonal(scores, -9)
        return [set(row) for row in np.argsort(-scores, axis=1)[:, :10].tolist()]

    shared = [len(a & b) / 10 for a, b in zip(nearest(reference), nearest(other), strict=True)]
    assert compare(reference, other).top10_overlap == pytest.approx(np.mean(shared))


def test_centring_tells_apart_what_a_narrow_cone_hides():
    rng = np.random.default_rng(0)
    cone = unit(rng.standard_normal((100, 16)) * 0.1 + 3)
    parity = compare(cone, np.roll(cone, 1, axis=0))  # every vector is another text's
    assert parity.mean_cosine > 0.99
    assert abs(parity.centred_cosine) < 0.1


@pytest.mark.parametrize(("rows", "columns"), [(1, 4), (3, 5), (2, 4)])
def test_shapes_that_do_not_fit(rows, columns):
    reference = np.ones((rows if rows == 1 else 3, 4), dtype=np.float32)
    with pytest.raises(ValueError, match="expected the same"):
        compare(reference, np.ones((rows, columns), dtype=np.float32))


def parity(cosine=1.0, centred=1.0, overlap=1.0):
    return Parity(
        texts=9, min_cosine=cosine, mean_cosine=1.0, centred_cosine=centred, top10_overlap=overlap
    )


FLOOR = {"min_cosine": 0.95, "centred_cosine": 0.95, "top10_overlap": 0.7}


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        (parity(0.95, 0.95, 0.7), []),
        (parity(0.94), ["min_cosine"]),
        (parity(1, 0.9, 0.1), ["centred_cosine", "top10_overlap"]),
        (parity(float("nan")), ["min_cosine"]),
    ],
)
def test_floors(found, missed):
    assert misses(found, FLOOR) == {name: FLOOR[name] for name in missed}


def test_what_is_missed_is_told_with_numbers():
    found = parity(1, 0.9)
    assert told(found, misses(found, FLOOR)) == "centred cosine is 0.90000, expected at least 0.95"


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_gives_no_numbers_misses_every_floor(wrong):
    vectors = unit(np.random.default_rng(0).standard_normal((30, 8)))
    broken = vectors.copy()
    broken[3] = wrong
    for found in (
        compare(vectors, broken),
        worse(compare(vectors, vectors), compare(vectors, broken)),
    ):
        assert misses(found, FLOOR) == FLOOR
        assert told(found, FLOOR) == "it gives vectors that hold NaN or infinity"


class Numbers:
    """Gives each text the direction of its number, queries a little off."""

    dim = 2

    def __init__(self, shift=0.0):
        self.shift, self.asked = shift, []

    def encode(self, texts, prompt="passage", *, progress=None):
        self.asked.append((prompt, list(texts)))
        angles = np.array([float(text) for text in texts]) + self.shift * (prompt == "query")
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_every_other_text_is_a_query():
    comparison = Comparison(Numbers(), ["0", "1", "0", "2", "1"])  # equal ones count once
    other = Numbers(shift=0.5)
    found = comparison(other)
    assert other.asked == [("query", ["0", "2"]), ("passage", ["1"])]
    assert found.texts == 3 and found.min_cosine == pytest.approx(np.cos(0.5))
    assert found.mean_cosine == pytest.approx((2 * np.cos(0.5) + 1) / 3)


def test_some_of_the_texts_keep_their_prompts():
    comparison = Comparison(Numbers(), map(str, range(9)))
    other = Numbers()
    assert comparison(other, 3).min_cosine == pytest.approx(1)
    assert other.asked == [("query", ["0", "4", "8"]), ("passage", [])]
    assert comparison(other, 99).texts == 9
