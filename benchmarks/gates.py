"""How often the gates are right, by simulation on the spread of real runs.

python benchmarks/gates.py [--gate script]
python benchmarks/gates.py [--gate script] --collect runs/contrastive-legal-starter-1a2b3c4d legal

What every query got before and after, in real runs, lies in ``results/gates/values.json``
(``--collect`` adds a run's): before and after tuning, before and after INT8, and in Simplified and
in Traditional by the tuned model, as the script gate has it (of a run with
``evaluate.scripts=true`` or one that mixes or converts scripts, and of ``statutes``, whose
questions are there in both). A simulated set draws n queries from it, with replacement, and shifts
what they got after, so that the true change is a loss of 2 points, or none. The shares of 400 such
sets that each gate fails and passes stand beside what theory says of so many queries with such a
spread; the exit code is 1 where the gates are not what they should be.

``--gate`` tries one gate anew, and keeps what ``results/gates.json`` has of the others; with
``--collect`` it adds only what that gate is tried on.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.config import Evaluate
from finetune.config.compose import compose
from finetune.evaluation.artifacts import read_outcome
from finetune.evaluation.statistics import power
from finetune.report.gates import Gate, Status, gain, general, int8
from finetune.report.scripts import gap

RESULTS = Path(__file__).parent / "results"
VALUES = RESULTS / "gates/values.json"
SETTINGS = dataclasses.replace(compose(["recipes=contrastive"]).evaluate, samples=500)
DROP = 0.02  # the true loss that must be seen
SIZES = (50, 100, 200, 400, 800, 1600, 3200, 6400, 12800)
TRIALS = 400
# Real changes: before and after tuning, INT8, and conversion to Traditional.
TUNED, INT8, SCRIPT = "tuned - base", "int8 - fp32", "traditional - simplified"
# The share of 400 trials may lie two standard errors off the true one.
SLACK = 2 * np.sqrt(0.05 * 0.95 / TRIALS)

Values = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Judge:
    """A gate, the real changes it is tried on, and the loss that it allows, given the mean."""

    gate: Callable[[Values, Values], Gate]
    kinds: tuple[str, ...]
    allowed: Callable[[float], float]


def judges(settings: Evaluate) -> dict[str, Judge]:
    """The gates that are tried."""
    return {
        "gain": Judge(lambda one, other: gain(one, other, settings, 0, "simulated", "ndcg@10"),
                      (TUNED,), lambda mean: -settings.min_gain),
        "general": Judge(lambda one, other: general(one, other, settings, 0, "simulated"),
                         (TUNED, INT8), lambda mean: settings.max_general_drop),
        "int8": Judge(lambda one, other: int8(one, other, settings, 0, "ndcg@10"),
                      (INT8,), lambda mean: settings.max_int8_drop * mean),
        # A loss in Traditional is a gap with Simplified ahead; the gate is the same both ways.
        "script": Judge(lambda one, other: gap(other, one, settings, 0, "simulated", "ndcg@10"),
                        (SCRIPT,), lambda mean: settings.max_script_gap),
    }  # fmt: skip


def simulate(judge: Judge, before: Values, after: Values, queries: int, drop: float) -> Any:
    """Shares of simulated sets that pass and that fail, with a true loss of ``drop``."""
    rng = np.random.default_rng(queries)
    shifted = after - (after - before).mean() - drop
    counts = {status: 0 for status in Status}
    for _ in range(TRIALS):
        rows = rng.integers(0, len(before), queries)
        counts[judge.gate(before[rows], shifted[rows]).status] += 1
    return {status.value: count / TRIALS for status, count in counts.items()}


def cells(gates: Collection[str]) -> Iterator[dict[str, Any]]:
    """Try each gate on each spread and size; sizes go on until theory is sure to see the loss."""
    known = json.loads(VALUES.read_text(encoding="utf-8"))
    for gate in gates:
        judge = judges(SETTINGS)[gate]
        fitting = {name: values for name, values in known.items() if name.endswith(judge.kinds)}
        if not fitting:
            print(f"{gate}: nothing in {VALUES} is {' or '.join(judge.kinds)}; to add: --collect")
        for name, values in fitting.items():
            before, after = (np.array(values[part]) for part in ("before", "after"))
            spread = float((after - before).std(ddof=1))
            for queries in SIZES:
                seen = power(DROP - judge.allowed(float(before.mean())), spread, queries)
                cell = {
                    "gate": gate, "changes": name, "spread": round(spread, 4), "queries": queries,
                    "power": round(seen, 4),
                    "lost": simulate(judge, before, after, queries, DROP),
                    "same": simulate(judge, before, after, queries, 0.0),
                }  # fmt: skip
                print(line(cell), flush=True)
                yield cell
                if seen > 0.995:
                    break


def line(cell: dict[str, Any]) -> str:
    """A row of the table."""
    wrong = cell["same"]["passed" if cell["gate"] == "gain" else "failed"]
    return (
        f"| {cell['gate']} | {cell['changes']} | {cell['spread']:.3f} | {cell['queries']:,} | "
        f"{100 * cell['power']:.1f} | {100 * cell['lost']['failed']:.1f} | "
        f"{100 * cell['lost']['passed']:.1f} | {100 * wrong:.1f} |"
    )


def problems(found: list[dict[str, Any]]) -> Iterator[str]:
    """Where a loss that theory sees is not caught, or passes, or nothing lost raises an alarm."""
    for cell in found:
        wrong = cell["same"]["passed" if cell["gate"] == "gain" else "failed"]
        if cell["power"] >= 0.95 and cell["lost"]["failed"] < 0.95 - SLACK:
            yield f"not caught: {line(cell)}"
        if cell["lost"]["passed"] > 0.05 + SLACK:
            yield f"passed: {line(cell)}"
        if wrong > 0.05 + SLACK:
            yield f"false alarm: {line(cell)}"


def collect(run: Path, name: str, gates: Collection[str]) -> None:
    """Add what a run's queries got on a set, before and after what these gates are tried on."""
    wanted = {kind for gate in gates for kind in judges(SETTINGS)[gate].kinds}
    known = json.loads(VALUES.read_text(encoding="utf-8")) if VALUES.is_file() else {}
    either = [f"tuned/{name}{end}" for end in ("+traditional", "-traditional")]
    converted = next((e for e in either if (run / f"outcomes/{e}.jsonl").is_file()), either[0])
    changes = {
        TUNED: (f"base/{name}", f"tuned/{name}"),
        INT8: (f"onnx-fp32/{name}", f"onnx-int8-dynamic/{name}"),
        SCRIPT: (f"tuned/{name}", converted),
    }
    for kind, outcomes in changes.items():
        if kind not in wanted:
            continue
        files = [run / "outcomes" / f"{each}.jsonl" for each in outcomes]
        missing = [str(path) for path in files if not path.is_file()]
        if missing:
            print(f"{kind}: not measured by this run, which has no {', '.join(missing)}")
            continue
        values = [read_outcome(path).metrics["ndcg@10"].round(4).tolist() for path in files]
        known[f"{name}, {kind}"] = dict(zip(("before", "after"), values, strict=True))
    VALUES.parent.mkdir(parents=True, exist_ok=True)
    VALUES.write_text(json.dumps(known) + "\n", encoding="utf-8")


def main() -> int:
    """Collect, or simulate, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--collect", nargs=2, metavar=("RUN", "SET"), help="add a run's changes")
    parser.add_argument("--gate", choices=list(judges(SETTINGS)), help="this gate alone")
    asked = parser.parse_args()
    gates = [asked.gate] if asked.gate else list(judges(SETTINGS))
    if asked.collect:
        collect(Path(asked.collect[0]), asked.collect[1], gates)
        return 0
    print("| gate | changes | spread | queries | power % | lost 2: failed % | passed % | "
          "lost 0: false alarm % |\n" + "| --- " * 8 + "|")  # fmt: skip
    path = RESULTS / "gates.json"
    kept = json.loads(path.read_text(encoding="utf-8"))["cells"] if asked.gate else []
    found = [*(cell for cell in kept if cell["gate"] not in gates), *cells(gates)]
    wrong = list(problems(found))
    result = {"drop": DROP, "trials": TRIALS, "samples": SETTINGS.samples, "cells": found,
              "problems": wrong}  # fmt: skip
    text = json.dumps(result, indent=1) + "\n"
    path.write_text(text, encoding="utf-8")
    print("\n".join(wrong) or "every gate catches what theory can see")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
