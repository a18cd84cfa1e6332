import numpy as np
import pytest

from finetune.evaluation.chunks import pieces, rank
from finetune.evaluation.retrieval import rank as rank_whole
from finetune.evaluation.retrieval import score
from finetune.sets import EvaluationSet


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [""]),
        ("abc", ["abc"]),
        ("abcde", ["abcde"]),
        ("abcdef", ["abcde", "ef"]),
        ("abcdefghi", ["abcde", "efghi"]),
        ("abcdefghij", ["abcde", "efghi", "ij"]),
    ],
)
def test_pieces_overlap_and_lose_nothing(text, expected):
    assert pieces(text, 5, 1) == expected


def test_pieces_of_any_length():
    for length in range(1, 60):
        text = "".join(chr(0x4E00 + n) for n in range(length))
        cut = pieces(text, 10, 3)
        assert cut[0] + "".join(piece[3:] for piece in cut[1:]) == text
        assert all(len(piece) <= 10 for piece in cut)


class Reader:
    """Sees the first 400 characters: a text's vector is the letters that it holds."""

    dim = 3

    def encode(self, texts, prompt="passage", *, progress=None):
        rows = np.array([[text[:400].count(letter) > 0 for letter in "abc"] for text in texts])
        return rows / np.maximum(1, np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


LONG = EvaluationSet(
    "long", {"q1": "a", "q2": "b"},
    {"d1": "c" * 900 + "a", "d2": "c", "d3": "b" * 100, "d4": "bc"},
    {"q1": {"d1": 1}, "q2": {"d3": 1}},
)  # fmt: skip


def test_an_answer_below_the_window_is_found_in_its_piece():
    whole, cut = rank_whole(Reader(), LONG), rank(Reader(), LONG)
    # Nothing that the model sees is like q1: all are equally far, and d4 is the last of them.
    assert whole.documents[0][0] == "d4" and cut.documents[0][0] == "d1"
    assert score(cut, LONG.qrels)["mrr@10"].tolist() == [1.0, 1.0]
    assert cut.scores[0][0] == pytest.approx(2**-0.5)


def test_short_documents_rank_as_they_do_whole():
    short = EvaluationSet("s", LONG.queries, {key: text[:300] for key, text in LONG.corpus.items()},
                          LONG.qrels)  # fmt: skip
    whole, cut = rank_whole(Reader(), short), rank(Reader(), short)
    assert whole.documents == cut.documents
    np.testing.assert_allclose(whole.scores, cut.scores, atol=1e-6)
