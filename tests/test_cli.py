import json
import re
import shlex
import subprocess
import sys

import pytest
import tiny_runs

from finetune import embedded, stage
from finetune.cli import main, train, usage
from finetune.commands.sweep import expand
from finetune.config.compose import ROOT, choices, compose

pytestmark = pytest.mark.usefixtures("logs_as_they_were")
DONE, BAD_INPUT, GATE_FAILED = 0, 2, 3


@pytest.fixture(scope="module")
def line(tiny_model, domain, tmp_path_factory):
    work = tmp_path_factory.mktemp("runs")

    def make(*more, recipe="full"):
        return tiny_runs.overrides(tiny_model, domain, work, recipe, *more)

    return make


def told(capsys) -> list[str]:
    """The error lines; no traceback anywhere."""
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err + captured.out
    lines = captured.err.splitlines()
    return [each.removeprefix("error: ") for each in lines if each.startswith("error: ")]


# --- what can be typed ---


def test_bare_train_lists_what_can_be_typed():
    command = [sys.executable, "train.py"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == DONE and result.stderr == ""
    for name in (*choices("recipes"), *choices("domain"), *choices("model"), *choices("hardware")):
        assert name in result.stdout
    assert "usage: python train.py recipes=<recipe>" in result.stdout


def test_its_examples_compose():
    commands = re.findall(r"python train\.py (.*)", usage())[1:]
    assert len(commands) == 3
    for command in commands:
        arguments = shlex.split(command.replace("<folder>", "/data"), comments=True)
        jobs = list(expand([a for a in arguments if a != "-m"]))
        assert len(jobs) == (2 if "-m" in arguments else 1)
        for job in jobs:
            compose(job)


def test_finetune_train_is_train_py(capsys):
    assert main(["train"]) == DONE
    assert capsys.readouterr().out.strip() == usage().strip()
    assert main(["train", "recipes=ful"]) == BAD_INPUT
    assert "did you mean 'full'?" in told(capsys)[0]


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_on_training_lists_what_can_be_typed(capsys, option):
    assert main(["train", option]) == train(["recipes=full", option]) == DONE
    assert capsys.readouterr().out == f"{usage()}\n" * 2
    assert "begin with recipes=contrastive" in usage() and "paths.data=<folder>" in usage()


def test_help_on_a_search_tells_of_trials_and_ranges(capsys):
    assert main(["tune", "-h"]) == DONE
    shown = capsys.readouterr().out
    for part in ("20 trainings", "configs/tune/default.yaml", "goes on where it stopped",
                 "'train.epochs=interval(1,3)'"):  # fmt: skip
        assert part in shown


def test_help_says_how_to_begin_and_which_version_this_is(capsys):
    for option, part in (("--help", "Begin: finetune doctor"), ("--version", "finetune 0.1.0")):
        with pytest.raises(SystemExit) as caught:
            main([option])
        assert caught.value.code == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert part in shown
        assert ("exit codes: 0 done" in shown) == (option == "--help")


def test_the_commands_are_those_of_the_contract(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("train", "evaluate", "encode", "doctor"))
    with pytest.raises(SystemExit) as caught:
        main(["encod"])
    assert caught.value.code == BAD_INPUT


# --- exit codes ---


def test_a_run_whose_gates_hold_ends_with_0_and_shows_its_scores(line, capsys, caplog, tmp_path):
    assert train(line(f"run_dir={tmp_path}/run")) == DONE
    shown = capsys.readouterr()
    report = json.loads((tmp_path / "run/report.json").read_text("utf-8"))
    assert "failed" not in {gate["status"] for gate in report["gates"]}
    assert "tuned" in shown.out and "onnx-int8-dynamic" in shown.out
    assert f"run: {tmp_path}/run" in caplog.text


def test_a_run_that_gains_nothing_ends_with_3_and_is_written_all_the_same(line, tmp_path):
    assert train(line("train.learning_rate=1e-12", f"run_dir={tmp_path}")) == GATE_FAILED
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    statuses = {gate["name"]: gate["status"] for gate in report["gates"]}
    assert statuses["gain"] == "failed" and report["training"]["improved"] is False
    assert (tmp_path / "bundle/int8-dynamic/model.onnx").is_file()
    assert train(line("train.learning_rate=1e-12", f"run_dir={tmp_path}")) == GATE_FAILED


def test_until_ends_with_0(line, tmp_path):
    assert train(line("until=pool", f"run_dir={tmp_path}")) == DONE


@pytest.mark.parametrize(
    ("arguments", "phrases"),
    [
        (["recipes=ful"], ["recipes=ful: unknown recipe; did you mean 'full'?"]),
        (["domain=legal"], ["recipes: none named", "; begin with recipes=contrastive"]),
        (["recipes=full", "domain=legal"], ["domain=legal: set paths.data=<folder>"]),
        (["recipes=full", "a b"], ["write key=value"]),
        (["recipes=full", "sed=1", "train.epoch=2"], ["did you mean 'seed'", "'train.epochs'"]),
        (["recipes=full", "--multi"], ["unknown option --multi; write key=value"]),
        (["--config", "a.yaml"], ["takes no --config; a recipe is named: recipes=contrastive"]),
        (["--config-name=a"], ["train.py takes no --config-name; a recipe is named"]),
        (["recipes=full", "--dry-run"], ["option --dry-run; every run prints its plan first"]),
        (["recipes=full", "limit=0", "seed=-1"], ["limit=0", "seed=-1"]),
        (["recipes=full,contrastive"], ["add -m"]),
        (
            ["recipes=full", "domain.train=a.csv", "domain.dev=dev"],
            ["domain.train=a.csv: domain=statutes brings its own data", "domain.dev=dev: "],
        ),
        (["recipes=documents", "domain.documents=docs"], ["add domain=custom"]),
        (["recipes=full", "domain=custom"], ["domain.train: not set", "finetune split <pairs> --"]),
        (["recipes=full", "domain=custom", "domain.name=faq"], ["domain.train: not set", "dev: "]),
        (["-m", "recipes=full,ful"], ["did you mean 'full'?"]),
    ],
)
def test_mistakes_end_with_2_and_no_traceback(capsys, arguments, phrases):
    assert train(arguments) == BAD_INPUT
    errors = told(capsys)
    assert errors and all(any(phrase in error for error in errors) for phrase in phrases)


@pytest.mark.parametrize("more", [[], ["recipes=full"]])
def test_recipe_without_s(capsys, more):
    assert train(["recipe=contrastive", *more]) == BAD_INPUT
    (error,) = told(capsys)
    assert error.endswith("unknown key 'recipe'; write recipes=contrastive (with s)")


@pytest.mark.parametrize(
    ("override", "phrase"),
    [
        ("model.path=/nowhere", "model.path=/nowhere: no such folder"),
        ("domain.train=/nowhere.jsonl", "no such file"),
        ("domain.dev=/nowhere", "no such folder"),
        ("until=nothing", "until=nothing: no such step"),
        ("hardware.precision=fp16", "hardware.precision=fp16: needs a GPU"),
        ("+loss.scal=2", "did you mean 'scale'?"),
    ],
)
def test_mistakes_that_show_once_the_machine_is_looked_at(capsys, line, tmp_path, override, phrase):
    assert train(line(override, f"paths.cache={tmp_path}/cache", f"run_dir={tmp_path}/run")) == 2
    (error,) = told(capsys)
    assert phrase in error
    assert not (tmp_path / "cache/base").exists()


def test_a_bad_row_is_told_with_file_and_line(capsys, line, tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"query": "问", "positive": "答"}\n{"query": 3, "positive": "答"}\n', "utf-8")
    assert train(line(f"domain.train={path}", f"paths.cache={tmp_path}/cache")) == BAD_INPUT
    assert f"{path}:2: query is 3" in told(capsys)[0]
    assert not list((tmp_path / "cache/data").rglob("manifest.json"))


def test_a_run_directory_in_use(capsys, line, tmp_path):
    with stage.own_folder(tmp_path / "run"):
        assert train(line(f"run_dir={tmp_path}/run")) == BAD_INPUT
    (error,) = told(capsys)
    assert f"run_dir={tmp_path}/run: in use by another run" in error


def test_a_full_disk(capsys, line, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(embedded, "write_jsonl", full)
    arguments = line(f"paths.cache={tmp_path}/cache", f"run_dir={tmp_path}/run", "until=embed")
    assert train(arguments) == BAD_INPUT
    (error,) = told(capsys)
    assert f"{tmp_path}/cache/corpus/.partial-" in error
    assert "no space left" in error and "paths.cache=<folder>" in error
    monkeypatch.undo()
    assert train(arguments) == DONE  # goes on from where it stopped


def test_other_failures_are_not_taken_for_the_users(line, monkeypatch, tmp_path):
    def broken(*args):
        raise PermissionError(13, "no")

    monkeypatch.setattr(embedded, "write_jsonl", broken)
    with pytest.raises(PermissionError):
        train(line(f"paths.cache={tmp_path}", f"run_dir={tmp_path}/run", "until=embed"))


# --- evaluate ---


def test_evaluate_a_bundle_and_a_folder(capsys, tiny_model, tiny_bundle, domain, tmp_path):
    out = tmp_path / "scores.json"
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    (pairs / "test.jsonl").write_text(
        '{"sentence1": "房东", "sentence2": "房东", "label": 1}\n' * 20
        + '{"sentence1": "房东", "sentence2": "工资", "label": 0}\n' * 20, "utf-8",
    )  # fmt: skip
    data = ["--data", str(domain / "dev"), "--data", str(pairs)]
    assert main(["evaluate", str(tiny_bundle), *data, "--json", str(out)]) == DONE
    rows = json.loads(out.read_text("utf-8"))["scores"]
    assert {(row["artifact"], row["set"]) for row in rows} == {
        (f"onnx-{precision}", name)
        for precision in ("fp32", "int8-dynamic") for name in ("dev", "pairs")
    }  # fmt: skip
    assert main(["evaluate", str(tiny_model), *data, "--split", "report"]) == DONE
    shown = capsys.readouterr().out
    assert "base" in shown and "ndcg@10" in shown and "spearman" in shown


@pytest.mark.parametrize(
    ("artifact", "data", "phrase"),
    [("/nowhere", None, "neither a bundle"), (None, "/nowhere", "no such folder")],
)
def test_evaluate_what_is_not_there(capsys, tiny_bundle, domain, artifact, data, phrase):
    arguments = [artifact or str(tiny_bundle), "--data", data or str(domain / "dev")]
    assert main(["evaluate", *arguments]) == BAD_INPUT
    assert phrase in told(capsys)[0]


# --- doctor ---


def test_doctor_prints_its_findings(capsys):
    assert main(["doctor"]) == DONE
    shown = capsys.readouterr().out
    assert re.search(r"^(ok|!!)  python +3\.11", shown, re.MULTILINE)
    assert "cpu" in shown and "disk" in shown
