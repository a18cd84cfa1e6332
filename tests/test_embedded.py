import numpy as np
import pytest

from finetune import embedded
from finetune.embedded import embed, vectors_of
from finetune.inference.batches import CHUNK
from finetune.records import read_dicts


class Encoder:
    """Gives a text its length and its first character's code; notes how many it is given."""

    dim = 2

    def __init__(self):
        self.parts = []

    def encode(self, texts, prompt="passage", *, progress=None):
        self.parts.append((prompt, len(texts)))
        progress(len(texts))
        return np.array([[len(text), ord(text[0])] for text in texts], np.float32).reshape(-1, 2)


@pytest.fixture
def encoder(monkeypatch):
    monkeypatch.setattr(embedded, "PART", 3)
    return Encoder()


def test_distinct_texts_are_encoded_part_by_part_into_the_file_that_numpy_would_write(
    encoder, tmp_path
):
    given = iter(["b", "aa", "b", "c", "dd", "aa", "e"])
    embed("pool", given, encoder, "query", tmp_path)
    kept = [row["text"] for row in read_dicts(tmp_path / "pool.jsonl")]
    assert kept == ["b", "aa", "c", "dd", "e"]
    assert encoder.parts == [("query", 3), ("query", 2)]
    whole = encoder.encode(kept, progress=lambda count: None)
    np.save(tmp_path / "whole.npy", whole)
    assert (tmp_path / "pool.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_no_texts_give_an_empty_file(encoder, tmp_path):
    embed("queries", [], encoder, "query", tmp_path)
    assert np.load(tmp_path / "queries.npy").shape == (0, 2)


def test_vectors_are_found_by_text_and_stay_on_disk(encoder, tmp_path):
    embed("queries", ["b", "aa", "ccc"], encoder, "query", tmp_path)
    embed("pool", ["x", "yy"], encoder, "passage", tmp_path)
    found, pool = vectors_of(tmp_path, iter(["ccc", "b", "ccc"]))
    assert isinstance(found.vectors, np.memmap) and isinstance(pool.vectors, np.memmap)
    assert len(found) == 3 and found[:][:, 0].tolist() == [3, 1, 3]
    assert found[1:2].tolist() == [[1, ord("b")]]
    assert list(pool.texts) == ["x", "yy"] and pool.of(["yy", "x", "yy"])[:][:, 0].tolist() == [
        2,
        1,
        2,
    ]
    with pytest.raises(KeyError):
        vectors_of(tmp_path, ["never encoded"])


def test_a_part_holds_whole_chunks_of_the_encoders():
    assert embedded.PART % CHUNK == 0
