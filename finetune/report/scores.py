"""The score rows of ``report.json``: each artifact on each set and each slice of it."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.evaluation.artifacts import Outcome
from finetune.evaluation.slices import FEWEST
from finetune.evaluation.statistics import compare, holm, interval
from finetune.records import Score
from finetune.report.facts import BASELINES, MAIN, METRIC_NAMES, Outcomes, in_order, is_cut

_SLICES = range(2, 13)  # one slice is the set; more than 12 are ids, not kinds

_WHERE = ("machine", "threads")  # of a speed

Rows = NDArray[np.int64]
Kinds = Mapping[str, Mapping[str, Sequence[str]]]
Values = NDArray[np.float64]


def measure(outcomes: Outcomes, samples: int, seed: int, kinds: Kinds | None = None) -> list[Score]:
    """Score every artifact on every set and slice, and compare it with the base.

    Baselines (BM25) and the base itself are not compared: delta and p-value are None.
    Slices are scored by the metric that decides alone.

    Args:
        outcomes: By artifact and set.
        samples: Of the bootstrap and the randomisation test.
        seed: Of both.
        kinds: Ids by slice of each set, as `finetune.evaluation.slices` finds them; slices by the
            prefix of the ids are found here.
    """
    base = outcomes.get("base", {})
    return _adjusted([
        score
        for artifact, by_set in outcomes.items()
        for name, outcome in by_set.items()
        for score in _measure_set(
            artifact,
            name,
            outcome,
            None if artifact in ("base", *BASELINES) else base.get(name),
            samples,
            seed,
            (kinds or {}).get(name, {}),
        )
    ])  # fmt: skip


def slices(queries: Sequence[str]) -> dict[str, Rows]:
    """Group queries by the text before the last ``-`` of their id: ``family-001`` is ``family``.

    Returns:
        Row numbers by prefix, for prefixes with at least 20 queries; empty where fewer than 2 or
        more than 12 prefixes have so many.
    """
    rows: dict[str, list[int]] = defaultdict(list)
    for row, query in enumerate(queries):
        prefix, dash, _ = query.rpartition("-")
        if dash and prefix:
            rows[prefix].append(row)
    large = {key: np.array(rows[key]) for key in sorted(rows) if len(rows[key]) >= FEWEST}
    return large if len(large) in _SLICES else {}


def rows_of(kinds: Mapping[str, Sequence[str]], queries: Sequence[str]) -> dict[str, Rows]:
    """Row numbers of each slice among the queries that were scored."""
    places = {query: row for row, query in enumerate(queries)}
    found = {key: [places[each] for each in ids if each in places] for key, ids in kinds.items()}
    return {key: np.array(rows) for key, rows in found.items() if rows}


def speed_rows(
    speeds: Mapping[str, Mapping[str, Any]], price: float | None
) -> list[dict[str, Any]]:
    """Rows of ``speed``: one an artifact, with vectors an hour, and what a million of them cost.

        price_per_million = price / vectors_per_hour x 1,000,000

    Args:
        speeds: ``latency_ms``, ``texts_per_second`` and ``bytes`` by artifact; on which machine is
            told by `timed_on`.
        price: Of an hour of the machine; None leaves ``price_per_million`` out.
    """
    rows = []
    for artifact in in_order(speeds):
        hourly = 3600 * float(speeds[artifact]["texts_per_second"])
        numbers = {key: value for key, value in speeds[artifact].items() if key not in _WHERE}
        row = {"artifact": artifact, **numbers, "vectors_per_hour": round(hourly)}
        if price is not None and hourly > 0:
            row["price_per_million"] = price / hourly * 1e6
        rows.append(row)
    return rows


def timed_on(speeds: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Where speeds were measured: ``machine``, its ``threads``, and the ``artifacts`` timed there.

    More than one where the cache holds what another machine has timed.
    """
    found: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for artifact in in_order(speeds):
        if where := tuple(speeds[artifact][key] for key in _WHERE if key in speeds[artifact]):
            found[where].append(artifact)
    return [dict(zip(_WHERE, where, strict=True)) | {"artifacts": artifacts}
            for where, artifacts in found.items()]  # fmt: skip


@dataclass(frozen=True)
class Lengths:
    """Scores of one set by artifact and length of the vector, whole first, then the longest."""

    set: str
    metric: str
    dims: list[str]
    rows: dict[str, list[Score]]


def by_length(rows: Sequence[Score]) -> list[Lengths]:
    """Gather what decides of the artifacts whose vectors were cut, a table a set; no slices."""
    tables = []
    cut_sets = dict.fromkeys((row.set, row.metric) for row in rows
                             if is_cut(row.artifact) and row.metric in MAIN)  # fmt: skip
    for name, metric in cut_sets:
        found = {row.artifact: row for row in rows if (row.set, row.metric) == (name, metric)}
        cut = [artifact.partition("@") for artifact in in_order(found) if is_cut(artifact)]
        dims = list(dict.fromkeys(dim for _, _, dim in cut))
        lines = {artifact: [found[artifact], *(found[f"{artifact}@{dim}"] for dim in dims)]
                 for artifact in dict.fromkeys(artifact for artifact, _, _ in cut)}  # fmt: skip
        tables.append(Lengths(name, METRIC_NAMES[metric], ["whole", *dims], lines))
    return [table for table in tables if "/" not in table.set]


def paired(one: Outcome, other: Outcome, metric: str | None = None) -> tuple[Values, Values]:
    """Return the values of two artifacts on the same queries, by default of what decides.

    Raises:
        ValueError: They were not measured on the same queries in the same order.
    """
    if one.queries != other.queries:
        raise ValueError(
            f"{len(one.queries)} and {len(other.queries)} queries that differ; expected both "
            "artifacts to be measured on the same set"
        )
    return one.metrics[metric or one.main], other.metrics[metric or one.main]


def by_question(pairs: list[tuple[Outcome, Outcome]]) -> tuple[Values, Values]:
    """Mean values of two artifacts for each query id over the sets that ask it.

    A question asked in two scripts is one observation: counted twice, it would make an interval
    look narrower than it is.
    """
    rows: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for one, other in pairs:
        for query, *values in zip(one.queries, *paired(one, other), strict=True):
            rows[query].append((float(values[0]), float(values[1])))
    means = np.array([np.mean(values, axis=0) for values in rows.values()])
    return means[:, 0], means[:, 1]


def _measure_set(
    artifact: str,
    name: str,
    outcome: Outcome,
    base: Outcome | None,
    samples: int,
    seed: int,
    kinds: Mapping[str, Sequence[str]],
) -> Iterator[Score]:
    everything = np.arange(len(outcome.queries))
    parts = [(name, metric, everything) for metric in outcome.metrics]
    for key, rows in (slices(outcome.queries) | rows_of(kinds, outcome.queries)).items():
        parts.append((f"{name}/{key}", outcome.main, rows))
    for part, metric, rows in parts:
        values = outcome.metrics[metric][rows]
        compared: dict[str, float] = {}
        if base is not None:
            before, after = paired(base, outcome, metric)
            found = compare(before[rows], after[rows], samples, seed)
            compared = {"delta": found.delta, "p_value": found.p_value,
                        "delta_low": found.ci_low, "delta_high": found.ci_high}  # fmt: skip
        # A resampled mean of a correlation's values may pass its bounds.
        low, high = np.clip(interval(values, samples, seed), -1, 1).tolist()
        yield Score(artifact, part, metric, float(values.mean()), len(rows), low, high, **compared)


def _adjusted(rows: list[Score]) -> list[Score]:
    """Add to each p-value what it is among all sets, or all slices, by the same metric."""
    families: dict[tuple[str, str, bool], dict[int, float]] = defaultdict(dict)
    for place, row in enumerate(rows):
        if row.p_value is not None:
            families[row.artifact, row.metric, "/" in row.set][place] = row.p_value
    for found in families.values():
        for place, value in zip(found, holm(list(found.values())), strict=True):
            rows[place] = replace(rows[place], p_holm=value)
    return rows
