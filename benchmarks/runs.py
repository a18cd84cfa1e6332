"""Run named command lines of train.py, keep one JSON a run, and print them as one table.

Shared by the benchmarks that compare runs: a run whose JSON is there is not repeated, so a
benchmark that was stopped goes on.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from finetune.evaluation.artifacts import read_outcome

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
_KEPT = ("verdict", "scores", "baselines", "gates", "training", "speed", "data", "scripts",
         "tokens", "parity", "stages")  # fmt: skip


def run(
    name: str, overrides: Sequence[str], folder: Path, questions: str | None = None
) -> dict[str, Any] | None:
    """Run train.py once, or read what an earlier call kept.

    Args:
        name: Of the run; its JSON is ``<folder>/<name>.json``.
        overrides: ``key=value`` words.
        folder: Where the JSON goes.
        questions: Name of an evaluation set whose questions' NDCG@10 under the tuned model is kept
            too, as ``questions``: what a comparison of runs needs, also on another day.

    Returns:
        The run's JSON: ``command``, ``seconds``, ``peak_bytes``, ``versions`` and the parts of
        ``report.json``; None when it failed (told on the terminal), so that the other runs go on.
    """
    kept = folder / f"{name}.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    run_dir = ROOT / "runs" / f"{folder.name}-{name}"
    words = [*overrides, "tracking=none", f"run_dir={run_dir}"]
    print(f"{name}: python train.py {' '.join(words)}", flush=True)
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, str(ROOT / "train.py"), *words])
    _, status, usage = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, 3):
        print(f"{name}: failed with exit code {code}", flush=True)
        return None
    report = json.loads((run_dir / "report.json").read_text(encoding="utf-8"))
    result = {
        "command": " ".join(["python train.py", *map(_told, overrides)]),
        "seconds": round(time.monotonic() - start, 1),
        "peak_bytes": usage.ru_maxrss * 1024,
        "versions": versions(),
        **{key: report[key] for key in _KEPT if key in report},
    }
    if questions:
        found = read_outcome(run_dir / f"outcomes/tuned/{questions}.jsonl")
        values = (round(float(value), 4) for value in found.metrics["ndcg@10"])
        result["questions"] = dict(zip(found.queries, values, strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return result


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
