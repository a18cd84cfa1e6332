"""Runs with every format, of which one is too far from torch to be published."""

import json

import pytest
import tiny_runs

from finetune import cli, pipeline
from finetune.config import artifact
from finetune.config.check import PRECISIONS
from finetune.config.compose import compose
from finetune.inference import BundleInfo
from finetune.records import read_json

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def finished(tiny_model, tmp_path_factory):
    work = tmp_path_factory.mktemp("formats")
    domain = tiny_runs.learnable_domain(work / "domain", tiny_model)
    line = tiny_runs.overrides(
        tiny_model, domain, work, "full", "export=all", f"run_dir={work}/run",
        "export.floors.int8-static.centred_cosine=1.1",  # out of reach
    )  # fmt: skip
    return line, work / "run", pipeline.run(compose(line))


def test_names_of_artifacts():
    assert [artifact(name) for name in PRECISIONS] == [
        "onnx-fp32", "onnx-fp16", "onnx-int8-dynamic", "onnx-int8-static", "openvino-int8"
    ]  # fmt: skip


def test_every_format_but_one_is_published_and_scored(finished):
    _, run_dir, report = finished
    there = [name for name in PRECISIONS if name != "int8-static"]
    assert list(BundleInfo.read(run_dir / "bundle").precisions) == there
    assert not (run_dir / "bundle/int8-static").exists()
    artifacts = {artifact(name) for name in there} | {"base", "tuned"}
    assert {row["artifact"] for row in report["scores"]} == artifacts
    assert {row["artifact"] for row in report["speed"]} == artifacts
    tuned, *others = (
        next(r["value"] for r in report["scores"] if r["artifact"] == name)
        for name in ("tuned", *map(artifact, there))
    )
    assert others == pytest.approx([tuned] * len(others), abs=0.1)


def test_the_run_says_which_one_is_missing_and_why(finished, capsys):
    line, run_dir, report = finished
    gates = {gate["name"]: gate for gate in report["gates"]}
    assert {"int8", "openvino-int8", "parity-int8-static"} <= gates.keys()
    assert gates["parity-int8-static"]["status"] == "failed"
    assert "onnx-int8-static is not published" in gates["parity-int8-static"]["detail"]
    assert "onnx-int8-static is not published" in (run_dir / "report.html").read_text("utf-8")
    assert any("made for GPUs" in note for note in report["notes"])
    assert set(read_json(run_dir / "report.json")["parity"]) == set(PRECISIONS)
    assert cli.main(["train", *line]) == 3
    assert "parity-int8-static: failed" in capsys.readouterr().out


def test_the_plans_of_the_int8_models_are_in_the_bundle(finished):
    content = json.loads((finished[1] / "bundle/bundle.json").read_text("utf-8"))
    for name in ("int8-dynamic", "openvino-int8"):
        plan = content["precisions"][name]["plan"]
        assert plan["matmuls"] and plan["kept_fp32_for_quality"] is not None
        # All texts that there are: passages and the select half's queries.
        assert plan["weight_texts"] == 96


def test_where_the_only_one_is_too_far_off_the_run_says_which_floor_and_where_the_model_lies(
    finished, capsys, tmp_path
):
    line, run_dir, _ = finished
    more = ["export.precisions=[fp32]", "export.floors.fp32.min_cosine=1.1", "until=export",
            f"run_dir={tmp_path}/run"]  # fmt: skip
    assert cli.main(["train", *line, *more]) == cli.BAD_INPUT
    said = capsys.readouterr().err
    assert "fp32 is not published" in said and "expected at least 1.1" in said
    assert "lower export.floors.fp32" in said and "Traceback" not in said
    assert str(run_dir.parent / "cache") in said.split("lies in ")[1]
