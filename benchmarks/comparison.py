"""The tables of `domains.py`: systems beside each other on the same queries, seeds together."""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.evaluation.statistics import compare_seeds, interval_of_seeds

ORDER = ("bm25", "starter", "plain", "full", "lora", "prefix", "contrastive", "strict", "best")
_SAMPLES = 10_000

Runs = Mapping[str, Sequence[Mapping[str, Any]]]  # by system, a run a seed


def table(folder: Path) -> str:
    """Markdown: a table of the domains, of their sub-sets, of the other sets, as far as known."""
    found = read(folder)
    parts = [
        [_head("domain", "system", "seeds", "queries", "NDCG@10", "gain over the starter",
               "over the script", "MRR@10", "Recall@100", "INT8", "minutes"),
         *(line for domain, runs in found.items() for line in _systems(domain, runs))],
        [_head("sub-set", "queries", "starter", "script", "best"),
         *(line for runs in found.values() for line in _subsets(runs))],
        [_head("other set", "queries", "starter",
               *(f"{domain}: {name}" for domain in found for name in ("script", "best"))),
         *_elsewhere(found)],
    ]  # fmt: skip
    return "\n\n".join("\n".join(lines) for lines in parts if len(lines) > 1) + "\n"


def read(folder: Path) -> dict[str, Runs]:
    """Runs by domain and system; the folds of a seed are one run."""
    found: dict[str, dict[str, dict[int, dict[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        seeds = found[run["domain"]][run["name"]]
        seeds[run["seed"]] = joined(seeds[run["seed"]], run) if run["seed"] in seeds else run
    return {
        domain: {name: list(systems[name].values()) for name in ORDER if name in systems}
        for domain, systems in found.items()
    }


def joined(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two folds as one run: the queries of both, the minutes of the longer."""
    scores = {metric: {**each, **other["values"][metric]} for metric, each in one["values"].items()}
    return {
        **one,
        "values": scores,
        "int8": {**one["int8"], **other["int8"]},
        "minutes": max(one["minutes"], other["minutes"]),
    }


def aligned(
    runs: Sequence[Mapping[str, Any]], queries: Sequence[str], metric: str = "ndcg@10"
) -> NDArray[np.float64]:
    """Values ``[seeds, queries]``."""
    return np.array([[run["values"][metric][query] for query in queries] for run in runs])


def _systems(domain: str, runs: Runs) -> Iterator[str]:
    for name, same in runs.items():
        queries = sorted(set.intersection(*(set(run["values"]["ndcg@10"]) for run in same)))
        own = aligned(same, queries)
        low, high = interval_of_seeds(own, _SAMPLES)
        cells = [domain, name, str(len(same)), str(len(queries)),
                 f"{100 * own.mean():.1f} [{100 * low:.1f}, {100 * high:.1f}]"]  # fmt: skip
        for other in ("starter", "plain"):
            cells.append(_against(runs.get(other), name, own, queries))
        for metric in ("mrr@10", "recall@100"):
            cells.append(f"{100 * aligned(same, queries, metric).mean():.1f}")
        cells += [_int8(same, queries, own), _minutes(same)]
        yield _line(cells)


def _against(
    other: Sequence[Mapping[str, Any]] | None,
    name: str,
    own: NDArray[np.float64],
    queries: Sequence[str],
) -> str:
    if other is None or ORDER.index(name) <= ORDER.index(other[0]["name"]):
        return ""
    made = compare_seeds(aligned(other, queries), own, _SAMPLES)
    ends = f"[{100 * made.ci_low:+.1f}, {100 * made.ci_high:+.1f}]"
    return f"{100 * made.delta:+.1f} {ends}, p = {made.p_value:.4f}"


def _int8(
    same: Sequence[Mapping[str, Any]], queries: Sequence[str], own: NDArray[np.float64]
) -> str:
    if any("int8" not in run for run in same):
        return ""
    values = np.array([[run["int8"][query] for query in queries] for run in same])
    return f"{100 * (values.mean() / own.mean() - 1):+.2f} %"


def _minutes(same: Sequence[Mapping[str, Any]]) -> str:
    known = [run["minutes"] for run in same if "minutes" in run]
    return f"{statistics.median(known):.0f}" if known else ""


def _subsets(runs: Runs) -> Iterator[str]:
    if not {"starter", "plain", "best"} <= set(runs):
        return
    all_queries = set(runs["best"][0]["values"]["ndcg@10"])
    prefixes = sorted({query.split("-")[0] for query in all_queries})
    for prefix in prefixes if len(prefixes) > 1 else ():
        queries = sorted(each for each in all_queries if each.startswith(f"{prefix}-"))
        means = (100 * aligned(runs[name], queries).mean() for name in ("starter", "plain", "best"))
        yield _line([prefix, str(len(queries)), *(f"{mean:.1f}" for mean in means)])


def _elsewhere(found: Mapping[str, Runs]) -> Iterator[str]:
    starters = [run for runs in found.values() for run in runs.get("starter", ())]
    base = {row["set"]: row for run in starters for row in run.get("others", ())}
    columns = [
        {row["set"]: row["value"] for run in runs.get(name, ()) for row in run.get("others", ())}
        for runs in found.values() for name in ("plain", "best")
    ]  # fmt: skip
    for name, row in base.items():
        cells = [f"{100 * (each[name] - row['value']):+.1f}" if name in each else ""
                 for each in columns]  # fmt: skip
        yield _line([f"{name} ({row['metric']})", str(row["n"]), f"{100 * row['value']:.1f}",
                     *cells])  # fmt: skip


def _head(*names: str) -> str:
    return f"{_line(names)}\n{'| --- ' * len(names)}|"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
