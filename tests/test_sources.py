from pathlib import Path

import pytest

from finetune import pipeline, sources
from finetune.config.compose import compose
from finetune.errors import UserError
from finetune.records import write_jsonl
from finetune.steps import mix, rounds


@pytest.fixture
def line(tmp_path, monkeypatch):
    """The command line of a run on files in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("data/dev").mkdir(parents=True)
    for name in ("data/pairs.jsonl", "data/others.jsonl"):
        write_jsonl(Path(name), [{"query": "问", "positive": "答"}])
    write_jsonl(Path("data/dev/corpus.jsonl"), [{"id": "c", "text": "答"}])
    return ["recipes=full", "domain=custom", "domain.dev=data/dev"]


def test_relative_files_are_inputs_whose_content_decides(line):
    config = compose([*line, "domain.train=data/pairs.jsonl", "mix=custom",
                      "mix.custom.train=data/others.jsonl"])  # fmt: skip
    assert sources.pair_files(config)["train"] == Path("data/pairs.jsonl")
    assert mix.read_step(config, None).files == {"custom.train": Path("data/others.jsonl")}
    assert sources.pinned(config) == config


def test_a_relative_folder_is_no_hub_id_either(line):
    for name in ("queries.jsonl", "qrels.tsv"):
        Path("data/dev", name).touch()
    config = compose([*line, "domain.train=data/dev"])
    assert sources.pair_files(config)["train"] == Path("data/dev")


@pytest.mark.parametrize("name", ["data/pairs", "data/pair.jsonl"])
def test_a_mistyped_path_ends_before_any_work(line, name):
    config = compose([*line, f"domain.train={name}", "mix=custom", f"mix.custom.train={name}",
                      f"mine.filter={name}"])  # fmt: skip
    for read in (sources.pair_files, lambda config: mix.read_step(config, None)):
        with pytest.raises(UserError, match="no such file.*did you mean 'pairs.jsonl'"):
            read(config)
    with pytest.raises(UserError, match="no such folder, and no hub id.*mean 'pairs.jsonl'"):
        rounds.filter_files(config)


def test_a_hub_id_is_no_file(line):
    config = compose([*line, "domain.train=owner/name@abc:train"])
    assert sources.pair_files(config) == {}


@pytest.mark.parametrize("recipe", ["documents", "queries"])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("data/gone", "domain.documents=data/gone: expected a folder of .md"),
        ("data/pair.jsonl", "no such file.*did you mean 'pairs.jsonl'"),
    ],
)
def test_documents_that_are_not_there_end_before_any_work(line, recipe, name, said):
    Path("log.txt").write_text("问\n", encoding="utf-8")
    config = compose([f"recipes={recipe}", *line[1:], "domain.train=data/pairs.jsonl",
                      f"domain.documents={name}", "domain.queries=log.txt"])  # fmt: skip
    with pytest.raises(UserError, match=said):
        pipeline.steps_of(pipeline.resolve(config))


def test_a_wrong_folder_of_data_sets_is_told_by_its_key(line):
    for domain in ("legal", "custom"):
        config = compose(["recipes=full", f"domain={domain}", "paths.data=date"])
        with pytest.raises(UserError, match="^paths.data=date: no such folder; did you mean 'dat"):
            pipeline.resolve(config)
    config = compose(["recipes=full", "domain=legal", "paths.data=/no/where"])
    assert sources.unplaced(config) == ["paths.data=/no/where: no such folder; correct the path"]


def test_a_folder_may_be_called_none(line):
    named = [*line, "domain.train=/data/None/a.jsonl"]
    assert sources.missing_data(compose(named)) == []
    config = compose([*named, "mix=[custom,general]", "mix.custom.train=/data/None/b.jsonl"])
    (problem,) = mix.missing(config)
    assert problem.startswith("mix.general.train: not set")
