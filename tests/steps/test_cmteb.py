import pytest

from finetune.config.compose import compose
from finetune.evaluation import cmteb
from finetune.stage import Done
from finetune.steps.cmteb import cmteb_task, problems, publish_results


def test_a_task_of_an_artifact_that_was_not_published_has_no_result(tmp_path):
    (tmp_path / "export/bundle/fp32").mkdir(parents=True)
    step, out, published = "cmteb-onnx-int8-dynamic-ATEC", tmp_path / "step", tmp_path / "cmteb"
    out.mkdir()
    settings = {"artifact": "onnx-int8-dynamic", "task": "ATEC", "mteb": "2", "device": "cpu"}
    cmteb_task(settings, {"model": tmp_path, "export": tmp_path / "export"}, out)
    assert cmteb.rows({step: out}, compose(["recipes=full"]).model, {}) == []
    publish_results({step: Done(step, "key", 0.0, False, out)}, published)
    assert not published.exists()


def test_artifacts_are_named_as_reports_name_them():
    pytest.importorskip("openvino")
    line = ["recipes=full", "export.precisions=[fp32,openvino-int8]", "evaluate=cmteb"]
    names = ["onnx-fp32", "openvino-int8", "onnx-openvino-int8"]
    config = compose([*line, f"evaluate.cmteb_artifacts=[{','.join(names)}]"])
    assert list(problems(config)) == [
        "evaluate.cmteb_artifacts: onnx-openvino-int8: no such artifact; did you mean "
        "'openvino-int8'?"
    ]
