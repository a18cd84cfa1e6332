import logging
from pathlib import Path

import numpy as np
import pytest
import tiny_runs

from finetune import disk, pipeline
from finetune.config.compose import compose
from finetune.errors import UserError
from finetune.records import Pair, read_jsonl
from finetune.sets import read_halves
from finetune.steps import encoders


@pytest.fixture
def arguments(tiny_model, domain, tmp_path):
    def make(*more):
        return tiny_runs.overrides(tiny_model, domain, tmp_path, "full", *more)

    return make


def test_other_pairs_encode_only_themselves(arguments, monkeypatch):
    asked = []

    class Counting:
        def __init__(self, encoder):
            self._encoder, self.dim = encoder, encoder.dim

        def encode(self, texts, prompt="passage", *, progress=None):
            asked.extend((prompt, text) for text in texts)
            return self._encoder.encode(texts, prompt, progress=progress)

    scoring = encoders.scoring
    monkeypatch.setattr(encoders, "scoring", lambda *given: Counting(scoring(*given)))
    pipeline.run(compose(arguments("until=corpus")))
    line = arguments("until=embed", "limit=20")
    found = tiny_runs.folders(line)
    ((select,), _) = read_halves(found["sets"])
    assert {text for _, text in asked} == set(select.corpus.values())
    asked.clear()
    pipeline.run(compose(line))
    pairs = list(read_jsonl(found["data"] / "train.jsonl", Pair))
    assert len(pairs) == 20
    queries, positives = ({getattr(pair, name) for pair in pairs} for name in ("query", "positive"))
    new = positives - set(select.corpus.values())
    assert len(asked) == len(queries) + len(new)
    assert set(asked) == {("query", text) for text in queries} | {("passage", text) for text in new}
    pool = np.load(found["embed"] / "pool.npy")
    assert set(disk.texts(found["embed"] / "pool.jsonl")) == positives | set(select.corpus.values())
    whole = dict(zip(disk.texts(found["corpus"] / "passages.jsonl"),
                     np.load(found["corpus"] / "passages.npy"), strict=True))  # fmt: skip
    for text, vector in zip(disk.texts(found["embed"] / "pool.jsonl"), pool, strict=True):
        assert text not in whole or (vector == whole[text]).all()


def test_other_sets_on_disk_that_ask_the_same_are_told(arguments, domain, tmp_path, caplog):
    asked = (Path(domain) / "dev/queries.jsonl").read_text("utf-8").splitlines()
    other = tmp_path / "data/known/queries.jsonl"
    other.parent.mkdir(parents=True)
    other.write_text(asked[0] + "\n", "utf-8")
    with caplog.at_level(logging.INFO, logger="finetune"):
        pipeline.run(compose(arguments("until=sets", f"paths.data={tmp_path}/data")))
    assert "also in known: 1 of" in caplog.text


def test_mistakes_in_both_are_told_together(arguments, domain, tmp_path):
    train, dev = tmp_path / "pairs.jsonl", tmp_path / "dev"
    train.write_text("oops\n", "utf-8")
    dev.mkdir()
    for path in Path(domain / "dev").iterdir():
        (dev / path.name).write_bytes(path.read_bytes())
    (dev / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tgone\t1\n", "utf-8")
    line = arguments(f"domain.train={train}", f"domain.dev={dev}", "domain.test=null")
    with pytest.raises(UserError) as caught:
        pipeline.run(compose(line))
    first, second, *_ = caught.value.problems
    assert "pairs.jsonl:1" in first and "qrels.tsv:2" in second
