from dataclasses import replace

import pytest
from endpoints import completion
from tiny_runs import write_rows

from finetune.config.choices import BadRows, Kind, Leak, Source, Use
from finetune.config.compose import compose
from finetune.config.pairs import Domain, Generate
from finetune.data.generate import generate
from finetune.data.leaks import GOLD, LEAK, NEAR_LEAK
from finetune.data.synthesize import GENERATORS
from finetune.data.written import Writing
from finetune.errors import UserError
from finetune.records import Dropped, Pair, read_json, read_jsonl, read_known, write_json
from finetune.sets import read_halves

CHECK = compose(["recipes=full"]).check


@pytest.fixture
def data(tmp_path):
    """Output of a data step: one pair, and a corpus of two texts that two questions ask about."""
    folder = tmp_path / "data"
    texts = {"x": "甲方应付款。乙方须交货物给他。", "y": "丙方不必付款。丁方须收货物吧。"}
    for part, asked in (("select", "谁付款"), ("report", "乙方须交货物给他")):
        (folder / part / "law").mkdir(parents=True)
        write_rows(folder / part / "law/corpus.jsonl",
                   [{"id": key, "text": text} for key, text in texts.items()])  # fmt: skip
        write_rows(folder / part / "law/queries.jsonl", [{"id": f"q-{part}", "text": asked}])
        text = f"query-id\tcorpus-id\tscore\nq-{part}\tx\t1\n"
        (folder / part / "law/qrels.tsv").write_text(text, "utf-8")
    write_rows(folder / "train.jsonl", [Pair("1", "问", texts["x"], "own")])
    write_rows(folder / "known.jsonl", [Pair("2", "问", texts["y"], "other")])
    summary = {"pairs": 1, "read": 1, "dropped": {}, "sets": {}, "findings": {"kana": 1}}
    write_json(folder / "summary.json", summary)
    return folder


def make(
    data, out, use=Use.only, documents=None, limit=None, seed=0, writing=None, leak=Leak.default,
    bad_rows=BadRows.stop, **shares,
):  # fmt: skip
    out.mkdir()
    settings = Generate(use=use, pairs=100, **(dict.fromkeys(GENERATORS, 0.0) | shares))
    domain = Domain(
        "law", Source.files, Kind.pairs, None, None, None, documents, None, {}, None, False
    )
    summary = generate(
        settings, domain, replace(CHECK, leak=leak, bad_rows=bad_rows), data, read_halves(data),
        limit, seed, out, writing=writing,
    )  # fmt: skip
    assert summary == read_json(out / "summary.json")
    assert summary["read"] == summary["pairs"] + sum(summary["dropped"].values())
    assert len(list(read_jsonl(out / "dropped.jsonl", Dropped))) == sum(summary["dropped"].values())
    return list(read_jsonl(out / "train.jsonl", Pair)), summary


def test_the_corpus_is_the_document_where_there_is_no_other(data, tmp_path):
    pairs, summary = make(data, tmp_path / "out", identity=1.0)
    assert {pair.query for pair in pairs} == {
        "甲方应付款。乙方须交货物给他。",
        "丙方不必付款。丁方须收货物吧。",
    }
    assert summary["pairs"] == 2 and summary["sources"] == {"generated-identity": 2}


def test_documents_are_read_where_there_are_some(data, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.md").write_text("# 题\n\n正文在这里。", "utf-8")
    pairs, _ = make(data, tmp_path / "out", documents=tmp_path / "docs", title=1.0)
    assert [(pair.query, pair.positive) for pair in pairs] == [("题", "正文在这里。")]


def test_documents_that_cannot_be_read_are_counted_where_they_are_dropped(data, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.md").write_text("# 题\n\n正文在这里。", "utf-8")
    (tmp_path / "docs/b.md").write_bytes("退货".encode("gb18030"))
    line = {"documents": tmp_path / "docs", "title": 1.0, "use": Use.join}
    with pytest.raises(UserError, match="check.bad_rows=drop"):
        make(data, tmp_path / "stop", **line)
    _, summary = make(data, tmp_path / "drop", bad_rows=BadRows.drop, **line)
    assert summary["dropped"] == {"not UTF-8": 1}


def test_own_pairs_stay_beside_them_when_joined(data, tmp_path):
    pairs, summary = make(data, tmp_path / "out", use=Use.join, identity=1.0)
    assert pairs[0].source == "own" and len(pairs) == 3
    assert summary["sources"] == {"generated-identity": 2, "own": 1}
    assert summary["dropped"] == {} and summary["findings"] == {GOLD: 1, "kana": 1}
    assert [pair.id for pair in read_known(tmp_path / "out")] == ["2"]


def test_own_pairs_that_make_room_are_counted_and_known(data, tmp_path):
    _, summary = make(data, tmp_path / "only", identity=1.0)
    assert summary["dropped"] == {"own pair: generate.use=only": 1}
    assert summary["findings"] == {GOLD: 1}
    assert [pair.id for pair in read_known(tmp_path / "only")] == ["2", "1"]
    _, summary = make(data, tmp_path / "warm", use=Use.warmup, identity=1.0)
    assert summary["dropped"] == {}  # they are trained on later
    assert [pair.id for pair in read_known(tmp_path / "warm")] == ["2", "1"]


def test_a_made_pair_is_a_leak_where_one_that_is_read_would_be(data, tmp_path):
    rows = [{"title": "乙方须交货物给他吗？", "text": "应当交付。"},
            {"title": "何时付款", "text": "甲方应付款。乙方须交货物给他。"},
            {"title": "如何退货", "text": "退回<br>即可。"}]  # fmt: skip
    write_rows(tmp_path / "docs.jsonl", rows)
    asked, reasons = {}, {}
    for leak in Leak:
        pairs, summary = make(data, tmp_path / leak.value, use=Use.join, leak=leak, title=1.0,
                              documents=tmp_path / "docs.jsonl")  # fmt: skip
        asked[leak], reasons[leak] = {pair.query for pair in pairs}, summary["dropped"]
        assert summary["findings"]["HTML remains"] == 1
    assert reasons == {
        Leak.default: {NEAR_LEAK: 1}, Leak.strict: {NEAR_LEAK: 1, GOLD: 1}, Leak.off: {},
    }  # fmt: skip
    assert asked[Leak.strict] == {"问", "如何退货"}


def test_a_query_that_the_evaluation_asks_is_left_out_and_counted(data, tmp_path):
    found = [make(data, tmp_path / f"out{seed}", cloze=1.0, seed=seed) for seed in range(8)]
    leaks = [
        row
        for seed in range(8)
        for row in read_jsonl(tmp_path / f"out{seed}/dropped.jsonl", Dropped)
    ]
    assert {row.reason for row in leaks} == {LEAK, "own pair: generate.use=only"}
    assert {row.collided_with for row in leaks if row.reason == LEAK} == {"law: query q-report"}
    assert all(pair.query != "乙方须交货物给他" for pairs, _ in found for pair in pairs)


def test_limit_lowers_the_number(data, tmp_path):
    pairs, _ = make(data, tmp_path / "out", limit=1, identity=1.0)
    assert len(pairs) == 1


def test_of_a_passage_in_which_a_rule_finds_much_seven_pairs_are_made(data, tmp_path):
    """However many rules there are to choose from."""
    text = "".join(f"第{n}个问题怎么办？第{n}个问题这样办。" for n in range(10))
    write_rows(tmp_path / "faq.jsonl", [{"text": text}])
    pairs, _ = make(data, tmp_path / "out", documents=tmp_path / "faq.jsonl", question=1.0)
    assert len(pairs) == 7


def test_keywords_of_documents_ask_for_them(data, tmp_path):
    texts = ["押金和合同。", "工资和合同。", "押金和房东。", "工资和房东。"]
    write_rows(tmp_path / "docs.jsonl", [{"text": text} for text in texts])
    pairs, summary = make(data, tmp_path / "out", documents=tmp_path / "docs.jsonl", words=1.0)
    assert {(pair.query, pair.positive) for pair in pairs} == {
        (text.strip("。").replace("和", " "), text) for text in texts
    }
    assert summary["sources"] == {"generated-words": 4}


def test_nothing_made_is_told_with_the_way_out(data, tmp_path):
    with pytest.raises(UserError, match=r"generate\.title=1: no pair made from 2 passages"):
        make(data, tmp_path / "out", title=1.0)


# --- written by an endpoint ---


@pytest.fixture
def writing(endpoint_stand_in, tmp_path):
    line = ["recipes=documents", f"writer.url={endpoint_stand_in.url}", "writer.model=m",
            "writer.concurrency=1"]  # fmt: skip
    return Writing(compose(line).writer, tmp_path / "replies.sqlite")


def test_written_queries_have_their_share_beside_rules(data, tmp_path, writing, endpoint_stand_in):
    asked = [(200, {}, completion(text)) for text in ("钱谁来付", "货交给谁")]
    endpoint_stand_in.answers = list(asked)
    pairs, summary = make(data, tmp_path / "one", writing=writing)
    assert [(pair.query, pair.source) for pair in pairs] == [
        ("钱谁来付", "generated-written"), ("货交给谁", "generated-written"),
    ]  # fmt: skip
    assert {pair.positive for pair in pairs} == {
        "甲方应付款。乙方须交货物给他。",
        "丙方不必付款。丁方须收货物吧。",
    }
    assert summary["written"] == {
        "queries": 2, "replies": 2, "refused": 0, "left out": {},
        "tokens in": 200, "tokens out": 20,
    }  # fmt: skip
    pairs, _ = make(data, tmp_path / "two", writing=writing, identity=1.0, limit=2)
    assert [pair.source for pair in pairs] == ["generated-identity", "generated-written"]


def test_a_written_query_near_an_evaluation_query_is_a_leak(
    data, tmp_path, writing, endpoint_stand_in
):
    near = "乙方须交货物给他吗？"
    asked = [(200, {}, completion(text)) for text in (near, "货交给谁")]
    endpoint_stand_in.answers = asked
    pairs, summary = make(data, tmp_path / "out", writing=writing)
    assert [pair.query for pair in pairs] == ["货交给谁"]
    leak, _ = read_jsonl(tmp_path / "out/dropped.jsonl", Dropped)
    assert (leak.reason, leak.text, leak.collided_with) == (NEAR_LEAK, near, "law: query q-report")
    assert summary["dropped"][NEAR_LEAK] == 1 and summary["read"] == 3


def test_nothing_written_is_told_with_what_was_left_out(data, tmp_path, writing, endpoint_stand_in):
    endpoint_stand_in.answers = [(200, {}, completion("Who pays?"))] * 2
    with pytest.raises(UserError, match="no pair made from 2 passages.*") as caught:
        make(data, tmp_path / "out", writing=writing)
    assert "'left out': {'not Chinese': 2}" in str(caught.value)
