"""Run named command lines of train.py, keep one JSON a run, and print them as one table.

Shared by the benchmarks that compare runs: a run whose JSON is there is not repeated, so a
benchmark that was stopped goes on; one that another command or another recipe made is.

python benchmarks/common/runs.py before|train key=value …    (what `train_memory` starts)
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from finetune.evaluation.artifacts import read_outcome
from finetune.evaluation.statistics import compare_seeds

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results"
_KEPT = ("verdict", "scores", "baselines", "gates", "training", "speed", "data", "scripts",
         "tokens", "parity", "stages")  # fmt: skip
_SAMPLES = 10_000


def run(
    name: str,
    overrides: Sequence[str],
    folder: Path,
    questions: str | None = None,
    *,
    apart: bool = False,
    also: Callable[[Path], Mapping[str, Any]] | None = None,
) -> dict[str, Any] | None:
    """Run train.py once, or read what an earlier call kept.

    Args:
        name: Of the run; its JSON is ``<folder>/<name>.json``.
        overrides: ``key=value`` words.
        folder: Where the JSON goes.
        questions: Name of an evaluation set whose questions' NDCG@10 under the tuned model is kept
            too, as ``questions``: what a comparison of runs needs, also on another day.
        apart: Whether the train step gets a process of its own, so that its memory is kept too
            (`train_memory`).
        also: What is measured on the run directory besides; its values are kept too.

    Returns:
        The run's JSON: ``command``, ``key`` (see `key`), ``seconds``, ``peak_bytes`` (of train.py),
        ``versions`` and the parts of ``report.json``; None when it failed (told on the terminal),
        so that the other runs go on.
    """
    kept = folder / f"{name}.json"
    if kept.is_file():
        result = read(kept)
        if not stale(result, overrides):
            return result
        print(f"{name}: what is kept was made by another command or recipe; it runs again")
    run_dir = ROOT / "runs" / f"{folder.name}-{name}"
    words = [*overrides, "tracking=none", f"run_dir={run_dir}"]
    print(f"{name}: python train.py {' '.join(words)}", flush=True)
    start = time.monotonic()
    memory = train_memory(words) if apart else {}
    if memory is None:
        print(f"{name}: failed in training or before it", flush=True)
        return None
    process = subprocess.Popen([sys.executable, str(ROOT / "train.py"), *words])
    _, status, usage = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, 3):
        print(f"{name}: failed with exit code {code}", flush=True)
        return None
    report = json.loads((run_dir / "report.json").read_text(encoding="utf-8"))
    result = {
        "command": command(overrides),
        "key": key(overrides),
        "seconds": round(time.monotonic() - start, 1),
        "peak_bytes": usage.ru_maxrss * 1024,
        **memory,
        "versions": versions(),
        **{key: report[key] for key in _KEPT if key in report},
    }
    if questions:
        found = read_outcome(run_dir / f"outcomes/tuned/{questions}.jsonl")
        values = (round(float(value), 4) for value in found.metrics["ndcg@10"])
        result["questions"] = dict(zip(found.queries, values, strict=True))
    if also:
        result |= also(run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return result


def read(path: Path) -> dict[str, Any]:
    """A run's JSON."""
    return dict(json.loads(path.read_text(encoding="utf-8")))


def stale(kept: Mapping[str, Any], overrides: Sequence[str]) -> bool:
    """Whether other words made a kept result, or the same words when they meant something else."""
    if kept["command"] != command(overrides):
        return True
    now = key(overrides) if "key" in kept else None
    return now is not None and kept["key"] != now


def command(overrides: Sequence[str]) -> str:
    """The command line as anybody could give it."""
    return " ".join(["python train.py", *map(_told, overrides)])


def key(overrides: Sequence[str]) -> str | None:
    """What words come to: a hash of settings, versions and files of the steps before the export.

    Neither the machine nor the place of the files changes it. None where they come to nothing,
    which the run itself tells.
    """
    from finetune import pipeline
    from finetune.config import to_dict
    from finetune.config.compose import compose
    from finetune.errors import UserError
    from finetune.stage import hash_path

    try:
        steps = pipeline.steps_of(compose(overrides))
        names = [step.name for step in steps]
        made = [[step.name, step.version, to_dict(step.settings),
                 {name: hash_path(path) for name, path in step.files.items()}]
                for step in steps[: names.index("export")]]  # fmt: skip
    except (UserError, OSError):
        return None
    text = json.dumps(made, ensure_ascii=False, sort_keys=True)
    for word in overrides:
        _, _, value = word.partition("=")
        if Path(value).is_absolute():
            text = text.replace(value, "<folder>")
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def train_memory(words: Sequence[str]) -> dict[str, int] | None:
    """Execute the steps up to the training, then the training alone; what it held.

    train.py finds all of them done. A training that is there already is repeated.

    Returns:
        ``train_peak_bytes``, and of these ``train_start_bytes``, held once all is imported; None
        when it failed.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    told = ""
    for part in ("before", "train"):
        command = [sys.executable, __file__, part, *words]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True,
                              check=False)  # fmt: skip
        if done.returncode:
            return None
        told = done.stdout
    return dict(json.loads(told.splitlines()[-1]))


def child(part: str, words: Sequence[str]) -> dict[str, int]:
    """Execute the steps before the training, or the training, in this process."""
    import finetune.training.train  # noqa: F401 - what a process holds before it loads a model
    from finetune import pipeline
    from finetune.config.compose import compose
    from finetune.stage import execute, plan

    config = pipeline.resolve(compose(words))
    planned = plan(pipeline.steps_of(config), config.paths.cache)
    done: dict[str, Path] = {}
    for each in planned:
        if each.step.name == "train":
            break
        done[each.step.name] = execute(each, done).folder
    if part == "before":
        return {}
    for left in (each.folder, each.partial):  # done already, or cut short
        shutil.rmtree(left, ignore_errors=True)
    held = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is held now
    execute(each, done)
    return {"train_peak_bytes": _resident("VmHWM"), "train_start_bytes": held}


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def versions() -> dict[str, str]:
    """What a result was made on and with: machine, libraries, the commit of finetune."""
    from finetune.config.compose import compose
    from finetune.machine import hardware
    from finetune.stage import git_commit

    here = hardware.resolve(compose(["recipes=full"]).hardware)
    libraries = ("torch", "sentence-transformers", "onnxruntime")
    return {
        "machine": hardware.label(here),
        **{name: version(name) for name in libraries},
        "finetune": git_commit(),
    }


def _told(word: str) -> str:
    """An override as anybody could give it: no folder of this machine."""
    key, _, value = word.partition("=")
    path = Path(value)
    if not path.is_absolute():
        return word
    return f"{key}={path.relative_to(ROOT) if path.is_relative_to(ROOT) else '<folder>'}"


def table(
    results: Mapping[str, Mapping[str, Any] | None],
    wanted: str,
    artifact: str = "tuned",
    *,
    timed: bool = True,
) -> str:
    """A Markdown table of one set's NDCG@10 (in points), a row a run, the base first.

    Args:
        results: By name of the run; None for one that failed.
        wanted: Name of the evaluation set.
        artifact: Whose scores.
        timed: Whether the machine did nothing else meanwhile, so that pairs a second are told.
    """
    head = ["run", "NDCG@10", "gain", "p", "pairs", *(["pairs/s"] if timed else []), "best step"]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for name, result in results.items():
        if result is None:
            lines.append(f"| {name} | failed {'| ' * (len(head) - 2)}|")
            continue
        rows = {r["artifact"]: r for r in result["scores"]
                if r["set"] == wanted and r["metric"] == "ndcg@10"}  # fmt: skip
        if len(lines) == 2:
            lines.append(f"| base | {100 * rows['base']['value']:.1f} {'| ' * (len(head) - 2)}|")
        lines.append(f"| {name} | {_scores(rows[artifact])} | {_training(result, timed=timed)} |")
    return "\n".join(lines)


def difference(
    results: Mapping[str, Mapping[str, Any]], before: str, after: str, kept: str = "questions"
) -> str:
    """What one kind of run has more than another on the same questions, in words.

    Queries are resampled, and the seeds' noise is added.

    Args:
        results: By name, ``<kind>-<seed>``.
        before: The kind held against.
        after: The other.
        kept: Where a run keeps NDCG@10 by question.
    """
    seeds = [name.removeprefix(f"{before}-") for name in results if name.startswith(f"{before}-")]
    names = sorted(results[f"{before}-{seeds[0]}"][kept])
    values = (np.array([[results[f"{kind}-{seed}"][kept][name] for name in names]
                        for seed in seeds]) for kind in (before, after))  # fmt: skip
    made = compare_seeds(*values, _SAMPLES, seed=0)
    counted = "1 seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
    return (f"{after} against {before}, {len(names)} questions, {counted}: "
            f"{100 * made.delta:+.2f} points [{100 * made.ci_low:+.2f}, {100 * made.ci_high:+.2f}],"
            f" p = {made.p_value:.4f}")  # fmt: skip


def _scores(row: Mapping[str, Any]) -> str:
    half = 50 * (row["ci_high"] - row["ci_low"])
    value = f"{100 * row['value']:.1f} ± {half:.1f}"
    low, gain, high = (f"{100 * row[key]:+.1f}" for key in ("delta_low", "delta", "delta_high"))
    return f"{value} | {gain} [{low}, {high}] | {row['p_value']:.4f}"


def _training(result: Mapping[str, Any], *, timed: bool) -> str:
    training = result["training"]
    step = f"{training['best_step']} of {training['steps']}" if training["improved"] else "base"
    speed = [str(training["pairs_per_second"])] if timed else []
    return " | ".join([f"{result['data']['pairs']:,}", *speed, step])


if __name__ == "__main__":
    print(json.dumps(child(sys.argv[1], sys.argv[2:])))
