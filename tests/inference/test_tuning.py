import gc
import json
import logging
import shutil
import weakref
from dataclasses import replace

import numpy as np
import pytest

from finetune import cpu
from finetune.cli import main
from finetune.errors import UserError
from finetune.inference import BundleInfo, OnnxEncoder, encode_file, machine, onnx, tuning
from finetune.inference.batches import TOKEN_BUDGET

CPUS = cpu.count()
pytestmark = pytest.mark.usefixtures("logs_as_they_were")


@pytest.fixture
def copy(bundle, tmp_path):
    """A bundle, and its model's SHA-256."""
    shutil.copytree(bundle, tmp_path / "copy")
    return tmp_path / "copy", BundleInfo.read(bundle).precisions["fp32"].sha256


def settings(folder, model, threads=None, budget=None):
    return machine.settings(folder, "fp32", model, threads, budget)


def test_what_was_tuned_is_used_here_for_this_model_and_where_nothing_is_asked_for(copy):
    folder, model = copy
    assert settings(folder, model) == (CPUS, TOKEN_BUDGET)
    machine.write(folder, "fp32", machine.Tuned(model, 7, 2048, 20, 10))
    assert settings(folder, model) == (7, 2048)
    assert settings(folder, model, threads=3) == (3, TOKEN_BUDGET)
    assert settings(folder, model, budget=100) == (CPUS, 100)
    assert settings(folder, "another model") == (CPUS, TOKEN_BUDGET)
    assert machine.settings(folder, "int8-dynamic", model, None, None) == (CPUS, TOKEN_BUDGET)


def test_a_bundle_on_another_machine_runs_by_default(copy, monkeypatch):
    folder, model = copy
    machine.write(folder, "fp32", machine.Tuned(model, 7, 2048, 20, 10))
    monkeypatch.setattr(machine, "name", lambda: "another machine")
    assert settings(folder, model) == (CPUS, TOKEN_BUDGET)
    machine.write(folder, "fp32", machine.Tuned(model, 1, 256, 20, 10))
    monkeypatch.undo()
    assert settings(folder, model) == (7, 2048)  # both keep theirs


def test_the_encoder_and_files_run_as_tuned(copy, tmp_path):
    folder, model = copy
    machine.write(folder, "fp32", machine.Tuned(model, 1, 4, 20, 10))
    (tmp_path / "texts").write_text("甲乙\n乙甲\n甲甲\n", "utf-8")
    batches = list(OnnxEncoder.load(folder, "fp32").batches(["甲乙"] * 4))
    assert [len(indices) for indices, _ in batches] == [2, 2]  # 4 tokens a batch
    encode_file(tmp_path / "texts", tmp_path / "out.npy", folder, precision="fp32")
    record = json.loads((tmp_path / "out.npy.json").read_text("utf-8"))
    assert (record["threads"], record["budget"]) == (1, 4)


@pytest.mark.parametrize(("gain", "kept"), [(1.5, True), (1.01, False)])
def test_only_a_gain_beyond_chance_is_kept(copy, monkeypatch, gain, kept):
    folder, model = copy

    def rates(runs, texts):
        return {key: 100 * (gain if key[1] == 1024 else 1) for key in runs}

    monkeypatch.setattr(tuning, "fastest", rates)
    monkeypatch.setattr(tuning, "SECONDS", 0.0)
    found, was_kept = tuning.tune(folder, "fp32")
    assert (found.budget, was_kept) == (1024, kept)
    assert (settings(folder, model)[1] == 1024) == kept


def test_budgets_share_the_session_of_the_best_threads_and_the_others_are_dropped(
    copy, monkeypatch
):
    started: list[weakref.ref] = []
    alive: list[int] = []
    real = onnx.start_model

    def start(*words, **settings):
        session = real(*words, **settings)
        started.append(weakref.ref(session))
        return session

    def rates(runs, texts):
        gc.collect()
        alive.append(sum(each() is not None for each in started))
        return {key: float(key[0] == 2) for key in runs}

    monkeypatch.setattr(cpu, "count", lambda: 4)
    monkeypatch.setattr(onnx, "start_model", start)
    monkeypatch.setattr(tuning, "fastest", rates)
    monkeypatch.setattr(tuning, "SECONDS", 0.0)
    tuning.tune(copy[0], "fp32")
    assert len(started) == 3 and alive == [3, 2]  # of 1, 2 and 4 threads; of 2 and the default


def test_what_a_gpu_runs_is_not_tuned(with_gpu, copy):
    folder, _ = copy
    info = BundleInfo.read(folder)
    files = {**info.precisions, "fp16": info.precisions["fp32"]}
    replace(info, precisions=files).write(folder)
    told = "precision fp16: a GPU runs it here, .* runs on the CPU: fp32"
    with pytest.raises(UserError, match=told):
        tuning.tune(folder, "fp16")
    assert not (folder / "tuned.json").is_file()


def test_the_command_measures(copy, monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(tuning, "SECONDS", 0.001)
    monkeypatch.setattr(tuning, "ROUNDS", 1)
    (tmp_path / "texts").write_text("甲乙\n" * 100, "utf-8")
    words = ["tune-threads", str(copy[0]), "--precision", "fp32", "--texts", f"{tmp_path}/texts"]
    with caplog.at_level(logging.INFO):
        assert main(words) == 0
    assert "fastest:" in caplog.text and (copy[0] / "tuned.json").is_file()


def test_random_texts_are_of_mixed_length():
    lengths = np.array([len(text) for text in tuning.random_texts(512)])
    assert 25 <= np.median(lengths) <= 35 and lengths.max() > 300
