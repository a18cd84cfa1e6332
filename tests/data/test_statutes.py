"""The rules under which the questions were written, held."""

import pytest

from finetune.data import statutes
from finetune.evaluation.bm25 import bigrams
from finetune.records import normalised, read_dicts

QUESTIONS = list(read_dicts(statutes.FOLDER / "questions.jsonl"))
TRAINING = list(read_dicts(statutes.FOLDER / "training.jsonl"))


@pytest.fixture(scope="module")
def everything():
    return statutes.articles(full=True)


@pytest.fixture(scope="module")
def loaded():
    return statutes.load(full=False)


def longest_common(a: str, b: str) -> str:
    best = ""
    for start in range(len(a)):
        while (longer := a[start : start + len(best) + 1]) in b and start + len(best) < len(a):
            best = longer
    return best


def test_longest_common():
    assert longest_common("公司不发工资", "用人单位应当发工资给劳动者") == "发工资"
    assert longest_common("甲乙", "丙丁") == ""


@pytest.mark.parametrize("row", QUESTIONS, ids=lambda row: row["id"])
def test_question(row, everything):
    question = normalised(row["question"])
    for gold in row["golds"]:
        text = everything[gold["article"]]
        assert gold["sentence"] in text, f"not in {gold['article']}: {gold['sentence']}"
        article = normalised(text)
        common = longest_common(question, article)
        assert len(common) <= 6, f"{gold['article']}: {common}"
        asked = set(bigrams(row["question"]))
        shared = asked & set(bigrams(text))
        assert len(shared) <= 0.25 * len(asked), f"{gold['article']}: {sorted(shared)}"
    assert len(row["traditional"]) == pytest.approx(len(row["question"]), abs=2)


def test_enough_questions_over_enough_laws(loaded):
    (select,), (report, traditional) = loaded.select, loaded.report
    assert len(select.queries) == 100
    assert len(report.queries) >= 300
    assert report.queries.keys() == traditional.queries.keys()
    assert not select.queries.keys() & report.queries.keys()
    laws = {gold["article"].split("#")[0] for row in QUESTIONS for gold in row["golds"]}
    assert len(laws) >= 40
    assert 5_000 <= len(report.corpus) <= 7_000


def test_every_question_has_a_gold_in_the_corpus(loaded):
    for each in (*loaded.select, *loaded.report):
        assert each.queries.keys() == each.qrels.keys()
        assert all(relevance for relevance in each.qrels.values())
        assert {d for r in each.qrels.values() for d in r} <= each.corpus.keys()


def test_training_asks_about_other_articles():
    golds = {gold["article"] for row in QUESTIONS for gold in row["golds"]}
    taught = {gold for row in TRAINING for gold in row["golds"]}
    assert not golds & taught


def test_no_question_is_asked_twice():
    asked = [normalised(row["question"]) for row in (*QUESTIONS, *TRAINING)]
    assert len(asked) == len(set(asked))


def test_traditional_is_traditional():
    changed = [row for row in QUESTIONS if row["traditional"] != row["question"]]
    assert len(changed) > 0.95 * len(QUESTIONS)


def test_only_laws_in_force(everything):
    laws = {key.split("#")[0] for key in everything}
    assert "民法典" in laws
    assert "商标法" not in laws  # its revision takes effect in 2027
    assert not any("关于修改" in law for law in laws)


def test_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(statutes, "_PACKAGE", "no_such_package")
    with pytest.raises(statutes.UserError, match=r"finetune\[demo\]"):
        statutes.load(full=False)
