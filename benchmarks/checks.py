"""The checks of the data: planted faults that they must find, and a million pairs.

python benchmarks/checks.py [--pairs 1000000]

Faults: 5,000 generated pairs without duplicates, a tenth of which differ from another in a number,
a negation or a content word only, and 500 planted ones. Pairs: all checks that need no model on
50,000, on ``--pairs``, and on 200,000 whose answers are ten times as long, each in a process of its
own; a twentieth answers two queries, and a fiftieth has a fault, which must be told, or stand in
the file of dropped rows. Writes ``benchmarks/results/checks.json``.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from common.questions import edited, pairs, punctuated, trap
from common.runs import RESULTS
from opencc import OpenCC

from finetune.commands.checking import check, configuration
from finetune.config.choices import Duplicates
from finetune.data import leaks
from finetune.data.prepare import inspect, load_train
from finetune.data.rows import DUPLICATE
from finetune.records import read_dicts

BASE, TRAPS = 5_000, 500
KINDS = {"exact": 100, "punctuation": 100, "script": 100, "near": 200}
EVALUATED = 1_000
REPEATED = 20  # every so many pairs, one with the answer of the pair before it
FAULTY = 50  # every so many rows, one with a fault of the next kind
LEFT = {"near duplicates": 0.05}  # share that may be left, by the bar; of other faults none
LONG = 200_000, 10  # pairs, and how often an answer says everything


def faults(seed: int = 0) -> dict[str, Any]:
    """Plant faults and count which are found."""
    draw = random.Random(seed)
    rows = list(pairs(BASE - TRAPS, seed))
    rows += [row for row in (trap(each, draw) for each in draw.sample(rows, TRAPS)) if row]
    converters = [OpenCC(name).convert for name in ("s2t", "s2tw", "s2hk")]
    change: dict[str, Callable[[str], str]] = {
        "exact": lambda text: text,
        "punctuation": lambda text: punctuated(text, draw),
        "script": lambda text: draw.choice(converters)(text),
        "near": lambda text: edited(text, draw),
    }
    kinds = [kind for kind, count in KINDS.items() for _ in range(count)]
    chosen = draw.sample(range(len(rows)), len(kinds))
    planted = {}
    for kind, place in zip(kinds, chosen, strict=True):
        row = dict(rows[place])
        both = ["query", "positive"]
        sides = draw.choice([both, both[:1], both[1:]]) if kind == "near" else both
        row |= {side: change[kind](row[side]) for side in sides}
        rows.append(row)
        planted[len(rows)] = kind, place + 1
    found, false = _found(rows)
    hit = {kind: sum(line in found and found[line] == first
                     for line, (own, first) in planted.items() if own == kind)
           for kind in KINDS}  # fmt: skip
    alarms = sum(line not in planted for line in found) + false
    return {"rows": len(rows), "traps": TRAPS, "planted": KINDS, "found": hit,
            "recall": {kind: hit[kind] / KINDS[kind] for kind in KINDS},
            "false_alarms": alarms, "false_alarm_rate": alarms / BASE}  # fmt: skip


def _found(rows: list[dict[str, str]]) -> tuple[dict[int, int], int]:
    """The line that each duplicate collided with, near ones too; other rows that were dropped."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.jsonl"
        _write(path, rows)
        config = configuration(str(path), None, [])
        loaded, _ = inspect(load_train(config.domain, config.check), config.check)
    from finetune.data import groups

    line = [loaded.lines[each.id] for each in loaded.pairs]
    grouped = groups.group(loaded.pairs, lambda count: None)
    near = groups.near_pairs(loaded.pairs, grouped, config.check.near, lambda count: None)
    found = {line[j]: line[i] for i, j in near}
    other = 0
    for each in loaded.dropped:
        if each.reason in DUPLICATE.values():
            found[each.line] = int(each.collided_with.rpartition(":")[2])
        else:
            other += 1
    return found, other


def repeating(rows: Iterator[dict[str, str]], times: int) -> Iterator[dict[str, str]]:
    """The pairs, some with the answer of the one before, and each answer said so often."""
    answer = ""
    for index, row in enumerate(rows):
        answer = answer if index % REPEATED == REPEATED - 1 else row["positive"] * times
        yield {**row, "positive": answer}


def spoilt(
    rows: Iterator[dict[str, str]], asked: Sequence[str], planted: Counter[str]
) -> Iterator[str]:
    """The rows as lines, one in so many with a fault; counts how many of each were planted.

    Args:
        rows: Pairs.
        asked: Queries of the evaluation.
        planted: Where they are counted, by the reason or the finding under which they are told.
    """
    draw, convert = random.Random(3), OpenCC("s2tw").convert
    faults: dict[str, Callable[[dict[str, str]], dict[str, str]]] = {
        "duplicate": lambda row: row,
        DUPLICATE[Duplicates.punctuation]: lambda row: _both(row, lambda t: punctuated(t, draw)),
        DUPLICATE[Duplicates.script]: lambda row: _both(row, convert),
        "near duplicates": lambda row: {**row, "query": edited(row["query"], draw)},
        leaks.LEAK: lambda row: {**row, "query": draw.choice(asked)},
        "empty text": lambda row: {**row, "positive": " "},
        "not JSON": lambda row: row,
        "HTML remains": lambda row: {**row, "query": f"<b>{row['query']}</b>&nbsp;"},
    }
    last: dict[str, str] = {}
    for index, row in enumerate(rows):
        if index % FAULTY == FAULTY - 1:
            name = list(faults)[index // FAULTY % len(faults)]
            planted[name] += 1
            row = faults[name](last if "duplicate" in name else row)
            line = json.dumps(row, ensure_ascii=False)
            yield line[:-2] if name == "not JSON" else line
        else:
            last = row
            yield json.dumps(row, ensure_ascii=False)


def _both(row: dict[str, str], change: Callable[[str], str]) -> dict[str, str]:
    return {side: change(text) for side, text in row.items()}


def many(count: int, times: int) -> dict[str, Any]:
    """Check so many pairs against an evaluation set, as ``finetune check`` does."""
    planted: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path, dev = Path(folder) / "pairs.jsonl", Path(folder) / "dev"
        dropped = Path(folder) / "dropped.jsonl"
        dev.mkdir()
        asked = list(pairs(EVALUATED, 2))
        lines = spoilt(repeating(pairs(count, 1), times), [row["query"] for row in asked], planted)
        with path.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
        _write(dev / "queries.jsonl", ({"id": str(i), "text": row["query"]}
                                       for i, row in enumerate(asked)))  # fmt: skip
        _write(dev / "corpus.jsonl", ({"id": str(i), "text": row["positive"]}
                                      for i, row in enumerate(asked)))  # fmt: skip
        (dev / "qrels.tsv").write_text("".join(f"{i}\t{i}\t1\n" for i in range(EVALUATED)))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start, used = time.perf_counter(), time.process_time()
        report = check(configuration(str(path), dev, []), dropped)
        listed = Counter(row["reason"] for row in read_dicts(dropped))
    seconds, used = time.perf_counter() - start, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if report["pairs"] + listed.total() != count or listed != Counter(report["dropped"]):
        raise SystemExit("rows are missing")
    told = listed + Counter({each["name"]: each["count"] for each in report["findings"]})
    missed = {name: count for name, count in (planted - told).items()
              if count > LEFT.get(name, 0) * planted[name]}  # fmt: skip
    if missed:
        raise SystemExit(f"planted and not found: {missed}")
    return {
        "pairs": count, "times": times, "planted": planted, "kept": report["pairs"],
        "dropped": report["dropped"],
        "findings": {each["name"]: each["count"] for each in report["findings"]},
        "seconds": round(seconds, 1), "cpu_seconds": round(used, 1),
        "pairs_per_second": round(count / seconds), "pairs_per_cpu_second": round(count / used),
        "peak_gib": round(peak / 2**20, 2), "before_gib": round(before / 2**20, 2),
    }  # fmt: skip


def _write(path: Path, rows: Any) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def main() -> int:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--child", type=int, nargs=2, help="measure here, and print JSON")
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(many(*arguments.child)))
        return 0
    result: dict[str, Any] = {"faults": faults(), "many": []}
    print(json.dumps(result["faults"], indent=1))
    for sizes in ((50_000, 1), LONG, (arguments.pairs, 1)):
        command = [sys.executable, __file__, "--child", *map(str, sizes)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        result["many"].append(json.loads(done.stdout.splitlines()[-1]))
        print(json.dumps(result["many"][-1]))
    path = RESULTS / "checks.json"
    path.write_text(json.dumps(result, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
