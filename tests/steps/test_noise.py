import numpy as np
import pytest
from tiny_runs import folders

from finetune import pipeline
from finetune.config.compose import compose
from finetune.errors import UserError
from finetune.mining import Pool
from finetune.records import Pair, read_dicts, read_json, write_json, write_jsonl
from finetune.steps.noise import leave_out, ranks, samples, summary
from tests.tiny_runs import overrides


def at(*degrees):
    """Unit vectors in the plane."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def pair(query, positive, source="s"):
    return Pair(f"{query}-{positive}", query, positive, source)


# The first query lies at 0°, so that passages come in this order.
POOL = Pool(["押金", "工资", "离婚", "商品", "你好"], at(10, 20, 30, 40, 50))


@pytest.mark.parametrize(
    ("positive", "rank"), [("押金", 1.0), ("工资", 0.75), ("离婚", 0.5), ("你好", 0.0)]
)
def test_a_rank_is_the_share_of_the_others_that_lie_farther(positive, rank):
    assert ranks([pair("房东", positive)], at(0), POOL).tolist() == [rank]


def test_other_answers_of_the_query_do_not_count():
    rows = [pair("房东", "离婚"), pair("房东", "押金")]
    assert ranks(rows, at(0, 0), POOL).tolist() == [2 / 3, 1.0]
    # In pairs of paraphrases either text answers the other.
    assert ranks(rows[:1], at(0), POOL, [pair("押金！", "房东")]).tolist() == [2 / 3]


def test_equal_texts_in_other_punctuation_do_not_count_and_ties_count_half():
    pool = Pool(["押金", "押金！", "工资", "离婚"], at(20, 10, 20, 30))
    assert ranks([pair("房东", "押金")], at(0), pool).tolist() == [0.75]


def test_a_lone_passage_is_the_nearest():
    assert ranks([pair("房东", "押金")], at(0), Pool(["押金"], at(90))).tolist() == [1.0]


def test_many_pairs_are_ranked_as_each_alone(monkeypatch):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(70, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pool = Pool([f"文{n}" for n in range(50)], vectors[:50])
    rows = [pair(f"问{n}", f"文{n}") for n in range(20)]
    alone = [ranks([row], vectors[50 + n : 51 + n], pool)[0] for n, row in enumerate(rows)]
    monkeypatch.setattr("finetune.steps.noise._BLOCK", 150)  # three rows at a time
    assert ranks(rows, vectors[50:], pool).tolist() == alone


def test_sources_are_told_apart_where_there_are_several():
    rows = [pair("甲", "一", "logs"), pair("乙", "二", "logs"), pair("丙", "三", "titles")]
    assert summary(rows, rows[:1]) == {
        "pairs": 2, "noise": 1, "noise by source": {"logs": "1 of 2", "titles": "0 of 1"}
    }  # fmt: skip
    assert summary(rows[:2], []) == {"pairs": 2, "noise": 0}


@pytest.fixture
def line(tiny_model, domain, tmp_path):
    return overrides(tiny_model, domain, tmp_path, "contrastive", "mine.relative_margin=0")


def test_every_row_is_kept_or_told_and_what_is_left_out_stays_known(line):
    config = compose([*line, "noise=rank", "noise.cut=0.5", "until=mine"])
    pipeline.run(config)
    found = folders(config)
    told = list(read_dicts(found["noise"] / "noise.jsonl"))
    assert [row["rank"] for row in told] == sorted(row["rank"] for row in told)
    assert all(row["kept"] == (row["rank"] >= 0.5) for row in told)
    kept = {row["id"] for row in read_dicts(found["noise"] / "train.jsonl")}
    known = {row["id"] for row in read_dicts(found["noise"] / "known.jsonl")}
    assert kept == {row["id"] for row in told if row["kept"]} and kept and known
    assert known >= {row["id"] for row in told if not row["kept"]}
    everything = {row["id"] for row in read_dicts(found["data"] / "train.jsonl")}
    assert kept | known == everything and not kept & known
    assert read_json(found["noise"] / "summary.json")["noise"] == len(known)
    mined = {row["id"] for row in read_dicts(found["mine"] / "train.jsonl")}
    assert mined and mined <= kept


def test_a_cut_that_leaves_nothing_is_told(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [pair("房东", "离婚")])
    for name, texts in (("pool", POOL.texts), ("queries", ["房东"])):
        write_jsonl(tmp_path / f"{name}.jsonl", ({"text": text} for text in texts))
    np.save(tmp_path / "pool.npy", POOL.vectors)
    np.save(tmp_path / "queries.npy", at(0))
    with pytest.raises(UserError, match=r"noise.cut=0.9: none of 1 pairs .* 0.500; lower it"):
        leave_out(0.9, tmp_path, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_it_there_is_no_step(line):
    assert "noise" not in folders(compose(line))


def test_samples_go_from_the_worst_to_the_last_before_the_cut(tmp_path):
    # Queries and passages at 10°, 20° and so on; the one at 30° is to answer all. Farther from the
    # query than it are three quarters of the others at 10°, and at most 5 of 8 from 50° on.
    texts = [f"文{n}" for n in range(9)]
    write_jsonl(tmp_path / "train.jsonl", [pair(f"问{n}", "文2", f"s{n}") for n in range(9)])
    for name, each in (("pool", texts), ("queries", [f"问{n}" for n in range(9)])):
        write_jsonl(tmp_path / f"{name}.jsonl", ({"text": text} for text in each))
        np.save(tmp_path / f"{name}.npy", at(*range(10, 100, 10)))
    out = tmp_path / "out"
    out.mkdir()
    leave_out(0.7, tmp_path, tmp_path, out)
    told = list(read_dicts(out / "noise.jsonl"))
    left_out = [row for row in told if not row["kept"]]
    assert len(left_out) == 5 and samples(out, 9) == left_out
    assert samples(out, 3) == [left_out[0], left_out[2], left_out[4]]
    assert samples(out, 1) == left_out[:1]
    assert {row["source"] for row in left_out} == {"s4", "s5", "s6", "s7", "s8"}
    assert left_out[0]["rank"] == 0.25 and left_out[4]["source"] == "s4"


def test_without_noise_there_are_no_samples(tmp_path):
    write_jsonl(tmp_path / "noise.jsonl", [{"rank": 1.0, "kept": True}])
    write_json(tmp_path / "summary.json", {"noise": 0})
    assert samples(tmp_path, 3) == []


def test_the_page_shows_what_was_left_out(tiny_model, domain, tmp_path):
    config = compose(overrides(
        tiny_model, domain, tmp_path, "full", "noise=rank", "noise.cut=0.5", "train.epochs=1",
        f"run_dir={tmp_path}/run",
    ))  # fmt: skip
    report = pipeline.run(config)
    noise = folders(config)["noise"]
    assert report["data"]["noise"] == read_json(noise / "summary.json")["noise"] > 0
    page = (tmp_path / "run/report.html").read_text("utf-8")
    shown = samples(noise, 8)
    assert "<h2>Left out as noise</h2>" in page
    for row in shown:
        assert row["query"] in page and f"rank {row['rank']:.3f} · train" in page
    assert page.count("rank 0.") == len(shown)
    assert (tmp_path / "run/dropped/noise/noise.jsonl").samefile(noise / "noise.jsonl")
