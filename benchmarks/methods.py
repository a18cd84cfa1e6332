"""Every training method on the same data: legal and finance, 4,000 pairs, one epoch.

python benchmarks/methods.py --data ../shared/data [--only legal-full] [--seeds 1]

Writes one JSON a run to ``benchmarks/results/methods/`` as it ends, and ``table.md``; a run that is
there is not repeated, so a benchmark that was stopped goes on. Seeds come one after the other, so
that an early stop leaves the whole table with fewer of them. About 12 minutes a run on 2 cores, 8
hours in all. Pairs a second (of a student: texts) are of these runs, with their guard and
checkpoints; memory is the train step's own peak, in a process of its own, its libraries included. A
student has its recipe's epochs. Ends in the bars: a gain whose interval lies above 0, from a step
later than 0 (`GAINING`); cosent better than the base; what a student keeps of its teacher, and how
much faster it is. The other methods are as found.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.runs import RESULTS, ROOT, read, run

FOLDER = RESULTS / "methods"
DOMAINS = ("legal", "finance")
# The methods that are compared over three seeds; the others are run once.
SEEDED = ("full", "lora", "prefix", "contrastive")
METHODS = {
    **{name: [f"recipes={name}"] for name in (*SEEDED, "matryoshka", "distill", "simcse")},
    "warmup": ["recipes=warmup", "generate.pairs=2000"],
    "rounds": ["recipes=contrastive", "mine.rounds=2"],
    "merge": ["recipes=full", "merge=interpolate"],
}
# Their training is another method's, which the cache holds by then; it is not repeated for memory.
SHARED = ("rounds", "merge")
SCORED = ("afqmc", "stsb_zh")
COMMON = ["model=starter", "limit=4000", "export.precisions=[fp32]"]
EPOCH = "train.epochs=1"
GAINING = (*SEEDED, "matryoshka")
HEAD = ("set", "method", "report half", "gain, by seed", "p, largest", "general", "best step",
        "pairs/s", "train memory", "trained", "size", "of its teacher", "speed-up")  # fmt: skip
MIN_KEPT, MIN_SPEEDUP = 0.95, 1.8  # of the teacher's NDCG@10, times its texts a second


def variants(data: Path, seeds: int) -> Iterator[tuple[str, list[str]]]:
    """Names and overrides of all runs, the first seed of every method before the second of any."""
    for seed in range(1, seeds + 1):
        common = [*COMMON, f"paths.data={data.resolve()}", f"seed={seed}"]
        for domain in DOMAINS:
            for method, words in METHODS.items():
                if seed == 1 or method in SEEDED:
                    epochs = [] if method == "distill" else [EPOCH]
                    words = [*words, *epochs, f"domain={domain}"]
                    yield f"{domain}-{method}-{seed}", [*words, *common]
        for domain in SCORED if seed == 1 else ():
            yield f"{domain}-cosent-1", ["recipes=cosent", EPOCH, f"domain={domain}", *common]


def rows(results: Mapping[str, Mapping[str, Any]], domain: str, metric: str) -> Iterator[str]:
    """The table's lines of one domain: the base, then a line a method, seeds together."""
    first = next((r for name, r in results.items() if name.startswith(f"{domain}-")), None)
    if first is None:
        return
    base = _score(first, "base", domain, metric)
    general = _score(first, "base", "general", "ndcg@10")
    cells = ["base", _points(base["value"]), "", "", _general(general), *[""] * (len(HEAD) - 6)]
    yield f"| {domain} | {' | '.join(cells)} |"
    for method in [*METHODS, "cosent"]:
        if same := _same(results, domain, method):
            yield f"| {domain} | {method} | {' | '.join(_cells(same, domain, metric))} |"


def _cells(same: Sequence[Mapping[str, Any]], domain: str, metric: str) -> Iterator[str]:
    """What `HEAD` names, from the score on."""
    tuned = [_score(each, "tuned", domain, metric) for each in same]
    training = [each["training"] for each in same]
    half = statistics.mean(50 * (row["ci_high"] - row["ci_low"]) for row in tuned)
    yield f"{_points(statistics.mean(row['value'] for row in tuned))} ± {half:.1f}"
    yield ", ".join(f"{100 * row['delta']:+.1f}" for row in tuned)
    yield f"{max(row['p_value'] for row in tuned):.4f}"
    general = [_score(each, "tuned", "general", "ndcg@10") for each in same]
    yield _general(*general)
    yield ", ".join(f"{t['best_step']} of {t['steps']}" if t["improved"] else "base"
                    for t in training)  # fmt: skip
    kept = _kept(same[0])
    rate = statistics.median(t["pairs_per_second"] for t in training)
    yield f"{rate:.1f}" if kept is None else f"{rate:.1f} texts"
    peaks = [each["train_peak_bytes"] for each in same if "train_peak_bytes" in each]
    yield f"{max(peaks) / 2**30:.1f} GiB" if peaks else ""
    yield f"{training[0]['trainable_parameters'] / 1e6:.2f} M"
    speeds = {row["artifact"]: row for row in same[0]["speed"]}
    yield f"{speeds['tuned']['bytes'] / 1e6:.0f} MB"
    yield f"{100 * kept:.1f} %" if kept is not None else ""
    yield f"{_speedup(same[0]):.2f}" if kept is not None else ""


def _same(
    results: Mapping[str, Mapping[str, Any]], domain: str, method: str
) -> list[Mapping[str, Any]]:
    """The runs that differ in the seed alone."""
    return [r for name, r in results.items() if name.startswith(f"{domain}-{method}-")]


def _kept(result: Mapping[str, Any]) -> float | None:
    """The student's share of its teacher's NDCG@10; None where there is no student."""
    values = (gate["value"] for gate in result["gates"] if gate["name"] == "distill")
    return next(values, None)


def _speedup(result: Mapping[str, Any]) -> float:
    """How many times the base's texts a second the tuned model encodes."""
    rates = {row["artifact"]: row["texts_per_second"] for row in result["speed"]}
    return float(rates["tuned"] / rates["base"])


def _general(*found: Mapping[str, Any] | None) -> str:
    values = [row["value"] for row in found if row]
    return _points(statistics.mean(values)) if values else ""


def _points(value: float) -> str:
    return f"{100 * value:.1f}"


def _score(
    result: Mapping[str, Any], artifact: str, wanted: str, metric: str
) -> Mapping[str, Any] | None:
    asked = (artifact, wanted, metric)
    found = (row for row in result["scores"]
             if (row["artifact"], row["set"], row["metric"]) == asked)  # fmt: skip
    return next(found, None)


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The Markdown table; points are hundredths of NDCG@10, of Spearman's rho for scored pairs."""
    lines = [f"| {' | '.join(HEAD)} |", "| --- " * len(HEAD) + "|"]
    for domain in DOMAINS:
        lines += rows(results, domain, "ndcg@10")
    for domain in SCORED:
        lines += rows(results, domain, "spearman")
    return "\n".join(lines)


def bars(
    results: Mapping[str, Mapping[str, Any]],
) -> Iterator[tuple[str, float, str, bool]]:
    """Yield each bar that was measured: its words, the least value of all seeds, the limit, met."""
    for domain in DOMAINS:
        for method in GAINING:
            if same := _same(results, domain, method):
                low = min(_score(r, "tuned", domain, "ndcg@10")["delta_low"] for r in same)
                step = min(r["training"]["improved"] and r["training"]["best_step"] for r in same)
                yield f"{domain} {method}, gain from, points", 100 * low, "> 0", low > 0
                yield f"{domain} {method}, best step", step, "> 0", step > 0
        for each in _same(results, domain, "distill"):
            kept, speedup = _kept(each) or 0.0, _speedup(each)
            yield f"{domain} distill, of its teacher", kept, f">= {MIN_KEPT}", kept >= MIN_KEPT
            met = speedup >= MIN_SPEEDUP
            yield f"{domain} distill, speed-up", speedup, f">= {MIN_SPEEDUP}", met
    for domain in SCORED:
        for each in _same(results, domain, "cosent"):
            gain = _score(each, "tuned", domain, "spearman")["delta"]
            yield f"{domain} cosent, gain, points", 100 * gain, "> 0", gain > 0


def main() -> int:
    """Run what is missing; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="runs whose name begins so")
    asked = parser.parse_args()
    if not (asked.data / "legal").is_dir():
        print(f"skipped: no folder {asked.data / 'legal'}; name the data with --data")
        return 0
    results: dict[str, Mapping[str, Any]] = {}
    failed = []
    for name, words in variants(asked.data, asked.seeds):
        kept = FOLDER / f"{name}.json"
        if name.startswith(asked.only):
            found = run(name, words, FOLDER, apart=name.split("-")[1] not in SHARED)
        else:
            found = read(kept) if kept.is_file() else None
        if found is not None:
            results[name] = found
            (FOLDER / "table.md").write_text(table(results) + "\n", encoding="utf-8")
        elif name.startswith(asked.only):
            failed.append(name)
    print(table(results))
    for name, value, limit, met in bars(results):
        print(f"{'met   ' if met else 'MISSED'}  {name}: {value:.3g} (bar {limit})")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
