import logging
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_runs

from finetune import pipeline
from finetune.config.compose import compose
from finetune.planning import budget
from finetune.planning.budget import duration, shortages, size, table
from finetune.planning.costs import Cost
from finetune.planning.facts import Facts
from finetune.planning.forecast import predict
from finetune.records import read_dicts
from finetune.stage import MANIFEST, Planned, Step

GIB = 1024**3


def one(name, key="0123456789abcdef", folder=Path("nowhere")):
    return Planned(Step(name, one, 1, {}), key, folder)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (40.4, "40 s"), (59, "59 s"), (61, "1.0 min"), (150, "2.5 min"),
     (725, "12 min"), (3600, "1.0 h"), (36_000, "10.0 h")],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(10 * 1024**2, "10 MiB"), (GIB, "1.0 GiB"), (5.25 * GIB, "5.2 GiB")]
)
def test_sizes(number, text):
    assert size(number) == text


def test_the_table(tmp_path):
    done = one("base", folder=tmp_path)
    (tmp_path / MANIFEST).write_text("{}")
    costs = {"train": Cost(150.0, 2 * GIB, GIB), "pool": Cost(1.0, None, 0), "export": Cost(),
             "embed": Cost(None, GIB, 0)}  # fmt: skip
    assert list(table([done, *map(one, costs)], costs)) == [
        "  base                  01234567  cached",
        "  train                 01234567  to do: about 2.5 min, 2.0 GiB",
        "  pool                  01234567  to do: about 1 s",
        "  export                01234567  to do: time and memory not known yet",
        "  embed                 01234567  to do: time not known yet, 1.0 GiB",
        "  in all about 2.5 min, at most 2.0 GiB, 1.0 GiB of disk; and more for export, embed",
    ]


def test_memory_of_the_gpu_is_told_beside_that_of_the_process():
    costs = {"train": Cost(60.0, 9 * GIB, 0, gpu=True), "export": Cost(60.0, 2 * GIB, 0)}
    *_, train, export, total = table(list(map(one, costs)), costs)
    assert train.endswith("about 1.0 min, 9.0 GiB of the GPU")
    assert export.endswith("about 1.0 min, 2.0 GiB")
    assert (
        total
        == "  in all about 2.0 min, at most 2.0 GiB, at most 9.0 GiB of the GPU, 0 MiB of disk"
    )


def test_a_plan_without_work_has_no_sum(tmp_path):
    (tmp_path / MANIFEST).write_text("{}")
    assert len(list(table([one("base", folder=tmp_path)], {}))) == 1


def test_what_does_not_fit_is_told_with_the_key_to_change():
    costs = {"train": Cost(1.0, 9 * GIB, 3 * GIB, lower="train.batch_size=64"),
             "export": Cost(1.0, 9 * GIB, 3 * GIB), "pool": Cost()}  # fmt: skip
    found = list(shortages(costs, 8 * GIB, None, 5 * GIB))
    assert found == [
        "train needs about 9.0 GiB of memory; 8.0 GiB available: lower train.batch_size=64",
        "export needs about 9.0 GiB of memory; 8.0 GiB available: close other programs",
        "this run writes about 6.0 GiB; 5.0 GiB of disk free: free some, or set "
        "paths.cache=<folder on another disk>",
    ]
    assert list(shortages(costs, 10 * GIB, None, 7 * GIB)) == []
    assert len(list(shortages(costs, None, None, 7 * GIB))) == 0


def test_a_step_on_the_gpu_is_held_against_the_gpu():
    costs = {"train": Cost(1.0, 9 * GIB, 0, gpu=True, lower="hardware.chunk=64")}
    assert list(shortages(costs, GIB, 10 * GIB, GIB)) == []
    (found,) = shortages(costs, 100 * GIB, 8 * GIB, GIB)
    assert "8.0 GiB free on the GPU" in found and "hardware.chunk=64" in found


@pytest.fixture
def config(tiny_model, tiny_domain, tmp_path):
    def make(*more):
        line = tiny_runs.overrides(tiny_model, tiny_domain, tmp_path, "full", *more)
        return compose([*line, f"run_dir={tmp_path}/run"])

    return make


def test_a_run_shows_its_plan_first_and_learns_from_what_it_took(config, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    pipeline.run(config("until=base"))
    start = caplog.text.index("plan for")
    assert start < caplog.text.index("sets: start")
    shown = caplog.text[start : caplog.text.index("sets: start")]
    assert "in all about" in shown and "train" not in shown  # steps that will not be done
    rows = list(read_dicts(tmp_path / "cache/times.jsonl"))
    assert [row["step"] for row in rows] == ["sets", "data", "base"]
    assert all(row["predicted"] > 0 and row["took"] > 0 for row in rows)
    caplog.clear()
    pipeline.run(config("until=base"))
    assert "to do" not in caplog.text and caplog.text.count("cached") >= 3
    assert len(list(read_dicts(tmp_path / "cache/times.jsonl"))) == 3


def test_times_of_resumed_steps_are_not_learned_from(config, tmp_path):
    settings = config("until=base")
    resolved = pipeline.resolve(settings)
    base = pipeline.plan(pipeline.steps_of(resolved), resolved.paths.cache)[2]
    base.partial.mkdir(parents=True)
    pipeline.run(settings)
    assert [row["step"] for row in read_dicts(tmp_path / "cache/times.jsonl")] == ["sets", "data"]


def test_a_shortage_is_told_before_any_work(config, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(budget.hardware, "available_memory", lambda: GIB // 4)
    pipeline.run(config("until=base"))
    warned = next(r for r in caplog.records if "needs about" in r.message)
    assert warned.levelname == "WARNING" and warned.message.startswith("base needs about")
    assert caplog.text.index("needs about") < caplog.text.index("data: start")


def test_processes_that_share_a_machine_share_its_memory(config, tmp_path, monkeypatch):
    def lacking(processes):
        monkeypatch.setenv("WORLD_SIZE", processes)
        resolved = pipeline.resolve(config())
        planned = pipeline.plan(pipeline.steps_of(resolved), resolved.paths.cache)
        (train,) = [each for each in planned if each.step.name == "train"]
        return list(shortages({"train": predict(train.step, Facts(planned))}, GIB, None, GIB))

    assert lacking("1") == []
    (told,) = lacking("2")  # half a batch each, beside libraries of 640 MiB
    assert told.startswith("train needs about 1.3 GiB of memory; 1.0 GiB available")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert lacking("2") == []


def test_a_plan_without_work_imports_neither_torch_nor_onnxruntime(tmp_path):
    code = f"""
import sys
from pathlib import Path
from finetune import pipeline
from finetune.planning import budget
from finetune.config.compose import compose
from finetune.stage import Planned, Step
folder = Path({str(tmp_path)!r})
(folder / "manifest.json").write_text("{{}}")
config = pipeline.resolve(compose(["recipes=full", "hardware=cpu"]))
shown = budget.outlook([Planned(Step("base", print, 1, {{}}), "0" * 16, folder)], folder,
                       config.hardware)
assert len(shown.table) == 1, shown
print(sorted({{"torch", "onnxruntime", "tokenizers"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
