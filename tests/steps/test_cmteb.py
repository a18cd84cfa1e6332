from finetune.config.compose import compose
from finetune.evaluation import cmteb
from finetune.stage import Done
from finetune.steps.cmteb import cmteb_task, publish_results


def test_a_task_of_an_artifact_that_was_not_published_has_no_result(tmp_path):
    (tmp_path / "export/bundle/fp32").mkdir(parents=True)
    step, out, published = "cmteb-onnx-int8-dynamic-ATEC", tmp_path / "step", tmp_path / "cmteb"
    out.mkdir()
    settings = {"artifact": "onnx-int8-dynamic", "task": "ATEC", "mteb": "2", "device": "cpu"}
    cmteb_task(settings, {"model": tmp_path, "export": tmp_path / "export"}, out)
    assert cmteb.rows({step: out}, compose(["recipes=full"]).model, {}) == []
    publish_results({step: Done(step, "key", 0.0, False, out)}, published)
    assert not published.exists()
