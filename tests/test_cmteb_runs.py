"""Runs that end with tasks of C-MTEB, on copies that lie as the hub has them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_runs

from finetune import pipeline, report
from finetune.config.compose import compose
from finetune.errors import UserError
from finetune.evaluation.artifacts import score
from finetune.model import TorchEncoder, load
from finetune.records import Scored
from finetune.sets import ScoredSet

pytest.importorskip("mteb")  # of the extra `cmteb`

TEXTS = ["房东不退押金", "老板不发工资", "网店商品质量", "离婚财产赔偿", "医院医生学校"]
# All different: equal pairs are equally similar but for the last digit, which ranks would show.
PAIRS = [(text, other[:3] + text[3:], float(n % 2)) for n, text in enumerate(TEXTS * 4)
         for other in (TEXTS[(n + n // 5 + 1) % 5],)]  # fmt: skip
ARTIFACTS = ("base", "tuned", "onnx-int8-dynamic")


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory):
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


@pytest.fixture(scope="module")
def command(tiny_model, domain, tmp_path_factory):
    work = tmp_path_factory.mktemp("cmteb")
    rows = [{"sentence1": a, "sentence2": b, "score": int(s)} for a, b, s in PAIRS]
    for name, split in (("ATEC", "test"), ("AFQMC", "validation")):
        (work / "hub" / name).mkdir(parents=True)
        path = work / "hub" / name / f"{split}-00000-of-00001.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path)

    def made(*tasks: str) -> list[str]:
        return tiny_runs.overrides(
            tiny_model, domain, work, "full", "train.epochs=1", f"run_dir={work}/run",
            "evaluate=cmteb", f"evaluate.cmteb_tasks=[{','.join(tasks)}]",
            f"paths.cmteb={work}/hub", "model.trained_on=[atec]",
        )  # fmt: skip

    return made


@pytest.fixture(scope="module")
def finished(command):
    """The report of a run with one task, of the same with another, and their directory."""
    first = pipeline.run(compose(command("ATEC")))
    second = pipeline.run(compose(command("ATEC", "AFQMC")))
    (run_dir,) = [Path(each.partition("=")[2]) for each in command() if each.startswith("run_dir=")]
    return first, second, run_dir


def test_each_artifact_is_run_and_the_scores_are_ours(finished):
    first, _, run_dir = finished
    rows = {row["artifact"]: row for row in first["cmteb"]}
    assert tuple(rows) == ARTIFACTS and {row["task"] for row in rows.values()} == {"ATEC"}
    # Not INT8's, whose vectors depend on what else is in their batch.
    encoder = TorchEncoder(load(run_dir / "model"))
    pairs = ScoredSet("s", tuple(Scored(str(n), a, b, s, "") for n, (a, b, s) in enumerate(PAIRS)))
    ours = score(encoder, pairs).metrics["spearman"].mean()
    assert rows["tuned"]["value"] == pytest.approx(ours, abs=1e-5)


def test_results_are_mtebs_own_files(finished):
    _, _, run_dir = finished
    for artifact in ARTIFACTS:
        content = json.loads((run_dir / "cmteb" / artifact / "AFQMC.json").read_text("utf-8"))
        assert content["task_name"] == "AFQMC" and "validation" in content["scores"]


def test_another_task_runs_that_task_alone(finished):
    _, second, _ = finished
    cached = {each["name"]: each["cached"] for each in second["stages"]}
    for artifact in ARTIFACTS:
        assert cached[f"cmteb-{artifact}-ATEC"] and not cached[f"cmteb-{artifact}-AFQMC"]


def test_what_the_base_was_trained_on_is_marked(finished, capsys):
    _, second, _ = finished
    assert {(row["task"], row["contaminated"]) for row in second["cmteb"]} == {
        ("ATEC", True), ("AFQMC", False)
    }  # fmt: skip
    assert any("data of ATEC was trained on" in note for note in second["notes"])
    report.show(report.terminal(second))
    shown = capsys.readouterr().out
    assert "ATEC *" in shown and "AFQMC" in shown and "AFQMC *" not in shown


@pytest.mark.parametrize(
    ("override", "phrase"),
    [
        ("evaluate.cmteb_tasks=[ATEK]", "tasks: ATEK: no such task; did you mean 'ATEC'"),
        ("evaluate.cmteb_tasks=[BQ]", "has no folder BQ"),
        ("evaluate.cmteb_artifacts=[onnx]", "onnx: no such artifact"),
    ],
)
def test_what_is_not_there_is_said_before_any_work(command, override, phrase):
    with pytest.raises(UserError, match=phrase):
        pipeline.run(compose([*command("ATEC"), override]))
