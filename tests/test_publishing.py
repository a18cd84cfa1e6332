from dataclasses import replace

from finetune import publishing
from finetune.inference import BundleFile, BundleInfo, machine
from finetune.stage import Done, Planned, Step


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


def test_what_was_tuned_stays(tmp_path):
    model = made(tmp_path / "step").precisions["fp32"].sha256
    publishing.bundle(tmp_path / "step", tmp_path / "run", ["fp32"])
    assert not (tmp_path / "run" / machine.FILE).exists()
    machine.write(tmp_path / "run", "fp32", machine.Tuned(model, 7, 2048, 20, 10))
    publishing.bundle(tmp_path / "step", tmp_path / "run", ["fp32", "int8-dynamic"])
    assert machine.settings(tmp_path / "run", "fp32", model, None, None) == (7, 2048)


def test_where_every_precision_failed_there_is_no_bundle(tmp_path, caplog):
    made(tmp_path / "step")
    publishing.bundle(tmp_path / "step", tmp_path / "run/bundle", ["fp32"])
    publishing.bundle(tmp_path / "step", tmp_path / "run/bundle", [])
    assert not (tmp_path / "run/bundle").exists() and (tmp_path / "step").is_dir()
    assert "every precision failed its gate; the model lies in" in caplog.text


def test_an_adapter_of_another_model_than_the_base_is_told(tmp_path, caplog):
    (tmp_path / "step/adapter").mkdir(parents=True)
    for model in ("train", "base"):
        step = Step("train-2", print, 1, {}, {"model": model})
        publishing.adapter(Planned(step, "key", tmp_path / "step"), tmp_path / "adapter")
        assert (tmp_path / "adapter").exists() == (model == "base")
    (told,) = caplog.messages
    assert "adapter is not published: it was trained on what train left" in told


def test_dropped_rows_lie_in_a_folder_for_each_step_without_empty_files(tmp_path, caplog):
    texts = {"data/dropped.jsonl": "{}", "data/near.jsonl": "", "data/train.jsonl": "{}",
             "mix/general/near.jsonl": "{}"}  # fmt: skip
    for name, text in texts.items():
        (tmp_path / "cache" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cache" / name).write_text(text, "utf-8")
    done = {
        name: Done(name, "key", 0.0, True, tmp_path / "cache" / name) for name in ("data", "mix")
    }
    run_dir = tmp_path / "run"
    (run_dir / "dropped/noise").mkdir(parents=True)  # of an earlier run
    with caplog.at_level("INFO", logger="finetune"):
        publishing.left_out(done, run_dir / "dropped")
    found = {str(path.relative_to(run_dir)) for path in run_dir.rglob("*") if path.is_file()}
    assert found == {"dropped/data/dropped.jsonl", "dropped/mix/general/near.jsonl"}
    assert all(str(run_dir / name) in caplog.text for name in found)
    assert not (run_dir / "dropped/noise").exists()
    published = run_dir / "dropped/data/dropped.jsonl"
    assert published.samefile(tmp_path / "cache/data/dropped.jsonl"), "a link: rows may be many"
