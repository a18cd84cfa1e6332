"""One run in several processes. What a launcher starts is real; tiny models, gloo, loopback."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_runs
from launched import in_processes, run_noting, run_together
from safetensors.torch import load_file
from serving import free_port

from finetune import pipeline
from finetune.config.compose import compose
from finetune.records import read_dicts
from finetune.sets import only_set
from finetune.training import train as training

ROOT = Path(__file__).parents[1]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
# Single steps of two processes and of one: sums in another order.
LOSS, WEIGHT = 1e-5, 1e-5

# Lengths, mined negatives, chunks of three rows out of four, and an adapter; and a student.
TOGETHER = {
    "lengths": (
        "loss=matryoshka", "loss.matryoshka_dims=[8]", "hardware.chunk=3", "adapter=lora",
        "adapter.layers=2", "train.learning_rate=5e-3", "mine=positive_aware",
        "mine.candidates=200", "mine.negatives=1", "mine.relative_margin=0",
    ),
    "student": ("distill=layers6", "distill.layers=2", "loss=distill"),
}  # fmt: skip


def start(launcher: list[str], script: str, *arguments: str, **variables: str) -> subprocess.Popen:
    """Start a launcher from the root of this tree, one thread a process."""
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT}/tests"}
    environment = {**os.environ, **own, **variables}
    return subprocess.Popen(
        [*launcher, str(ROOT / script), *arguments], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(process: subprocess.Popen, code: int = 0) -> str:
    """Wait for a launcher; return what it and its processes said."""
    said, _ = process.communicate(timeout=120)
    assert process.returncode == code, said
    return said


def here(processes: int = 2) -> list[str]:
    return [*TORCHRUN, "--standalone", "--nproc_per_node", str(processes)]


def accelerate(processes: int) -> list[str]:
    """As docs/multi-node.md says."""
    several = ["--multi_gpu"] if processes > 1 else []
    port = ["--main_process_port", str(free_port())]
    return [*ACCELERATE, *several, "--num_processes", str(processes), *port]


def two_machines() -> list[list[str]]:
    """Launchers of two machines of one process each, both of them this one."""
    port = str(free_port())
    return [
        [*TORCHRUN, "--nnodes", "2", "--node_rank", str(rank), "--nproc_per_node", "1",
         "--master_addr", "127.0.0.1", "--master_port", port]
        for rank in range(2)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def arguments(tiny_model, domain, work):
    def make(run: str, *more: str) -> list[str]:
        common = ("train.epochs=3", "train.checkpoints=5", f"run_dir={work}/{run}")
        return tiny_runs.overrides(tiny_model, domain, work, "full", *common, *more)

    return make


@pytest.fixture(scope="module")
def one(arguments, work) -> Path:
    """The train folder of a run in one process."""
    pipeline.run(compose(arguments("one", "until=train")))
    (folder,) = (work / "cache/train").glob("[!.]*")
    return folder


@pytest.fixture(scope="module")
def two(one, arguments, work) -> tuple[Path, str]:
    """A whole run that Accelerate launches in two processes: train folder, what it said.

    It shares the cache with `one`.
    """
    tracking = ("tracking=mlflow", f"tracking.uri=sqlite:///{work}/mlflow.db")
    before = set((work / "cache/train").glob("[!.]*"))
    line = arguments("two", *tracking)
    said = finish(start(accelerate(2), "train.py", *line, ACCELERATE_USE_CPU="true"))
    (folder,) = set((work / "cache/train").glob("[!.]*")) - before
    return folder, said


def weights(folder: Path) -> dict:
    return load_file(folder / "model/model.safetensors")


def apart(a: Path, b: Path) -> float:
    """Largest difference of two models' weights.

    Left out: biases of attention keys, whose gradient is zero but for rounding (they shift all
    scores of a query alike) and which Adam moves in the direction of that rounding.
    """
    one, other = weights(a), weights(b)
    assert one.keys() <= other.keys()
    return max(float((one[name] - other[name]).abs().max())
               for name in one if not name.endswith("key.bias"))  # fmt: skip


def rows(folder: Path, kind: str) -> dict[int, float]:
    lines = list(read_dicts(folder / training.CURVES))
    found = {line["step"]: line[kind] for line in lines if kind in line}
    assert len(found) == sum(kind in line for line in lines)  # no step twice
    return found


def test_two_processes_train_as_one_does(one, two, tiny_model):
    folder, _ = two
    for kind, steps in (("loss", range(1, 25)), ("eval_ndcg@10", (0, 5, 10, 15, 20, 24))):
        alone, shared = rows(one, kind), rows(folder, kind)
        assert list(alone) == list(shared) == list(steps)
        assert shared == pytest.approx(alone, abs=LOSS)
    assert rows(one, "learning_rate") == rows(folder, "learning_rate")
    assert apart(one, folder) < WEIGHT < 1e-2 < apart(one, tiny_model.parent)


@pytest.mark.slow  # tests/training/test_memory.py has lengths in two processes, too
@pytest.mark.parametrize("name", TOGETHER)
def test_with_other_losses_too(name, arguments, work, deep_model):
    folders = []
    for count in (1, 2):
        cache = work / f"{name}-{count}"
        line = arguments(f"{name}-{count}-run", *TOGETHER[name], f"model.path={deep_model}",
                         "until=train", f"paths.cache={cache}")  # fmt: skip
        if count == 1:
            pipeline.run(compose(line))
        else:
            finish(start(here(), "train.py", *line))
        (folder,) = [path for kind in ("train", "distill") for path in cache.glob(f"{kind}/[!.]*")]
        folders.append(folder)
    alone, shared = (rows(folder, "loss") for folder in folders)
    assert shared == pytest.approx(alone, abs=LOSS) and len(alone) > 10
    assert apart(*folders) < WEIGHT < 1e-2 < apart(folders[0], deep_model.parent)


@pytest.mark.slow  # `two` is two of them
def test_accelerate_launches_the_same_training_in_one_process(one, arguments, work):
    other = work / "accelerate-1"
    line = arguments("accelerate-1/run", "until=train", cache_without_training(work, other))
    said = finish(start(accelerate(1), "train.py", *line, ACCELERATE_USE_CPU="true"))
    assert said.count("plan for") == said.count("stopped after train") == 1
    trained = other / "cache/train" / one.name
    assert apart(trained, one) <= 1e-6
    assert rows(trained, "loss") == pytest.approx(rows(one, "loss"), abs=1e-6)


def test_several_processes_make_one_run(one, two, work):
    _, said = two
    assert said.count("plan for") == said.count("run: ") == 1
    assert said.count("step 24 of 24: loss") == 1
    report = json.loads((work / "two/report.json").read_text("utf-8"))
    cached = {stage["name"]: stage["cached"] for stage in report["stages"]}
    assert [name for name in cached if cached[name]] == [
        "sets", "data", "base", "export-base", "corpus", "embed", "pool"  # as `one` left them
    ]  # fmt: skip
    with sqlite3.connect(work / "mlflow.db") as store:
        assert store.execute("select status from runs").fetchall() == [("FINISHED",)]
        losses = "select count(*), count(distinct step) from metrics where key = 'train/loss'"
        assert store.execute(losses).fetchone() == (24, 24)
    leftovers = [path for path in (work / "cache").glob("*/.partial*")]
    assert leftovers == []


def test_each_process_encodes_its_share_for_the_guard(two, one, arguments, work):
    """Of texts that fill many batches."""
    other = work / "guarded"
    line = arguments("guarded/run", "until=train", "hardware.encode_tokens=32",
                     cache_without_training(work, other))  # fmt: skip
    assert in_processes(run_noting, line, other) == [0, 0]
    (pool,) = (other / "cache/pool").glob("[!.]*")
    select = only_set(pool)
    texts = len(select.queries) + len(select.corpus)
    first, second = (sum(map(int, path.read_text().split())) for path in other.glob("encoded-*"))
    assert first + second == 6 * texts  # the base, and five checkpoints
    assert abs(first - second) < 0.1 * (first + second)
    (trained,) = (other / "cache/train").glob("[!.]*")
    assert rows(trained, "eval_ndcg@10") == pytest.approx(rows(one, "eval_ndcg@10"), abs=LOSS)


def cache_without_training(work: Path, other: Path) -> str:
    shutil.copytree(work / "cache", other / "cache", ignore=shutil.ignore_patterns("train"))
    return f"paths.cache={other}/cache"


def test_killed_and_resumed_on_two_machines(two, arguments, work):
    folder, _ = two
    other = work / "killed"
    line = arguments("killed/run", "until=train", cache_without_training(work, other))
    assert in_processes(run_together, line, "all killed in the second epoch") == [-9, -9]
    (partial,) = (other / "cache/train").glob(".partial-*")
    assert max(rows(partial, "loss")) == 13
    assert {path.name for path in partial.glob("checkpoints/checkpoint-10/rng_state*")} == {
        "rng_state_0.pth", "rng_state_1.pth"
    }  # fmt: skip
    agents = [start(launcher, "train.py", *line) for launcher in two_machines()]
    first, second = (finish(agent) for agent in agents)
    assert "step 11 of 24" in first and "step 10 of 24" not in first
    assert "step" not in second
    resumed = other / "cache/train" / folder.name
    assert apart(resumed, folder) <= 1e-6
    for kind in ("loss", "eval_ndcg@10"):
        assert rows(resumed, kind) == pytest.approx(rows(folder, kind), abs=1e-6)


@pytest.mark.parametrize("recipe", ["lora", "prefix"])
def test_adapters_train_in_two_processes_as_in_one(recipe, one, tiny_model, domain, work):
    common = ("train.epochs=2", "until=train")
    if recipe == "lora":
        common = (*common, "adapter.layers=1")
    line = tiny_runs.overrides(tiny_model, domain, work, recipe, *common)
    before = set((work / "cache/train").glob("[!.]*"))
    pipeline.run(compose(line))
    (alone,) = set((work / "cache/train").glob("[!.]*")) - before
    assert in_processes(run_together, line) == [0, 0]
    (shared,) = set((work / "cache/train").glob("[!.]*")) - before - {alone}
    assert rows(shared, "loss") == pytest.approx(rows(alone, "loss"), abs=LOSS)
    assert rows(shared, "eval_ndcg@10") == pytest.approx(rows(alone, "eval_ndcg@10"), abs=LOSS)


def test_a_mistake_of_the_user_is_told_once(arguments):
    said = finish(start(here(), "train.py", *arguments("wrong", "train.batch_size=7")), 1)
    assert said.count("error: train.batch_size=7: cannot be shared evenly by 2 processes") == 1
    cause = said[said.index("Root Cause") :]
    assert "rank      : 0" in cause and "exitcode  : 2" in cause
    assert "the first process failed" not in said


def test_where_the_first_process_fails_the_others_end(two, arguments, work):
    other = work / "failing"
    line = arguments("failing/run", "until=train", cache_without_training(work, other))
    told = other / "said"
    assert in_processes(run_together, line, "the first fails", machines=2, said=told) == [1, 1]
    said = told.read_text()
    assert said.count("RuntimeError: a mishap of the first process") == 1
    assert said.count("process 1 ends: the first process") == 1
