"""The tables of `domains.py`: systems beside each other on the same queries, seeds together."""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.config.compose import ROOT, compose
from finetune.data.card import read_card
from finetune.data.contamination import plain
from finetune.evaluation.statistics import compare, compare_seeds, interval_of_seeds

BASE = "starter"
BEST = {"onnx-fp32": "best, ONNX fp32", "onnx-int8-dynamic": "best, ONNX INT8"}
ORDER = ("bm25", "starter", "plain", "full", "lora", "prefix", "contrastive", "strict", "best",
         *BEST.values())  # fmt: skip
COMPARED = ("starter", "plain", "best")
METRICS = ("ndcg@10", "mrr@10", "recall@100")
_SAMPLES = 10_000

Runs = Mapping[str, Sequence[Mapping[str, Any]]]  # by system, a run a seed


def table(folder: Path) -> str:
    """Markdown: the domains, their sub-sets, both scripts, the other sets, as far as known."""
    found = read(folder)
    parts = [
        [_head("domain", "system", "seeds", "queries", "NDCG@10", "gain over the starter",
               "over the script", "MRR@10", "Recall@100", "against fp32", "minutes"),
         *(line for domain, runs in found.items() for line in _systems(domain, runs))],
        [_head("sub-set", "queries", "starter", "script", "best"),
         *(line for runs in found.values() for line in _subsets(runs))],
        [_head("domain", "system", "queries", "Simplified", "Traditional", "gap"),
         *(line for domain, runs in found.items() for line in _scripts(domain, runs))],
        [_head("other set", "n", "starter",
               *(f"{domain}: {name}" for domain in found for name in ("script", "best"))),
         *_elsewhere(found)],
    ]  # fmt: skip
    return "\n\n".join("\n".join(lines) for lines in parts if len(lines) > 1) + "\n"


def read(folder: Path) -> dict[str, Runs]:
    """Runs by domain and system; the folds of a seed are one run, exported models systems."""
    found: dict[str, dict[str, dict[int, dict[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        for each in (run, *_exported(run)):
            seeds = found[each["domain"]][each["name"]]
            known = seeds.get(each["seed"])
            seeds[each["seed"]] = joined(known, each) if known else each
    return {
        domain: {name: list(systems[name].values()) for name in ORDER if name in systems}
        for domain, systems in found.items()
    }


def _exported(run: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The artifacts of a run of the best recipe, as systems."""
    for artifact, scores in run.get("artifacts", {}).items():
        if run["name"] == "best":
            own = {key: run[key] for key in ("domain", "seed")}
            yield {**own, "name": BEST[artifact], "values": scores}


@cache
def seen(name: str, base: str = BASE) -> bool:
    """Whether a base was trained on a set, by its own list or by the set's data card."""
    model = compose(["recipes=full", f"model={base}"]).model
    card = ROOT / f"data_cards/{name}.md"
    told = base in read_card(card).contamination if card.is_file() else False
    return told or plain(name) in {plain(each) for each in model.trained_on}


def joined(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two folds as one run: the queries of both, the minutes of the longer."""
    scores = {metric: {**each, **other["values"][metric]} for metric, each in one["values"].items()}
    longer = {key: max(one[key], other[key]) for key in ("minutes",) if key in one}
    return {**other, **one, **longer, "values": scores}


def aligned(
    runs: Sequence[Mapping[str, Any]], queries: Sequence[str], metric: str = "ndcg@10"
) -> NDArray[np.float64]:
    """Values ``[seeds, queries]``."""
    return np.array([[run["values"][metric][query] for query in queries] for run in runs])


def shared(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The queries that all runs have: of a seed that is not done yet some folds are missing."""
    return sorted(set.intersection(*(set(run["values"]["ndcg@10"]) for run in runs)))


def _systems(domain: str, runs: Runs) -> Iterator[str]:
    for name, same in runs.items():
        queries = shared(same)
        score, *others = (_score(aligned(same, queries, metric)) for metric in METRICS)
        own = aligned(same, queries)
        gains = (_against(runs.get(other), name, own, queries) for other in ("starter", "plain"))
        yield _line([_marked(domain), name, str(len(same)), str(len(queries)), score, *gains,
                     *others, _loss(runs, name, own, queries), _minutes(same)])  # fmt: skip


def _score(values: NDArray[np.float64]) -> str:
    """Mean of ``[seeds, queries]`` and its interval, in points."""
    low, high = interval_of_seeds(values, _SAMPLES)
    return f"{100 * values.mean():.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _marked(name: str) -> str:
    return f"{name} (seen)" if seen(name) else name


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


def _loss(runs: Runs, name: str, own: NDArray[np.float64], queries: Sequence[str]) -> str:
    """What INT8 changes of the same trainings, as a share of fp32's score."""
    exact, rounded = (runs.get(BEST[each], ()) for each in ("onnx-fp32", "onnx-int8-dynamic"))
    if name != BEST["onnx-int8-dynamic"] or len(exact) != len(rounded):
        return ""
    before = aligned(exact, queries)
    whole = before.mean() / 100
    made = compare(before.mean(axis=0), own.mean(axis=0), _SAMPLES)
    ends = f"[{made.ci_low / whole:+.2f}, {made.ci_high / whole:+.2f}]"
    return f"{made.delta / whole:+.2f} % {ends}"


def _minutes(same: Sequence[Mapping[str, Any]]) -> str:
    known = [run["minutes"] for run in same if "minutes" in run]
    return f"{statistics.median(known):.0f}" if known else ""


def _subsets(runs: Runs) -> Iterator[str]:
    if not set(COMPARED) <= set(runs):
        return
    all_queries = shared([run for name in COMPARED for run in runs[name]])
    prefixes = sorted({query.split("-")[0] for query in all_queries})
    for prefix in prefixes if len(prefixes) > 1 else ():
        queries = sorted(each for each in all_queries if each.startswith(f"{prefix}-"))
        means = (100 * aligned(runs[name], queries).mean() for name in COMPARED)
        yield _line([prefix, str(len(queries)), *(f"{mean:.1f}" for mean in means)])


def _scripts(domain: str, runs: Runs) -> Iterator[str]:
    """NDCG@10 of ONNX fp32 on the same questions and passages in either script."""
    told = [run for name in COMPARED for run in runs.get(name, ()) if "traditional" in run]
    for run in told:
        queries = sorted(run["traditional"]["ndcg@10"])
        exact = run.get("artifacts", {}).get("onnx-fp32", run["values"])
        scores = [aligned([{"values": each}], queries) for each in (exact, run["traditional"])]
        gap = compare(scores[1][0], scores[0][0], _SAMPLES)
        ends = f"[{100 * gap.ci_low:+.1f}, {100 * gap.ci_high:+.1f}]"
        yield _line([domain, run["name"], str(len(queries)), *map(_score, scores),
                     f"{100 * gap.delta:+.1f} {ends}"])  # fmt: skip


def _elsewhere(found: Mapping[str, Runs]) -> Iterator[str]:
    base = {row["set"]: row for runs in found.values() for row in _others(runs, BASE)}
    columns = [{row["set"]: row["value"] for row in _others(runs, name)}
               for runs in found.values() for name in ("plain", "best")]  # fmt: skip
    for name, row in base.items():
        cells = [f"{100 * (each[name] - row['value']):+.1f}" if name in each else ""
                 for each in columns]  # fmt: skip
        own = f"{100 * row['value']:.1f} ± {50 * (row['high'] - row['low']):.1f}"
        yield _line([f"{_marked(name)}, {row['metric']}", str(row["n"]), own, *cells])


def _others(runs: Runs, name: str) -> Iterator[Mapping[str, Any]]:
    for run in runs.get(name, ()):
        yield from run.get("others", ())


def _head(*names: str) -> str:
    return f"{_line(names)}\n{'| --- ' * len(names)}|"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
