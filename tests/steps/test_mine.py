import numpy as np
import pytest

from finetune.config.compose import compose
from finetune.errors import UserError
from finetune.records import Pair, read_dicts, read_json, write_jsonl
from finetune.steps import core


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """What the steps before leave: 300 pairs among 3,000 texts about 60 things, with vectors."""
    work = tmp_path_factory.mktemp("work")
    rng = np.random.default_rng(0)
    topics = rng.standard_normal((60, 32))
    pool = topics[np.arange(3000) % 60] + 0.5 * rng.standard_normal((3000, 32))
    queries = pool[:300] + 0.3 * rng.standard_normal((300, 32))
    rows = [Pair(str(n), f"问{n}", f"文{n}", "s") for n in range(300)]
    for name in ("pairs", "embed"):
        (work / name).mkdir()
    write_jsonl(work / "pairs/train.jsonl", rows)
    write_jsonl(work / "pairs/known.jsonl", [])
    for name, sign, vectors in (("pool", "文", pool), ("queries", "问", queries)):
        write_jsonl(
            work / f"embed/{name}.jsonl", ({"text": f"{sign}{n}"} for n in range(len(vectors)))
        )
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        np.save(work / f"embed/{name}.npy", unit.astype(np.float32))
    return {"pairs": work / "pairs", "embed": work / "embed"}


def mined(inputs, out, search):
    """Negatives by pair, and the counts."""
    out.mkdir()
    line = ["recipes=contrastive", "mine.candidates=200", f"mine.search={search}"]
    core.mine({"mine": compose(line).mine}, inputs, out)
    found = {row["id"]: row["negatives"] for row in read_dicts(out / "train.jsonl")}
    return found, read_json(out / "summary.json")


@pytest.mark.parametrize("search", ["ivf", "hnsw"])
def test_nearly_the_same_is_mined_as_by_comparing_with_all(inputs, tmp_path, search):
    pytest.importorskip("faiss")
    exact, counts = mined(inputs, tmp_path / "exact", "exact")
    found, told = mined(inputs, tmp_path / "found", search)
    assert counts["pairs"] > 250 and abs(told["pairs"] - counts["pairs"]) <= 5
    same = [found.get(key) == negatives for key, negatives in exact.items()]
    assert sum(same) >= 0.95 * len(same)
    files = {"train.jsonl", "known.jsonl", "audit.jsonl", "summary.json"}
    assert {path.name for path in (tmp_path / "found").iterdir()} == files
    again, _ = mined(inputs, tmp_path / "again", search)
    assert again == found


def test_another_way_to_search_is_refused_with_those_there_are():
    with pytest.raises(UserError, match=r"mine\.search: .*lsh.*exact, auto, ivf, hnsw"):
        compose(["recipes=contrastive", "mine.search=lsh"])
