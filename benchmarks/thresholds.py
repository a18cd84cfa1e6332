"""What a threshold chosen on one half of real labelled pairs is worth on the other.

python benchmarks/thresholds.py --bundle runs/<run>/bundle [--data ../shared/data]

Encodes the pairs with labels below ``sts``, cuts each set into halves at random 200 times, chooses
the threshold on one half as a run does (``finetune.evaluation.thresholds``) and measures its F1 on
the other, beside the oracle's: the best F1 that any threshold has there. The oracle has seen what
it is measured on, so that even a threshold from all pairs falls short of it; by how much stands
beside. The bar is a point.

Writes ``benchmarks/results/thresholds.json`` (with ``--sets afqmc,bq`` it keeps what is there of
the others).
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common.runs import RESULTS, ROOT

from finetune.commands.scoring import read
from finetune.evaluation.sts import similarities
from finetune.evaluation.thresholds import Matches, calibrate, quality
from finetune.inference import OnnxEncoder
from finetune.progress import bar
from finetune.records import write_json
from finetune.sets import ScoredSet

SETS = ("afqmc", "atec", "bq", "lcqmc", "pawsx_zh", "oppo_xiaobu")
TRIALS = 200
BAR = 0.01


def gaps(matches: Matches, trials: int = TRIALS) -> dict[str, Any]:
    """How far held-out F1 stays behind the oracle's: mean and 95th percentile over halvings."""
    rng = np.random.default_rng(0)
    whole = calibrate(matches, matches)
    if whole is None:
        raise ValueError("pairs all alike or all different; expected some of both")
    ours, best = [], []
    for _ in range(trials):
        rows = rng.permutation(len(matches.labels))
        select, report = (Matches(matches.cosines[half], matches.labels[half])
                          for half in np.array_split(rows, 2))  # fmt: skip
        found = calibrate(select, report)
        if found is not None:
            oracle = found["oracle"]["f1"]
            ours.append(oracle - found["report"]["f1"])
            best.append(oracle - quality(report, whole["threshold"]).f1)
    return {
        "pairs": len(matches.labels), "alike": float(matches.labels.mean()),
        "f1": whole["oracle"]["f1"], "gap": float(np.mean(ours)),
        "gap_95": float(np.percentile(ours, 95)), "gap_of_all": float(np.mean(best)),
    }  # fmt: skip


def line(name: str, row: dict[str, Any]) -> str:
    """A row of the table, in points."""
    values = " | ".join(f"{100 * row[key]:.2f}" for key in ("f1", "gap", "gap_95", "gap_of_all"))
    return f"| {name} | {row['pairs']:,} | {100 * row['alike']:.0f} | {values} |"


def main() -> int:
    """Encode, halve, print and write; 1 where a set's mean gap is over a point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--precision", default="int8-dynamic")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--sets", default=",".join(SETS))
    asked = parser.parse_args()
    if not (asked.data / "sts").is_dir():
        print(f"skipped: no folder {asked.data / 'sts'}; name the data with --data")
        return 0
    encoder = OnnxEncoder.load(asked.bundle, asked.precision)
    print("| set | pairs | alike % | best F1 | gap | 95 % of gaps below | gap of a threshold from "
          "all pairs |\n" + "| --- " * 7 + "|")  # fmt: skip
    path = RESULTS / "thresholds.json"
    found = json.loads(path.read_text(encoding="utf-8"))["sets"] if path.is_file() else {}
    for name in asked.sets.split(","):
        pairs = read(asked.data / "sts" / name, "all")
        if not isinstance(pairs, ScoredSet):
            raise SystemExit(f"{name}: no pairs")
        with bar(name, len(pairs.prompted)) as progress:
            cosines = similarities(encoder, pairs.pairs, progress).astype(np.float64).round(4)
        labels = np.array([pair.score for pair in pairs.pairs])
        found[name] = gaps(Matches(cosines, labels))
        print(line(name, found[name]), flush=True)
    write_json(path, {"trials": TRIALS, "sets": found})
    return int(any(row["gap"] > BAR for row in found.values()))


if __name__ == "__main__":
    sys.exit(main())
