import contextlib
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_runs

from finetune import cli, tracking
from finetune.cli import BAD_INPUT, DONE, GATE_FAILED, train
from finetune.commands import sweep
from finetune.commands.sweep import expand
from finetune.config.compose import ROOT, compose
from finetune.errors import UserError

pytestmark = pytest.mark.usefixtures("logs_as_they_were")
LAUNCHERS = ["basic", "joblib", "submitit_local"]
TESTS = Path(__file__).parent


@pytest.fixture
def launcher(request, monkeypatch):
    """The override that names a launcher; its processes find the tests' modules."""
    name = request.param
    if name != "basic":
        pytest.importorskip(f"hydra_plugins.hydra_{name.split('_')[0]}_launcher")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(ROOT), *sys.path]))
    return f"hydra/launcher={name}"


def noted(overrides) -> tuple[int, None]:
    """A job: notes what it was given and where it ran; its seed is its exit code, 9 a crash."""
    config = compose(overrides)
    folder = config.paths.runs
    folder.mkdir(parents=True, exist_ok=True)
    note = {"overrides": list(overrides), "process": os.getpid()}
    (folder / f"{config.recipe}-{config.seed}.json").write_text(json.dumps(note))
    if config.seed == 9:
        raise ArithmeticError("crashed")
    return config.seed, None


def notes(folder: Path) -> dict:
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def swept(tmp_path, *overrides: str) -> list[str]:
    return [*overrides, f"paths.cache={tmp_path}/cache", f"paths.runs={tmp_path}/runs"]


@pytest.mark.parametrize(
    ("overrides", "jobs"),
    [
        (["a=1"], [["a=1"]]),
        (["a=1,2", "b=3"], [["a=1", "b=3"], ["a=2", "b=3"]]),
        (["a=x,y", "b=1,2"], [["a=x", "b=1"], ["a=x", "b=2"], ["a=y", "b=1"], ["a=y", "b=2"]]),
        (["a=[1,2]"], [["a=[1,2]"]]),
        (["a=range(1,3)"], [["a=1"], ["a=2"]]),
        (["+a.b=1,2"], [["+a.b=1"], ["+a.b=2"]]),
    ],
)
def test_a_sweep_is_all_combinations(overrides, jobs):
    assert list(expand(overrides)) == jobs


def test_a_sweep_over_files_with_chinese_names_composes():
    jobs = list(expand(["recipes=full", "domain=custom", "domain.train=甲.jsonl,乙.jsonl"]))
    assert [compose(job).domain.train for job in jobs] == ["甲.jsonl", "乙.jsonl"]


@pytest.mark.parametrize("launcher", LAUNCHERS, indirect=True)
def test_each_launcher_runs_every_job_though_one_crashes(launcher, tmp_path, caplog):
    overrides = swept(tmp_path, "recipes=full", "seed=9,3", "tracking=none", launcher)
    assert sweep.run(overrides, noted) == 1
    found = notes(tmp_path / "runs")
    assert found["full-3"]["overrides"][:2] == ["recipes=full", "seed=3"]
    here = {note["process"] for note in found.values()} == {os.getpid()}
    assert here == launcher.endswith("basic") and set(found) == {"full-9", "full-3"}
    assert "job failed: recipes=full seed=9" in caplog.text and "ArithmeticError" in caplog.text


@pytest.mark.parametrize(("seeds", "worst"), [("0,3", 3), ("3,2", 2), ("0,0", 0)])
def test_the_worst_is_bad_input_then_a_failed_gate(tmp_path, seeds, worst):
    assert sweep.run(swept(tmp_path, "recipes=full", f"seed={seeds}", "tracking=none"),
                     noted) == worst  # fmt: skip


@pytest.mark.parametrize("launcher", ["joblib"], indirect=True)
def test_real_runs_in_other_processes(launcher, tmp_path, tiny_model, domain):
    arguments = tiny_runs.overrides(tiny_model, domain, tmp_path, "full", "until=data")
    good = next(each for each in arguments if each.startswith("domain.train="))
    arguments[arguments.index(good)] = f"{good},/nowhere.jsonl"
    assert train(["-m", *arguments, launcher, "hydra.launcher.n_jobs=2"]) == BAD_INPUT
    assert len(list((tmp_path / "cache/data").glob("*/summary.json"))) == 1


def test_a_run_without_anything_to_vary_is_a_sweep_of_one(tmp_path):
    assert sweep.run(swept(tmp_path, "recipes=full", "seed=3", "tracking=none"), noted) == 3


def told(capsys) -> list[str]:
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err + captured.out
    lines = captured.err.splitlines()
    return [each.removeprefix("error: ") for each in lines if each.startswith("error: ")]


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (["recipes=full,contrastive", "train.epochs=1,0"], "train.epochs=0.0: must be greater"),
        (["recipes=full,ful"], "did you mean 'full'?"),
        (["recipes=full", "seed=1,2", "hydra/launcher=joblob"], "did you mean 'joblib'?"),
        (["recipes=full", "seed=1,2", "hydra/launcher=slurm"], "choose from: basic, joblib"),
        (["recipes=full", "seed=1,2", "hydra/sweeper=optuna"], "finetune tune"),
        (["recipes=full", "seed=1,2", "hydra.launcher.jobs=2"], "hydra.launcher.jobs=2: "),
    ],
)
def test_no_job_starts_before_all_is_checked(monkeypatch, capsys, arguments, phrase):
    monkeypatch.setattr(cli, "_run", lambda config: pytest.fail("started"))
    assert train(["-m", *arguments]) == BAD_INPUT
    (error,) = told(capsys)
    assert phrase in error


def test_all_problems_of_all_jobs_are_told_once(capsys):
    assert train(["-m", "recipes=full", "seed=1,-1,-2", "train.epochs=0,1"]) == BAD_INPUT
    assert [error.split(":")[0] for error in told(capsys)] == [
        "train.epochs=0.0", "seed=-1", "seed=-2"
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["joblib", "submitit_local", "submitit_slurm"])
def test_a_launcher_that_is_not_installed(monkeypatch, capsys, name):
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    monkeypatch.setattr(ConfigLoaderImpl, "get_group_options", lambda *args: ["basic"])
    assert train(["-m", "recipes=full", f"hydra/launcher={name}"]) == BAD_INPUT
    (error,) = told(capsys)
    assert error == f"hydra/launcher={name}: not installed: pip install 'finetune[sweep]'"


def test_a_launcher_inside_another(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="leave out the one or the other"):
        sweep.run(["recipes=full", "hydra/launcher=joblib"], noted)


def test_slurm_on_a_machine_without_it(monkeypatch, capsys):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    monkeypatch.setenv("PATH", "")
    assert train(["-m", "recipes=full", "hydra/launcher=submitit_slurm"]) == BAD_INPUT
    assert "no sbatch on this machine" in told(capsys)[0]


def test_jobs_that_would_overwrite_each_other_do_not_start(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(cli, "_run", lambda config: pytest.fail("started"))
    assert train(["-m", "recipes=full,contrastive", f"run_dir={tmp_path}/run"]) == BAD_INPUT
    (error,) = told(capsys)
    assert error.startswith(f"run_dir={tmp_path}/run: 2 jobs of this sweep would overwrite")
    assert "run_dir=runs/${recipe}-${seed}" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "run_dirs"),
    [
        (["recipes=full,contrastive", "seed=1", "run_dir=runs/${recipe}-${seed}"],
         ["runs/full-1", "runs/contrastive-1"]),
        (["recipes=full", "run_dir=runs/a,runs/b"], ["runs/a", "runs/b"]),
        (["recipes=full", "run_dir=runs/a"], ["runs/a"]),
    ],
)  # fmt: skip
def test_a_run_dir_for_each_job(monkeypatch, tmp_path, arguments, run_dirs):
    ran = []
    monkeypatch.setattr(cli, "_run", lambda config: (DONE, ran.append(str(config.run_dir))))
    assert train(["-m", *swept(tmp_path, *arguments, "tracking=none")]) == DONE
    assert ran == run_dirs


@pytest.fixture(scope="module")
def of_seeds(tmp_path_factory, tiny_model, domain):
    """MLflow's client, the run above a sweep of two seeds, and the two below it."""
    from mlflow import MlflowClient

    work = tmp_path_factory.mktemp("seeds")
    uri = f"sqlite:///{work}/mlflow.db"
    arguments = tiny_runs.overrides(
        tiny_model, domain, work, "full", "tracking=mlflow", "train.epochs=1",
        f"tracking.uri={uri}",
    )  # fmt: skip
    with tiny_runs.logs_as_they_were(), contextlib.chdir(work):  # MLflow's artifacts
        assert train(["-m", *arguments, "seed=1,2"]) in (DONE, GATE_FAILED)
    client = MlflowClient(tracking_uri=uri)
    found = client.search_runs([client.get_experiment_by_name("custom").experiment_id])
    (above,) = [run for run in found if run.info.run_name == "sweep seed=1, 2"]
    return client, above, [run for run in found if run != above]


def test_jobs_are_the_children_of_their_sweep_in_mlflow(of_seeds):
    _, above, below = of_seeds
    assert {run.info.run_name for run in below} == {"full seed=1", "full seed=2"}
    assert {run.data.params["seed"] for run in below} == {"1", "2"}
    assert {run.data.tags["mlflow.parentRunId"] for run in below} == {above.info.run_id}
    assert above.data.params["seed"] == "1, 2"
    assert {run.info.status for run in (above, *below)} == {"FINISHED"}


def test_the_run_above_has_the_mean_over_the_seeds(of_seeds):
    client, above, below = of_seeds
    for artifact in ("tuned", "onnx-int8-dynamic"):
        for name in (f"{artifact}/dev/ndcg_at_10", f"{artifact}/dev/ndcg_at_10_delta"):
            seeds = [run.data.metrics[name] for run in below]
            told = [above.data.metrics[f"{name}_{each}"] for each in ("mean", "min", "max")]
            assert told == pytest.approx([sum(seeds) / 2, min(seeds), max(seeds)]), name
    assert len(set(seeds)) == 2, "the seeds differ, or this shows nothing"
    assert "| seeds alone | dev | tuned | 2 |" in above.data.tags["mlflow.note.content"]
    assert [item.path for item in client.list_artifacts(above.info.run_id)] == ["settings.md"]


def test_a_run_above_others_for_each_experiment(tmp_path, monkeypatch):
    """MLflow shows a run below another only where both are of one experiment."""
    opened = {}

    @contextlib.contextmanager
    def group(where, folder, parameters):
        opened[where.experiment] = parameters
        yield SimpleNamespace(run_id=f"1e{len(opened)}")  # a number, to those who do not quote it

    monkeypatch.setattr(tracking, "group", group)
    overrides = swept(tmp_path, "recipes=full", "domain=legal,finance", "seed=0,3", "paths.data=/x")
    assert sweep.run(overrides, in_its_group) == 3
    assert opened["legal"] == opened["finance"]
    assert opened["legal"] | {"paths.cache": "", "paths.runs": ""} == {
        "recipes": "full", "domain": "legal, finance", "seed": "0, 3", "paths.data": "/x",
        "paths.cache": "", "paths.runs": "",
    }  # fmt: skip


def in_its_group(overrides) -> tuple[int, None]:
    config = compose(overrides)
    assert config.tracking.parent == {"legal": "1e1", "finance": "1e2"}[config.domain.name]
    return config.seed, None
