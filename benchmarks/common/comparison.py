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
from finetune.evaluation.statistics import (
    Difference,
    compare,
    compare_seeds,
    interval,
    interval_of_seeds,
)

BASE = "starter"
EXACT, ROUNDED = "best, ONNX fp32", "best, ONNX INT8"
ARTIFACTS = {"onnx-fp32": EXACT, "onnx-int8-dynamic": ROUNDED}
ORDER = ("bm25", "starter", "plain", "flagembedding", "full", "lora", "prefix", "contrastive",
         "strict", "best", EXACT, ROUNDED)  # fmt: skip
COMPARED = ("starter", "plain", "best")
METRICS = ("ndcg@10", "mrr@10", "recall@100")
# Training sources and the other sets that are theirs under another name. SimCLUE was put together
# from most open Chinese sets of similarity.
SIMILARITY = ("afqmc", "atec", "bq", "chinese_sts", "lcqmc", "oppo_xiaobu", "pawsx_zh", "stsb_zh")
SAME = {"kuake-qqr": ("medical_qqr",), "qbqtc": ("general",), "qbqtc-shopping": ("general",),
        "simclue": SIMILARITY}  # fmt: skip
NOTE = """\
Points are hundredths; intervals hold 95 %. E-commerce is trained five times a seed, each time with
another fifth of its questions as report half. Its settings were chosen on select questions of one
division, which the other folds report on: its gain is not of questions that no choice has seen.
Similarity sets are 2,000 pairs each, drawn once. (seen): the base, or what the system was trained
on, holds pairs of that set, or may."""
_SAMPLES = 10_000

Run = Mapping[str, Any]
Runs = Mapping[str, Sequence[Run]]  # by system, a run a seed
Found = Mapping[str, Runs]  # by domain


def table(found: Found) -> str:
    """Markdown: the domains, their sub-sets, both scripts, the other sets, as far as known."""
    parts = [
        [head("domain", "system", "seeds", "queries", "NDCG@10", "gain over the starter",
              "over the script", "MRR@10", "Recall@100", "against fp32", "minutes",
              "whole run, minutes"),
         *(row for domain, runs in found.items() for row in _systems(domain, runs))],
        [head("domain", "sub-set", "queries", *COMPARED, "best over the starter"),
         *(row for domain, runs in found.items() for row in _subsets(domain, runs))],
        [head("domain", "system", "queries", "Simplified", "Traditional", "gap"),
         *(row for domain, runs in found.items() for row in _scripts(domain, runs))],
        [head("other set", "n", "BM25", "starter",
              *(f"{domain}: {name}" for domain in found for name in ("script", "best"))),
         *_elsewhere(found)],
    ]  # fmt: skip
    shown = ["\n".join(lines) for lines in parts if len(lines) > 1]
    return "\n\n".join([*shown, NOTE]) + "\n"


def read(folder: Path) -> Found:
    """Runs by domain and system; the folds of a seed are one run, exported models systems."""
    found: dict[str, dict[str, dict[int, Run]]] = defaultdict(lambda: defaultdict(dict))
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


def _exported(run: Run) -> Iterator[Run]:
    """The artifacts of a run of the best recipe, as systems."""
    for artifact, scores in run.get("artifacts", {}).items():
        if run["name"] == "best":
            own = {key: run[key] for key in ("domain", "seed")}
            gates = [each for each in run.get("gates", ()) if each["name"] == "int8"]
            yield {**own, "name": ARTIFACTS[artifact], "values": scores, "gates": gates}


def joined(one: Run, other: Run) -> Run:
    """Two folds as one run: the queries of both, the minutes of the longer."""
    scores = {metric: {**each, **other["values"][metric]} for metric, each in one["values"].items()}
    longer = {key: max(one[key], other[key])
              for key in ("minutes", "whole minutes") if key in one}  # fmt: skip
    gates = [*one.get("gates", ()), *other.get("gates", ())]
    return {**other, **one, **longer, "values": scores, "gates": gates}


@cache
def seen(name: str, base: str = BASE) -> bool:
    """Whether a base was trained on a set, by its own list or by the set's data card."""
    model = compose(["recipes=full", f"model={base}"]).model
    card = ROOT / f"data_cards/{name}.md"
    told = base in read_card(card).contamination if card.is_file() else False
    return told or plain(name) in {plain(each) for each in model.trained_on}


def trained_on(name: str, run: Run) -> bool:
    """Whether a system was trained on pairs of another set: its base, or its pairs and mixes."""
    sources = run.get("sources", ())
    names = {plain(each) for source in sources for each in (source, *SAME.get(source, ()))}
    return seen(name) or plain(name) in names


def shared(runs: Sequence[Run]) -> list[str]:
    """The queries that all runs have: of a seed that is not done yet some folds are missing."""
    return sorted(set.intersection(*(set(run["values"]["ndcg@10"]) for run in runs)))


def aligned(
    runs: Sequence[Run], queries: Sequence[str], metric: str = "ndcg@10"
) -> NDArray[np.float64]:
    """Values ``[seeds, queries]``."""
    return np.array([[run["values"][metric][query] for query in queries] for run in runs])


def change(runs: Runs, before: str, after: str, prefix: str = "") -> tuple[Difference, int] | None:
    """What one system changes against another, on so many queries that both have.

    Args:
        runs: Of a domain.
        before: The system held against.
        after: The other.
        prefix: Of the queries' ids, where a sub-set is asked for.

    Returns:
        None where one of them is not there.
    """
    both = runs.get(before, ()), runs.get(after, ())
    if not all(both):
        return None
    queries = [each for each in shared([*both[0], *both[1]]) if each.startswith(prefix)]
    if not queries:
        return None
    first, second = (aligned(same, queries) for same in both)
    return compare_seeds(first, second, _SAMPLES), len(queries)


def rounding(runs: Runs) -> Difference | None:
    """What INT8 changes of the same trainings, as a share of fp32's score."""
    rounded = runs.get(ROUNDED, ())
    seeds = {run["seed"] for run in rounded}
    exact = [run for run in runs.get(EXACT, ()) if run["seed"] in seeds]
    if not rounded:
        return None
    queries = shared([*exact, *rounded])
    before, after = (aligned(same, queries).mean(axis=0) for same in (exact, rounded))
    share = before.mean()
    made = compare(before, after, _SAMPLES)
    return Difference(made.delta / share, made.ci_low / share, made.ci_high / share, made.p_value)


def gap(run: Run) -> tuple[Difference, NDArray[np.float64], NDArray[np.float64]] | None:
    """Traditional to Simplified of ONNX fp32 on the same questions and passages, and the scores.

    Scores are ``[1, queries]``, Simplified first.
    """
    if "traditional" not in run:
        return None
    queries = sorted(run["traditional"]["ndcg@10"])
    exact = run.get("artifacts", {}).get("onnx-fp32", run["values"])
    one, other = (aligned([{"values": each}], queries) for each in (exact, run["traditional"]))
    return compare(other[0], one[0], _SAMPLES), one, other


def elsewhere(found: Found) -> dict[str, Run]:
    """What the starter got on each other set."""
    runs = (run for runs in found.values() for run in runs.get(BASE, ()))
    return {name: each for run in runs for name, each in run.get("others", {}).items()}


def moved(run: Run, name: str, base: Run) -> Difference | None:
    """What a system changes on another set against the starter; None where it was not scored."""
    own = run.get("others", {}).get(name)
    if own is None:
        return None
    first, second = _named(base), _named(own)
    queries = sorted(first.keys() & second.keys())
    return compare(*(np.array([each[query] for query in queries]) for each in (first, second)),
                   _SAMPLES)  # fmt: skip


def _named(row: Run) -> dict[Any, float]:
    """What each query got; pairs, which have no names here, are called by their places."""
    given = row["values"]
    return given if isinstance(given, dict) else dict(enumerate(given))


def points(made: Difference) -> str:
    """A difference in points, with its interval."""
    return f"{100 * made.delta:+.1f} [{100 * made.ci_low:+.1f}, {100 * made.ci_high:+.1f}]"


def _systems(domain: str, runs: Runs) -> Iterator[str]:
    for name, same in runs.items():
        queries = shared(same)
        score, *others = (_score(aligned(same, queries, metric)) for metric in METRICS)
        gains = (_gain(runs, other, name) for other in ("starter", "plain"))
        yield line([f"{domain} (seen)" if seen(domain) else domain, name, str(len(same)),
                    str(len(queries)), score, *gains, *others, _loss(runs, name),
                    *(_longest(same, key) for key in ("minutes", "whole minutes"))])  # fmt: skip


def _score(values: NDArray[np.float64]) -> str:
    """Mean of ``[seeds, queries]`` and its interval, in points."""
    low, high = interval_of_seeds(values, _SAMPLES)
    return f"{100 * values.mean():.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _gain(runs: Runs, other: str, name: str) -> str:
    made = change(runs, other, name) if ORDER.index(name) > ORDER.index(other) else None
    return f"{points(made[0])}, p = {made[0].p_value:.4f}" if made else ""


def _loss(runs: Runs, name: str) -> str:
    made = rounding(runs) if name == ROUNDED else None
    if made is None:
        return ""
    ends = f"[{100 * made.ci_low:+.2f}, {100 * made.ci_high:+.2f}]"
    return f"{100 * made.delta:+.2f} % {ends}"


def _longest(same: Sequence[Run], key: str) -> str:
    known = [run[key] for run in same if key in run]
    return f"{statistics.median(known):.0f}" if known else ""


def prefixes(runs: Runs) -> list[str]:
    """What the ids of a domain's sub-sets begin with; none where there are no sub-sets."""
    if not {BASE, "best"} <= set(runs):
        return []
    queries = shared([run for name in COMPARED for run in runs.get(name, ())])
    found = sorted({query.split("-")[0] for query in queries if "-" in query})
    return [f"{each}-" for each in found] if len(found) > 1 else []


def _subsets(domain: str, runs: Runs) -> Iterator[str]:
    for prefix in prefixes(runs):
        made = change(runs, BASE, "best", prefix)
        every = shared([run for name in COMPARED for run in runs.get(name, ())])
        queries = [each for each in every if each.startswith(prefix)]
        means = (f"{100 * aligned(runs[name], queries).mean():.1f}" if name in runs else ""
                 for name in COMPARED)  # fmt: skip
        if made:
            yield line([domain, prefix.rstrip("-"), str(len(queries)), *means,
                        f"{points(made[0])}, p = {made[0].p_value:.4f}"])  # fmt: skip


def _scripts(domain: str, runs: Runs) -> Iterator[str]:
    for run in (run for name in COMPARED for run in runs.get(name, ())):
        if found := gap(run):
            made, *scores = found
            yield line([domain, run["name"], str(scores[0].shape[1]), *map(_score, scores),
                        points(made)])  # fmt: skip


def _elsewhere(found: Found) -> Iterator[str]:
    lexical = {name: row for runs in found.values() for run in runs.get("bm25", ())
               for name, row in run.get("others", {}).items()}  # fmt: skip
    columns = [next((run for run in runs.get(name, ()) if "others" in run), {})
               for runs in found.values() for name in ("plain", "best")]  # fmt: skip
    for name, base in elsewhere(found).items():
        own = np.array([*_named(base).values()])
        low, high = interval(own, 2_000)
        score = f"{100 * own.mean():.1f} ± {50 * (high - low):.1f}{_mark(name, {})}"
        words = f"{100 * np.mean([*_named(lexical[name]).values()]):.1f}" if name in lexical else ""
        cells = (f"{points(made)}{_mark(name, run)}" if (made := moved(run, name, base)) else ""
                 for run in columns)  # fmt: skip
        yield line([f"{name}, {base['metric']}", str(len(own)), words, score, *cells])


def _mark(name: str, run: Run) -> str:
    return " (seen)" if trained_on(name, run) else ""


def head(*names: str) -> str:
    """The first two lines of a table."""
    return f"{line(names)}\n{'| --- ' * len(names)}|"


def line(cells: Sequence[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"
