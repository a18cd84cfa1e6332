import json
import math
import shlex

import optuna
import pytest
import tiny_runs

from finetune import cli, pipeline
from finetune.cli import BAD_INPUT, DONE, main
from finetune.commands import tune
from finetune.commands.ranges import read_search
from finetune.config.compose import compose
from finetune.errors import UserError
from finetune.records import write_json
from finetune.stage import plan

SPACE = ["train.learning_rate=tag(log,interval(1e-4,1e-2))", "loss.scale=interval(10,60)",
         "train.batch_size=8,16"]  # fmt: skip


def search(*more: str):
    return read_search(["recipes=full", *SPACE, *more])


def far(overrides) -> float:
    """A score that is best, 0, at a learning rate of 1e-3, a scale of 30 and batches of 16."""
    rate, scale, batch = (float(each.partition("=")[2]) for each in overrides)
    return -abs(math.log10(rate) + 3) - abs(scale - 30) / 30 - abs(batch - 16) / 16


def made(study) -> list[dict]:
    """The values of the finished trials, as trials have them."""
    finished = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    return [trial.params for trial in finished]


@pytest.fixture
def study():
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(direction="maximize")


def test_the_first_trial_is_the_run_as_it_is():
    # 2e-5 is none that a trial may have, and is drawn.
    assert tune._values_as_is(search()) == {"loss.scale": 50.0}
    assert tune._values_as_is(search("seed=int(interval(1,50))", "mine=none,positive_aware")) == {
        "loss.scale": 50.0, "seed": 42, "mine": "none",
    }  # fmt: skip
    wide = read_search(["recipes=full", "train.batch_size=16,32"])
    assert tune._values_as_is(wide) == {
        "train.learning_rate": 2e-5, "loss.scale": 50.0, "train.batch_size": "32"
    }  # fmt: skip


def test_it_is_made_first(study):
    study.enqueue_trial({"loss.scale": 50.0})
    tune._make_trials(study, search("tune.trials=3"), far)
    assert [each["loss.scale"] == 50 for each in made(study)] == [True, False, False]
    assert len({each["train.learning_rate"] for each in made(study)}) == 3


def test_a_search_finds_what_is_good(study):
    tune._make_trials(study, search("tune.trials=40"), far)
    assert study.best_value > -0.35
    assert far(tune._overrides(search(), study.best_params)) == study.best_value


def test_the_seed_decides(study):
    tune._make_trials(study, search("tune.trials=3"), far)
    for seed, same in ((42, True), (1, False)):
        other = optuna.create_study(direction="maximize")
        tune._make_trials(other, search("tune.trials=3", f"seed={seed}"), far)
        assert (made(other) == made(study)) is same


@pytest.mark.parametrize(
    "killed", [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(12, marks=pytest.mark.slow)]
)
def test_a_search_that_was_killed_goes_on_with_the_trials_it_would_have_made(study, killed):
    tune._make_trials(study, search("tune.trials=14"), far)
    other, calls = optuna.create_study(direction="maximize"), []

    def until_killed(overrides):
        calls.append(overrides)
        if len(calls) == killed + 1:
            raise KeyboardInterrupt
        return far(overrides)

    with pytest.raises(KeyboardInterrupt):
        tune._make_trials(other, search("tune.trials=14"), until_killed)
    tune._make_trials(other, search("tune.trials=14"), until_killed)
    assert calls[killed] == calls[killed + 1]  # its training is found and continued
    assert made(other) == made(study)


def test_more_trials_are_added_to_those_that_are_there(study):
    whole = optuna.create_study(direction="maximize")
    tune._make_trials(whole, search("tune.trials=4"), far)
    for trials in (2, 2, 4):
        tune._make_trials(study, search(f"tune.trials={trials}"), far)
    assert made(study) == made(whole)


def test_a_trial_that_meets_bad_input_ends_the_search_and_is_not_tried_again(study):
    tried = []

    def refused(overrides):
        tried.append(overrides)
        raise UserError("no pair has 4 negatives left")

    for _ in range(2):
        with pytest.raises(UserError, match="4 negatives"):
            tune._make_trials(study, search(), refused)
    assert tried[0] != tried[1]


@pytest.fixture
def line(tiny_model, domain, tmp_path):
    """The command line of a search that takes seconds."""
    fixed = tiny_runs.overrides(
        tiny_model, domain, tmp_path, "full", "train.epochs=1", "train.checkpoints=2"
    )
    searched = [each.partition("=")[0] for each in SPACE]
    return [*(each for each in fixed if each.partition("=")[0] not in searched), *SPACE]


def test_a_search_ends_in_a_table_a_command_and_mlflow(line, tmp_path, capsys, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)  # MLflow's artifacts
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    line = [*line, "tracking=mlflow", f"tracking.uri={uri}"]
    for trials in (2, 3):
        assert main(["tune", *line, f"tune.trials={trials}"]) == DONE
    (folder,) = (tmp_path / "runs").glob("tune-full-custom-custom-*")
    rows = json.loads((folder / "trials.json").read_text("utf-8"))
    scores = [row["score"] for row in rows]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True)
    # Each trial is a training; every other step was made once.
    cache = tmp_path / "cache"
    results = [json.loads(path.read_text()) for path in cache.glob("train/*/training.json")]
    assert sorted(result["best"] for result in results) == sorted(scores)
    for step in ("sets", "data", "base", "export", "corpus", "embed", "pool"):
        assert len(list(cache.glob(f"{step}/*/manifest.json"))) == 1

    shown = capsys.readouterr().out
    assert "train.learning_rate" in shown and f"{100 * scores[0]:.2f}" in shown
    command = shlex.split(shown.strip().splitlines()[-1])
    assert command[:2] == ["python", "train.py"]
    config = pipeline.resolve(compose(command[2:]))
    planned = plan(pipeline.steps_of(config), config.paths.cache)
    (trained,) = [each for each in planned if each.step.name == "train"]
    result = json.loads((trained.folder / "training.json").read_text())
    assert result["best"] == scores[0]

    client = MlflowClient(tracking_uri=uri)
    found = client.search_runs([client.get_experiment_by_name("custom").experiment_id])
    (above,) = [run for run in found if run.info.run_name == folder.name]
    below = [run for run in found if run != above]
    assert len(below) == 3
    assert {run.data.tags["mlflow.parentRunId"] for run in below} == {above.info.run_id}
    assert len({run.data.params["train.learning_rate"] for run in below}) == 3
    for run in below:
        assert f"train.learning_rate={run.data.params['train.learning_rate']}" in run.info.run_name
        assert run.data.metrics["select/ndcg_at_10"] > 0, "the curves of trials are recorded"
    assert above.data.metrics["best/select/ndcg_at_10"] == scores[0]
    assert above.data.params["loss.scale"] == "interval(10,60)"


@pytest.mark.parametrize(
    ("warmup", "train", "score"),
    [
        ((0.4, 0.5), (0.5, 0.45), 0.5),
        ((0.4, 0.5), (0.5, 0.6), 0.6),
        ((0.4, 0.3), (0.4, 0.35), 0.35),
    ],
)
def test_a_trial_with_a_warm_up_is_compared_with_what_that_started_from(
    tiny_model, domain, tmp_path, monkeypatch, warmup, train, score
):
    found = {name: {"base": base, "best": best, "best_step": 1, "improved": best > base, "steps": 2}
             for name, (base, best) in (("warmup", warmup), ("train", train))}  # fmt: skip

    def run(config):
        for each in tune._trainings(config):
            each.folder.mkdir(parents=True)
            write_json(each.folder / "training.json", found[each.step.name])

    monkeypatch.setattr(pipeline, "run", run)
    line = tiny_runs.overrides(tiny_model, domain, tmp_path, "warmup", "tune.trials=1")
    outcome = tune.run(read_search([*line, "loss.scale=interval(10,60)"]))
    assert (outcome.base, outcome.trials[0].score) == (0.4, score)


def told(capsys) -> list[str]:
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return [each for each in captured.err.splitlines() if each.startswith("error: ")]


def test_optuna_that_is_not_installed(monkeypatch, capsys):
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    assert main(["tune", "recipes=full"]) == BAD_INPUT
    assert told(capsys) == [
        "error: finetune tune: optuna is not installed: pip install 'finetune[tune]'"
    ]


def test_bad_data_is_told_before_the_search_begins(line, tmp_path, capsys):
    line = [each for each in line if not each.startswith("domain.train=")]
    assert main(["tune", *line, "domain.train=/nowhere.jsonl"]) == BAD_INPUT
    assert "no such file" in told(capsys)[0]
    assert list(tmp_path.iterdir()) == []


def test_what_changes_a_trial_begins_another_search(line):
    name = tune._name(read_search([*line, "tune.trials=3"]))
    assert tune._name(read_search([*line, "tune.trials=9"])) == name
    for change in ("seed=1", "train.epochs=2", "mine.candidates=5", "train.warmup=interval(0,1)"):
        assert (tune._name(read_search([*line, change])) == name) == change.startswith("mine")


def test_a_search_on_scored_pairs_speaks_of_spearman(capsys):
    asked = read_search(["recipes=cosent", "train.learning_rate=interval(1e-5,1e-4)"])
    tune.show(tune.Outcome(asked, [tune.Trial(0, ["train.learning_rate=2e-5"], 0.5)], 0.4))
    shown = capsys.readouterr().out
    assert "Spearman" in shown and "NDCG" not in shown
