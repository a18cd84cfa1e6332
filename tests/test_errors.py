"""Each kind of bad input gets one clear answer, and docs/errors.md explains it."""

import ast
import gzip
import re
import shutil
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
from reading import read_pairs

from finetune import cli, hub, pipeline, stage
from finetune.commands.ranges import read_search
from finetune.config import Model
from finetune.config.choices import BadRows, Hub, Kind, Source
from finetune.config.compose import compose, known_keys
from finetune.config.pairs import Domain
from finetune.config.ranges import GENERATORS
from finetune.config.writing import read_prompt
from finetune.data import beir, sts
from finetune.data.documents import read_documents
from finetune.data.prepare import prepare
from finetune.data.terms import read_dictionary
from finetune.errors import UserError
from finetune.model import build_base
from finetune.sets import half

ROOT = Path(__file__).parents[1]
DOCS = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
GOOD = b'{"query": "\xe9\x97\xae", "positive": "\xe7\xad\x94"}\n'

# kind: file name, content (None: no such file), the phrase of docs/errors.md, and what else the
# message must name: the place, the value.
PAIRS = {
    "missing file": ("gone.jsonl", None, "no such file", ["gone.jsonl"]),
    "empty file": ("a.jsonl", b"", "is empty; expected at least one row", ["a.jsonl"]),
    "header only": ("a.csv", b"query,positive\n", "is empty; expected at least one row", []),
    "not gzip": ("a.jsonl.gz", GOOD, "cannot be read", ["a.jsonl.gz"]),
    "cut gzip": ("a.jsonl.gz", gzip.compress(GOOD * 99)[:-20], "cannot be read", []),
    "other ending": ("a.docx", GOOD, "cannot tell what is in it from its ending", ["a.docx"]),
    "not JSON": ("a.jsonl", GOOD + b"{oops\n", "not JSON", ["a.jsonl:2", "{oops"]),
    "broken array": ("a.json", b"[{]", "not JSON", ["a.json", "character 3"]),
    "deep JSON": ("a.jsonl", b"[" * 99999, "not JSON", ["nested too deeply"]),
    "long number": ("a.jsonl", b"1" * 9999, "not JSON", ["thousands of digits"]),
    "not an object": ("a.jsonl", GOOD + b"[3]\n", "expected an object", ["a.jsonl:2", "[3]"]),
    "not UTF-8": ("a.jsonl", GOOD + "问".encode("gb18030"), "is not UTF-8", ["a.jsonl:2", "0xce"]),
    "UTF-16": ("a.csv", "query".encode("utf-16"), "which its name does not say", ["UTF-16"]),
    "UTF-16LE": ("a.jsonl", GOOD.decode().encode("utf-16-le"), "looks like UTF-16 without its mark",
                 ["a.jsonl", "iconv -f UTF-16LE -t UTF-8"]),
    "UTF-16BE": ("a.csv", "问题,答案\r\n甲,乙\r\n".encode("utf-16-be"),
                 "looks like UTF-16 without its mark", ["a.csv", "iconv -f UTF-16BE -t UTF-8"]),
    "no Parquet": ("a.parquet", GOOD, "not readable as Parquet", ["a.parquet"]),
    "no Excel": ("a.xlsx", GOOD, "not readable as Excel", ["a.xlsx", "CSV"]),
    "graded": ("a.jsonl", b'{"sentence1": "a", "sentence2": "b", "score": 2.5}',
               "expected 1 (answers) or 0 (does not)", ["a.jsonl:1", "2.5", "domain.kind=scored"]),
    "no CSV": ("a.csv", b"query,positive\n\"a,b\n", "not readable as CSV", ["a.csv:2"]),
    "Excel as CSV": ("a.csv", b"PK\x03\x04", "which its name does not say", ["Excel"]),
    "cells": ("a.csv", b"query,positive\na,b,c\n", "cell(s)", ["a.csv:2", "['a', 'b', 'c']"]),
    "column twice": ("a.csv", b"query,query,positive\na,b,c\n", "is there twice",
                     ["a.csv:1", "'query'"]),
    "other separator": ("a.csv", b"query;positive\na;b\n", "instead of", ["a.csv:1", "semicolons"]),
    "misspelt column": ("a.jsonl", GOOD.replace(b"query", b"qeury"), "no column",
                        ["'query'", "did you mean 'qeury'?", "domain.columns.query="]),
    "missing key": ("a.jsonl", GOOD + b'{"query": "a"}', "expected it in every row",
                    ["a.jsonl:2", "'positive'"]),
    "number": ("a.jsonl", b'{"query": 42, "positive": "a"}', "a number; expected text",
               ["a.jsonl:1", "42", "bad_rows=drop"]),
    "null": ("a.jsonl", b'{"query": null, "positive": "a"}', "expected text: fill it in",
             ["a.jsonl:1", "null"]),
    "empty text": ("a.csv", b"query,positive\n,b\n", "expected text: fill it in", ["a.csv:2"]),
    "white space": ("a.jsonl", b'{"query": " \\u3000", "positive": "a"}',
                    "expected text: fill it in", ["a.jsonl:1", "bad_rows=drop"]),
    "lone surrogate": ("a.jsonl", b'{"query": "a\\ud83d", "positive": "a"}', "a lone surrogate",
                       ["a.jsonl:1", "\\ud83d", "character 2"]),
    "negatives": ("a.jsonl", b'{"query": "a", "positive": "b", "negatives": 3}',
                  "expected a list of texts", ["a.jsonl:1", "is 3, a number"]),
    "negative": ("a.jsonl", b'{"query": "a", "positive": "b", "negatives": ["B"]}',
                 "stands in negatives and is the positive", ["a.jsonl:1", "'B'"]),
    "duplicate id": ("a.jsonl", b'{"query": "a", "positive": "b", "id": 1}\n'
                     b'{"query": "c", "positive": "d", "id": "1"}\n',
                     "expected ids that occur once", ["a.jsonl:2", "'1'", "line 1"]),
}  # fmt: skip

SCORED_GOOD = b'{"a": "x", "b": "y", "score": 1}\n'
SCORED = {
    "no score": ("a.jsonl", b'{"a": "x", "b": "y"}\n', "no column",
                 ["'score'", "domain.columns.score="]),
    "score in words": ("a.csv", b"a,b,score\nx,y,high\n", "expected a finite number",
                       ["a.csv:2", "'high'", "bad_rows=drop"]),
    "not finite": ("a.jsonl", SCORED_GOOD + b'{"a": "x", "b": "z", "score": NaN}',
                   "expected a finite number", ["a.jsonl:2", "nan"]),
    "no first text": ("a.jsonl", b'{"a": null, "b": "y", "score": 1}', "expected text: fill it in",
                      ["a.jsonl:1", "a is null"]),
    "ids of scored pairs": ("a.jsonl", b'{"a": "x", "b": "y", "score": 1, "id": 1}\n'
                            b'{"a": "x", "b": "z", "score": 1, "id": 1}',
                            "expected ids that occur once", ["a.jsonl:2", "line 1"]),
}  # fmt: skip

TEXTS = '{"id": "c", "text": "篇"}\n'
JUDGED = "c\tc\t1\n"
STS = '{"sentence1": "a", "sentence2": "b", "label": '

# kind: the files of a folder, the phrase, the place and value
FOLDERS = {
    "neither shape": ({"notes.txt": "x"}, "expected a retrieval set", ["notes.txt"]),
    "file missing": ({"corpus.jsonl": TEXTS, "queries.jsonl": TEXTS}, "no such file",
                     ["qrels.tsv"]),
    "empty corpus": ({"corpus.jsonl": "", "queries.jsonl": TEXTS, "qrels.tsv": JUDGED},
                     "is empty; expected at least one row", ["corpus.jsonl"]),
    "duplicate ids": ({"corpus.jsonl": TEXTS * 2, "queries.jsonl": TEXTS, "qrels.tsv": JUDGED},
                      "expected ids that occur once", ["corpus.jsonl:2", "'c'", "line 1"]),
    "unknown id": ({"corpus.jsonl": TEXTS, "queries.jsonl": TEXTS, "qrels.tsv": "c\tx\t1\n"},
                   "is not in corpus.jsonl", ["qrels.tsv:1", "'x'"]),
    "no positives": ({"corpus.jsonl": TEXTS, "queries.jsonl": TEXTS, "qrels.tsv": "c\tc\t0\n"},
                     "no score above 0", ["qrels.tsv"]),
    "bad score": ({"corpus.jsonl": TEXTS, "queries.jsonl": TEXTS, "qrels.tsv": "c\tc\t1.5\n"},
                  "expected a whole number", ["qrels.tsv:1", "'1.5'"]),
    "two scores": ({"corpus.jsonl": TEXTS, "queries.jsonl": TEXTS,
                    "qrels.tsv": "c\tc\t0\n" + JUDGED}, "expected one score", ["qrels.tsv:2"]),
    "bad id": ({"corpus.jsonl": '{"id": "a\\tb", "text": "x"}', "queries.jsonl": TEXTS,
                "qrels.tsv": JUDGED}, "expected one without tabs", ["corpus.jsonl:1", "'a\\tb'"]),
    "twice": ({"corpus.jsonl": TEXTS, "corpus.jsonl.gz": "", "queries.jsonl": TEXTS,
               "qrels.tsv": JUDGED}, "delete the one that is out of date", ["corpus.jsonl.gz"]),
    "bad label": ({"test.jsonl": STS + "2}"}, "expected 0 (unlike) or 1 (alike)",
                  ["test.jsonl:1", "label is 2"]),
    "one label": ({"test.jsonl": STS + "1}"},
                  "is 1; expected pairs that are alike and pairs that are not", ["test.jsonl"]),
}  # fmt: skip


def check(error: UserError, phrase: str, parts: list[str]) -> None:
    message = str(error)
    for part in (phrase, *parts):
        assert part in message
    assert "Traceback" not in message
    assert f"`{phrase}" in DOCS or f"{phrase}`" in DOCS


@pytest.mark.parametrize(("name", "raw", "phrase", "parts"), PAIRS.values(), ids=PAIRS)
def test_pairs(tmp_path, name, raw, phrase, parts):
    path = tmp_path / name
    if raw is not None:
        path.write_bytes(raw)
    with pytest.raises(UserError) as caught:
        read_pairs(str(path), {}, BadRows.stop)
    check(caught.value, phrase, parts)


@pytest.mark.parametrize(("name", "raw", "phrase", "parts"), SCORED.values(), ids=SCORED)
def test_scored_pairs(tmp_path, name, raw, phrase, parts):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(UserError) as caught:
        read_pairs(str(tmp_path / name), {}, BadRows.stop, Kind.scored)
    check(caught.value, phrase, parts)


def test_excel_without_openpyxl(tmp_path, monkeypatch):
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(UserError) as caught:
        read_pairs(str(tmp_path / "a.xlsx"), {}, BadRows.stop)
    check(caught.value, "pip install 'finetune[data]'", ["a.xlsx", "openpyxl"])


@pytest.mark.parametrize(
    ("words", "phrase"), [([], "nothing to check"), (["a", "b"], "one set at a time")]
)
def test_a_check_of_no_set_or_of_two(words, phrase, capsys):
    assert cli.main(["check", *words]) == cli.BAD_INPUT
    check(UserError(capsys.readouterr().err), phrase, [*words])


@pytest.mark.parametrize(
    ("words", "phrase"),
    [
        ("check a.jsonl --html {}/gone/a.html", "to write it to"),
        ("check a.jsonl --json {}/gone/a.json", "to write it to"),
        ("check a.jsonl --dropped {}/gone/a.jsonl", "to write it to"),
        ("evaluate bundle --data dev --json {}", "name a file in it"),
        ("compare run run --json {}/gone/a.json", "to write it to"),
        ("encode bundle --input a.txt --output {}/gone/a.npy", "to write it to"),
    ],
)
def test_a_file_that_cannot_be_written_is_told_before_any_work(tmp_path, words, phrase, capsys):
    arguments = words.format(tmp_path).split()
    assert cli.main(arguments) == cli.BAD_INPUT
    # Of all that is not there, it is told first and alone.
    (told,) = capsys.readouterr().err.splitlines()
    check(UserError(told), phrase, [f"{arguments[-2]} {arguments[-1]}"])


def test_unknown_field(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    with pytest.raises(UserError) as caught:
        read_pairs(str(tmp_path / "a.jsonl"), {"positve": "query"}, BadRows.stop)
    check(caught.value, "no such field", ["domain.columns.positve", "did you mean 'positive'?"])


@pytest.mark.parametrize("source", ["", ".", "a\0b", "~nobody/a.jsonl", "x" * 5000 + ".csv", "a b"])
def test_names_of_no_file(source):
    with pytest.raises(UserError, match="no such file|is a folder"):
        read_pairs(source, {}, BadRows.stop)


@pytest.mark.parametrize("read", [beir.kind, beir.read_folder, sts.read])
@pytest.mark.parametrize("name", ["gone", "a\0b", "~nobody/a", "x" * 5000, "x" * 5000 + ".jsonl"])
def test_names_of_no_folder(read, name):
    with pytest.raises(UserError, match="no such (folder|file)"):
        read(Path(name))


@pytest.mark.parametrize(("files", "phrase", "parts"), FOLDERS.values(), ids=FOLDERS)
def test_folders(tmp_path, files, phrase, parts):
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        if beir.kind(tmp_path) == "sts":
            sts.read(tmp_path)
        else:
            beir.read_folder(tmp_path)
    check(caught.value, phrase, parts)


@pytest.mark.parametrize(
    ("changes", "phrase", "parts"),
    [
        ({"dev": None}, "not set", ["domain.dev", "domain=custom"]),
        ({"sources": ["x"]}, "no pairs of source", ["domain.sources", "'x'", "train"]),
        ({}, "falls into the", ["domain.test=<folder>"]),
        ({"test": "dev"}, "which only the final scores may see", ["domain.dev"]),
    ],
)
def test_domains(tmp_path, changes, phrase, parts):
    (tmp_path / "train.jsonl").write_bytes(GOOD)
    (tmp_path / "dev").mkdir()
    for name, text in {"corpus.jsonl": TEXTS, "queries.jsonl": TEXTS, "qrels.tsv": JUDGED}.items():
        (tmp_path / "dev" / name).write_text(text, encoding="utf-8")
    test = tmp_path / changes["test"] if "test" in changes else None
    if "sources" in changes:
        test = tmp_path / "other"
        test.mkdir()
        for name, text in {"queries.jsonl": '{"id": "c", "text": "别"}', "corpus.jsonl": TEXTS,
                           "qrels.tsv": JUDGED}.items():  # fmt: skip
            (test / name).write_text(text, encoding="utf-8")
    settings = {
        "name": "custom", "source": Source.files, "kind": Kind.pairs,
        "train": str(tmp_path / "train.jsonl"), "dev": tmp_path / "dev", "documents": None,
        "queries": None, "columns": {}, "sources": None, "full": False,
    }  # fmt: skip
    with pytest.raises(UserError) as caught:
        prepare(
            Domain(**(settings | changes | {"test": test})),
            compose(["recipes=full"]).check,
            None,
            0,
            tmp_path,
        )
    check(caught.value, phrase, parts)
    assert not (tmp_path / "summary.json").exists()


def sts_lines(*scores):
    return "".join(
        f'{{"sentence1": "e{n}", "sentence2": "f{n}", "label": {score}}}\n'
        for n, score in enumerate(scores)
    )


# Alike are just the pairs that report.
HALVED = sts_lines(*(int(half(f"dev-{line}") == "report") for line in range(1, 25)))


@pytest.mark.parametrize(
    ("train", "dev", "changes", "phrase", "parts"),
    [
        ("1", sts_lines(*[0, 1] * 12), {}, "every score of", ["domain.train", "is 1"]),
        ("0", sts_lines(0, 1), {}, "falls into the", ["domain.test=<folder>"]),
        ("0", sts_lines(1, 1), {}, "is 1; expected pairs that are alike", ["dev/test.jsonl"]),
        ("0", HALVED, {}, "has one score", ["domain.dev", "domain.test=<folder>"]),
        ("0", None, {}, "is a retrieval set", ["domain.kind=pairs"]),
        ("0", sts_lines(0, 1), {"kind": Kind.pairs}, "is a similarity set", ["domain.kind=scored"]),
        ("0", sts_lines(0, 1), {"test": "dev"}, "which only the final scores may see", ["dev"]),
        ("0", sts_lines(0, 1), {"dev": None}, "not set", ["test.jsonl, dev.jsonl or both"]),
    ],
)
def test_scored_domains(tmp_path, train, dev, changes, phrase, parts):
    text = f'{{"a": "x", "b": "y", "score": {train}}}\n{{"a": "x", "b": "z", "score": 1}}\n'
    (tmp_path / "train.jsonl").write_text(text, encoding="utf-8")
    folder = tmp_path / "dev"
    folder.mkdir()
    (folder / ("test.jsonl" if dev else "corpus.jsonl")).write_text(dev or TEXTS, "utf-8")
    settings = {
        "name": "custom", "source": Source.files, "kind": Kind.scored,
        "train": str(tmp_path / "train.jsonl"), "dev": folder, "test": None, "documents": None,
        "queries": None, "columns": {}, "sources": None, "full": False,
    } | changes  # fmt: skip
    if settings["test"]:
        settings["test"] = folder
    with pytest.raises(UserError) as caught:
        prepare(Domain(**settings), compose(["recipes=full"]).check, None, 0, tmp_path)
    check(caught.value, phrase, parts)
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize(
    ("name", "content", "phrase", "parts"),
    [
        ("a.pdf", "x", "expected a folder of .md, .markdown, .txt files", ["domain.documents="]),
        ("folder/empty.md", " ", "no text found", ["domain.documents=", "folder"]),
        ("a.jsonl", '{"body": "x"}', "no text; expected a row with text", ["a.jsonl:1"]),
        ("a.jsonl", '{"text": "a\\ud83d"}', "a lone surrogate", ["a.jsonl:1: text", "ud83d"]),
    ],
)
def test_documents(tmp_path, name, content, phrase, parts):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_documents(file.parent if "/" in name else file)
    check(caught.value, phrase, parts)


def test_a_line_of_a_dictionary(tmp_path):
    (tmp_path / "words.txt").write_text("词\n", "utf-8")
    with pytest.raises(UserError) as caught:
        read_dictionary(tmp_path / "words.txt")
    check(caught.value, "expected a word, a tab and what it becomes", ["words.txt:1", "'词'"])


@pytest.mark.parametrize(
    ("prompt", "phrase"),
    [("问一个问题", "holds no {passage}"), ("{tmp}/a.txt", "no {passage} in this file")],
)
def test_a_prompt(tmp_path, prompt, phrase):
    (tmp_path / "a.txt").write_text("问一个问题", "utf-8")
    prompt = prompt.replace("{tmp}", str(tmp_path))
    with pytest.raises(UserError) as caught:
        read_prompt(prompt)
    check(caught.value, phrase, ["writer.prompt=", prompt])


@pytest.mark.parametrize(
    ("overrides", "phrase", "parts"),
    [
        (
            ["recipes=documents", *(f"generate.{name}=0" for name in GENERATORS)],
            "no generator has a share",
            ["generate.use=only", "generate=documents"],
        ),
        (["recipes=full", "writer.key_env=sk-1"], "never the key itself", ["OPENAI_API_KEY"]),
        (["recipes=documents", "writer.url=a:8000"], "expected an address such as", ["a:8000"]),
        (["recipes=documents", "writer.url=http://a"], "writer.model: not set", []),
        (
            ["recipes=full", "writer.url=http://a", "writer.model=m"],
            "generate=none makes no pairs",
            ["generate=documents"],
        ),
        (["recipes=ful"], "unknown recipe", ["did you mean 'full'?"]),
        (["recipes=full", "domain=leagl"], "unknown domain", ["did you mean 'legal'?"]),
        (["recipes=full", "domain=faq"], "unknown domain", ["domain=custom domain.name=faq)"]),
        (["recipes=full", "domain=a.csv"], "unknown domain", ["domain=custom domain.train=a.csv)"]),
        (
            ["recipes=full", "hardware=gpu"],
            "unknown hardware",
            ["hardware=auto takes the GPU; choose from: a10, a100, auto, cpu, h100, v100"],
        ),
        (["recipes=full", "train.epoch=3"], "unknown key", ["did you mean 'train.epochs'?"]),
        (["recipes=full", "batch=3"], "unknown key", ["did you mean 'train.batch_size'?"]),
        (["recipes=full", "zzz=1"], "unknown key", ["choose from: seed, limit"]),
        (["recipes=full", "lr=2e-5"], "unknown key", ["write train.learning_rate=2e-5"]),
        (["recipes=full", "train.lr=2e-5"], "unknown key", ["write train.learning_rate=2e-5"]),
        (["recipes=full", "temperature=.1"], "unknown key", ["loss.scale=<1 / temperature>"]),
        (["recipes=full", "loss.temperature=.1"], "unknown key", ["loss.scale=<1 / temperature>"]),
        (["recipes=full", "fp16=true"], "unknown key", ["write hardware.precision=fp16"]),
        (["recipes=full", "gpu=0"], "unknown key", ["hardware=auto takes the GPU"]),
        (["recipes=full", "output=my"], "unknown key", ["write run_dir=my"]),
        (["recipes=full", "plan=true"], "unknown key", ["prints its plan first; Ctrl-C ends it"]),
        (["recipes=full", "a b"], "write key=value", ["a b"]),
        (["pairs.jsonl"], "name it as", ["'pairs.jsonl'", "custom domain.train=pairs.jsonl"]),
        (["recipes=full", "limit=abc"], "expected a whole number", ["limit=abc: "]),
        (["recipes=full", "train.epochs=two"], "expected a number", ["train.epochs=two: "]),
        (["recipes=full", "domain.name=a/b"], "expected letters", ["domain.name='a/b': "]),
        (["recipes=full", "domain.name=a b"], "expected letters", ["domain.name='a b': "]),
        (
            ["recipes=cosent", "domain=legal"],
            "learns from scored pairs",
            ["recipes=cosent", "CoSENTLoss", "domain=legal", "afqmc, atec, medical_qqr, stsb_zh"],
        ),
        (
            ["recipes=full", "domain=atec"],
            "learns from pairs of a query and its answer",
            ["MultipleNegativesRankingLoss", "domain=atec", "legal, medical", "loss=cosent"],
        ),
        (
            ["recipes=cosent", "noise=rank", "noise.cut=0.5"],
            "ranks the answers of queries",
            ["noise.cut=0.5", "scored pairs have none; set noise=none"],
        ),
        (["recipes=cosent", "mine=positive_aware"], "take no negatives", ["mine=none"]),
    ],
)
def test_configuration(overrides, phrase, parts):
    with pytest.raises(UserError) as caught:
        compose(overrides)
    check(caught.value, phrase, parts)


def test_a_domain_may_have_a_chinese_name():
    assert compose(["recipes=full", "domain.name=客服_faq-2"]).domain.name == "客服_faq-2"


@pytest.mark.parametrize(
    ("overrides", "phrase"),
    [
        (["loss.scale=50", "train.learning_rate=2e-5"], "nothing to search"),
        (["train.warmup=interval(1,0)"], "expected the lower end first"),
        (["train.warmup=tag(log,interval(0,1))"], "needs a lower end greater than 0"),
        (["until=train"], "finetune tune sets"),
    ],
)
def test_a_search(overrides, phrase):
    with pytest.raises(UserError) as caught:
        read_search(["recipes=full", *overrides])
    check(caught.value, phrase, [])


def test_jobs_that_would_overwrite_each_other(capsys):
    assert cli.train(["-m", "recipes=full", "seed=1,2", "run_dir=a"]) == cli.BAD_INPUT
    message = capsys.readouterr().err
    check(UserError(message), "would overwrite each other", ["run_dir=a", "2 jobs"])


def model(**changes) -> Model:
    settings = {
        "name": "x", "hub": Hub.local, "id": None, "revision": None, "path": None,
        "pooling": "mean", "max_length": 512, "prompts": {}, "licence": "mit", "trained_on": [],
    }  # fmt: skip
    return Model(**(settings | changes))


def test_a_model_path_that_is_no_model(tmp_path):
    with pytest.raises(UserError) as caught:
        hub.fetch(model(path=tmp_path))
    check(caught.value, "not a model", [f"model.path={tmp_path}", "config.json"])
    with pytest.raises(UserError) as caught:
        hub.fetch(model(path=tmp_path / "gone"))
    check(caught.value, "no such folder", ["gone"])


def test_a_model_of_the_hub_without_its_hub():
    with pytest.raises(UserError) as caught:
        hub.fetch(compose(["recipes=full", "model=custom", "model.id=a/b"]).model)
    check(caught.value, "needs one", ["model.path=<folder>, or model.hub=huggingface model.id="])


def test_a_model_whose_weights_lack_a_layer(tiny_model, tmp_path):
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    config = (folder / "config.json").read_text("utf-8")
    more = config.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3')
    (folder / "config.json").write_text(more, "utf-8")
    with pytest.raises(UserError) as caught:
        build_base(model(path=folder), tmp_path / "base")
    check(caught.value, "that config.json asks for", [str(folder), "encoder.layer.2."])


def test_an_offline_model_hub(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError) as caught:
        hub.fetch(model(hub=Hub.huggingface, id="nobody/nothing"))
    check(
        caught.value,
        "is neither in the local cache nor to be had from",
        ["nobody/nothing", "HF_ENDPOINT", "model=starter"],
    )


def test_a_run_directory_in_use(tmp_path):
    with stage.own_folder(tmp_path), pytest.raises(UserError) as caught:
        with stage.own_folder(tmp_path):
            pass
    check(caught.value, "in use by another run", [str(tmp_path), "process"])


@pytest.mark.parametrize(
    ("overrides", "phrase"),
    [
        (["train.batch_size=32"], "cannot be shared evenly by"),
        (["train.batch_size=33", "hardware.processes=2"], "hardware.processes="),
    ],
)
def test_several_processes(monkeypatch, overrides, phrase):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError) as caught:
        pipeline.resolve(compose(["recipes=full", "domain=statutes", *overrides]))
    check(caught.value, phrase, [overrides[-1], "3"])


def text_of(node: ast.AST) -> str | None:
    """The text of an expression that makes one, with … where something is put in."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(text_of(part) or "…" for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right) if text_of(left) or text_of(right):
            return f"{text_of(left) or '…'}{text_of(right) or '…'}"
    return None


def messages(path: Path) -> set[str]:
    """The texts in a module, but for docstrings."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    told = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    return {text_of(node) or "" for node in nodes if id(node) not in told} - {""}


@cache
def all_messages(folder: str) -> str:
    found = (messages(path) for path in sorted((ROOT / folder).rglob("*.py")))
    return "\0".join(sorted(set().union(*found)))


def is_told(phrase: str) -> bool:
    """Say whether a message has the phrase, in which … stands for anything, and a number may."""
    parts = (re.sub(r"\d+", r"(?:\g<0>|…)", re.escape(part)) for part in phrase.split("…"))
    return re.search("[^\0]*".join(parts), all_messages("finetune")) is not None


PHRASES = sorted({
    phrase for line in DOCS.splitlines() if line.startswith("| `")
    for phrase in re.findall(r"`([^`]+)`", line.split(" | ")[0])
})  # fmt: skip


@pytest.mark.parametrize("phrase", PHRASES)
def test_every_message_of_the_page_is_one(phrase):
    # What is put together of several parts, a test has met.
    assert is_told(phrase) or phrase in all_messages("tests")


def test_a_message_that_nothing_says_is_found_out():
    assert is_told("no pair is left of … rows")
    assert is_told("answers 401") and is_told("nested too deeply")
    assert not is_told("no pair is left of … columns") and not is_told("answers 40 times")
    assert not is_told("What goes wrong because of the user's input")  # a docstring


def test_every_key_and_every_extra_of_the_page_is_known():
    keys = re.findall(r"`~?([a-z_]+(?:\.[a-z_]+)+)=", DOCS)
    assert len(keys) > 30
    known = known_keys()
    open_parts = tuple(f"{key}." for key, is_open in known.items() if is_open)
    assert [key for key in keys if key not in known and not key.startswith(open_parts)] == []
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = set(re.findall(r"finetune\[(\w+)\]", DOCS))
    assert named and named <= extras["optional-dependencies"].keys()


def test_every_row_of_the_page_says_why_and_how():
    rows = [line for line in DOCS.splitlines() if line.startswith("| `")]
    assert len(rows) > 40
    for row in rows:
        cells = re.split(r" \| ", row.strip("| "))
        assert len(cells) == 3 and all(cells), row
