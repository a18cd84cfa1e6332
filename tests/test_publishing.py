from dataclasses import replace

from finetune import publishing
from finetune.inference import BundleFile, BundleInfo


def made(folder):
    """A bundle of two precisions; what they hold is nobody's business here."""
    for name in ("fp32", "int8-dynamic"):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.onnx").write_text(name, encoding="utf-8")
    files = {name: BundleFile.of(folder / name / "model.onnx", folder)
             for name in ("fp32", "int8-dynamic")}  # fmt: skip
    info = BundleInfo(
        "tuned", 8, 16, {"query": ""}, "mean", True, "base", "unknown", "mit", 0, "0", files
    )
    info.write(folder)
    return info


def test_a_precision_that_failed_its_gate_stays_behind(tmp_path, caplog):
    info = made(tmp_path / "step")
    publishing.bundle(tmp_path / "step", tmp_path / "run", ["fp32"])
    only = {"fp32": info.precisions["fp32"]}
    assert BundleInfo.read(tmp_path / "run") == replace(info, precisions=only)
    assert not (tmp_path / "run/int8-dynamic").exists()
    assert "int8-dynamic is not published: it failed its gate" in caplog.text
    # What the step made is whole, for runs with other gates.
    assert BundleInfo.read(tmp_path / "step") == info
    publishing.bundle(tmp_path / "step", tmp_path / "run", ["int8-dynamic", "fp32"])
    assert BundleInfo.read(tmp_path / "run") == info
    assert (tmp_path / "run/int8-dynamic/model.onnx").read_text("utf-8") == "int8-dynamic"
