import numpy as np
import pytest
import tiny_runs
from tiny_runs import folders

from finetune import pipeline
from finetune.config.compose import compose
from finetune.errors import UserError
from finetune.records import Pair, read_dicts, write_jsonl
from finetune.steps.pseudo import paired

PASSAGES = ["房东应当退还押金", "公司应当支付工资", "离婚"]


def embedded(folder, queries, nearest):
    """What the embed step would make if each query were a passage's very vector."""
    vectors = np.eye(len(PASSAGES), dtype=np.float32)
    write_jsonl(folder / "pool.jsonl", [{"text": text} for text in PASSAGES])
    write_jsonl(folder / "queries.jsonl", [{"text": text} for text in queries])
    np.save(folder / "pool.npy", vectors)
    np.save(folder / "queries.npy", vectors[nearest])
    return folder


def test_a_query_is_paired_where_both_find_the_same_passage(tmp_path):
    queries = ["押金不退", "工资拖欠", "离婚。", "无关"]
    found = paired(queries, embedded(tmp_path, queries, [0, 2, 2, 1]))
    # Of the others the vector is another passage's; the query is the passage; BM25 finds none.
    assert found == {0: Pair("pseudo-0", "押金不退", "房东应当退还押金", "pseudo")}


def test_many_queries_are_paired_as_each_alone(tmp_path, monkeypatch):
    queries = [f"押金{n}" for n in range(7)]
    monkeypatch.setattr("finetune.steps.pseudo._BLOCK", 2)
    found = paired(queries, embedded(tmp_path, queries, [0] * 7))
    assert [found[row].query for row in range(7)] == queries
    assert len({pair.id for pair in found.values()}) == 7


@pytest.fixture
def line(tiny_model, domain, tmp_path):
    """Queries, each a passage of the corpus without its first character."""
    corpus = [row["text"] for row in read_dicts(domain / "dev/corpus.jsonl")]
    file = tmp_path / "log.txt"
    file.write_text("".join(f"{text[1:]}\n" for text in corpus), encoding="utf-8")

    def of(recipe, *more):
        return tiny_runs.overrides(tiny_model, domain, tmp_path, recipe, "mine.relative_margin=0",
                                   f"domain.queries={file}", "pseudo.use=join", *more)  # fmt: skip

    return of


def sources(folder):
    return [row["source"] for row in read_dicts(folder / "train.jsonl")]


def test_pairs_come_beside_the_own_and_every_query_is_accounted_for(line):
    config = compose(line("contrastive", "until=mine"))
    pipeline.run(config)
    found = folders(config)
    own = len(sources(found["data"]))
    made = sources(found["pseudo"])[own:]
    assert made and set(made) == {"pseudo"}
    dropped = list(read_dicts(found["pseudo"] / "dropped.jsonl"))
    assert len(made) + len(dropped) == 64
    assert {row["source"] for row in dropped} == {str(config.domain.queries)}
    assert all(0 < row["line"] <= 64 for row in dropped)
    assert "pseudo" in sources(found["mine"])


def test_documents_that_cannot_be_read_are_left_out_where_bad_rows_are(line, tmp_path):
    folder = tmp_path / "manuals"
    folder.mkdir()
    (folder / "a.md").write_text("签收后七天内可以申请退货。", "utf-8")
    (folder / "b.md").write_bytes("退货".encode("gb18030"))
    words = line("contrastive", "until=queries", f"domain.documents={folder}")
    with pytest.raises(UserError, match="check.bad_rows=drop"):
        pipeline.run(compose(words))
    config = compose([*words, "check.bad_rows=drop"])
    pipeline.run(config)
    found = folders(config)["queries"]
    assert [row["text"] for row in read_dicts(found / "passages.jsonl")] == [
        "签收后七天内可以申请退货。"
    ]
    assert [row["reason"] for row in read_dicts(found / "dropped.jsonl")] == ["not UTF-8"]


def test_a_run_on_queries_alone_tells_of_them(line):
    words = [each for each in line("queries", "train.epochs=1", "pseudo.pairs=20")
             if not each.startswith(("domain.train=", "pseudo.use="))]  # fmt: skip
    report = pipeline.run(compose([*words, "domain.train=null"]))
    assert report["data"]["pseudo"]["queries"] == 64
    assert report["data"]["pseudo"]["paired"] == 20
    assert report["data"]["sources"] == {"pseudo": 20}
    assert report["data"]["read"] == 64


def test_documents_may_answer_too(line, domain, tmp_path):
    corpus = [row["text"] for row in read_dicts(domain / "dev/corpus.jsonl")]
    documents = tmp_path / "more.jsonl"
    write_jsonl(documents, [{"text": f"{text[1:-1]}{text[-2]}。"} for text in corpus])
    config = compose(line("queries", f"domain.documents={documents}", "until=pseudo"))
    pipeline.run(config)
    pairs = list(read_dicts(folders(config)["pseudo"] / "train.jsonl"))
    assert pairs and {row["positive"] for row in pairs} - set(corpus)


def test_where_nothing_agrees_the_documents_are_missing(line, tmp_path):
    (tmp_path / "log.txt").write_text("啊\n", encoding="utf-8")
    with pytest.raises(UserError, match="for none of 1 queries"):
        pipeline.run(compose(line("contrastive", "until=pseudo")))


@pytest.mark.parametrize("domain", [["domain=statutes"], ["domain=custom", "domain.dev=dev"]])
def test_without_a_file_it_is_asked_for(domain, tmp_path):
    words = ["recipes=queries", *domain, "tracking=none", f"paths.cache={tmp_path}"]
    with pytest.raises(UserError, match=r"domain\.queries: not set; name a file"):
        pipeline.run(compose(words))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["recipes=cosent", "domain=stsb_zh", "paths.data=/d"], "scored pairs have none"),
        (["recipes=distill"], "a student learns vectors"),
        (["recipes=full", "script=s2tw"], "the passages alone; set script=keep or pseudo.use=none"),
        (["recipes=full", "pseudo.use=warmup"], "choose from: none, join, only"),
    ],
)
def test_what_cannot_be_with_it(words, said):
    with pytest.raises(UserError, match=said):
        compose([*words, *(() if "pseudo.use=warmup" in words else ["pseudo.use=join"])])


def test_pairs_pass_through_noise_both_rounds_and_scripts(line):
    config = compose(line("contrastive", "noise=rank", "noise.cut=0.2", "mine.rounds=2",
                          "script=mix:0.5", "train.epochs=1", "until=train-2"))  # fmt: skip
    pipeline.run(config)
    found = folders(config)
    made = sources(found["pseudo"]).count("pseudo")
    assert made
    for step in ("noise", "mine", "mine-2", "script", "script-2"):
        assert 0 < sources(found[step]).count("pseudo") <= made
