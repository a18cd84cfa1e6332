"""What `domains.py` must show, and whether it did.

A bar is met or not by the value itself. One that is met is inconclusive all the same where its
interval does not exclude that there is nothing behind it: a gain of 0, a loss larger than the bar.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from common.comparison import (
    BASE,
    ROUNDED,
    Found,
    Runs,
    change,
    elsewhere,
    gap,
    head,
    line,
    moved,
    points,
    prefixes,
    rounding,
    trained_on,
)
from common.runs import ROOT

from finetune.evaluation.statistics import Difference

# Points of NDCG@10 over the starter, by domain, and over the script.
GAIN = {"legal": 4, "medical": 5, "ecommerce": 3, "finance": 4}
OVER_SCRIPT = 3
MEAN_LOSS, WORST_LOSS = 0.5, 1.5  # points, on sets that training was not for
GAP = 1.0  # points between the scripts
INT8_LOSS = 0.5  # percent of fp32's score
MINUTES = 30
MET, MISSED, UNSURE = "met", "not met", "inconclusive"
_TRIED = re.compile(r"\b[Cc]hosen among (\d+) settings\b")
_STATUS = {"passed": MET, "failed": MISSED, "inconclusive": UNSURE}

Bar = tuple[str, str, str, str]  # what, the bar, the value, the verdict


def verdicts(found: Found) -> str:
    """Markdown: each bar that was measured, the value and whether it is met."""
    return "\n".join([head("what", "bar", "value", "verdict"), *map(line, bars(found))]) + "\n"


def bars(found: Found) -> Iterator[Bar]:
    """Yield each bar that was measured."""
    for domain, runs in found.items():
        if "best" in runs:
            yield from _of_domain(domain, runs, found)


def page(found: Found) -> str:
    """The page of the documentation: what each domain gains, then the bars."""
    rows = [line([domain, *(_mean(runs, name) for name in ("bm25", BASE, "plain", "best")),
                  *(_gain(runs, other) for other in (BASE, "plain")), str(len(runs["best"])),
                  tried(domain), f"{_whole(runs['best']):.0f}"])
            for domain, runs in found.items() if "best" in runs]  # fmt: skip
    made = {each["versions"]["machine"] for runs in found.values()
            for name in ("plain", "best") for each in runs.get(name, ())
            if "versions" in each}  # fmt: skip
    return "\n".join([
        "# What the best recipe of each domain gives", "",
        "Written by `benchmarks/domains.py` from `benchmarks/results/domains/`, whose `table.md`",
        "has every system, metric and set. NDCG@10 on questions that no training has seen, nor,",
        "but for what the recipe's header says (of e-commerce: see there), the choice of settings;",
        "in points, mean of the seeds, with 95 % intervals.",
        "The script is sentence-transformers' trainer with its usual values. Minutes are of the",
        f"whole command. Machine: {'; '.join(sorted(made)) or 'unknown'}.", "",
        head("domain", "BM25", "starter", "script", "best recipe", "gain over the starter",
             "over the script", "seeds", "settings tried", "minutes"),
        *rows, "", verdicts(found),
    ])  # fmt: skip


def tried(domain: str) -> str:
    """Among how many settings the best recipe was chosen, by its own header."""
    recipe = ROOT / f"recipes/best_{domain}.yaml"
    header = re.sub(r"\s+#?\s*", " ", recipe.read_text("utf-8")) if recipe.is_file() else ""
    found = _TRIED.search(header)
    return found[1] if found else "unknown"


def _of_domain(domain: str, runs: Runs, found: Found) -> Iterator[Bar]:
    seeds = f"{len(runs['best'])} seeds" if len(runs["best"]) > 1 else "1 seed"
    for other, name, least in ((BASE, "starter", GAIN[domain]), ("plain", "script", OVER_SCRIPT)):
        if made := change(runs, other, "best"):
            yield (f"{domain}, gain over the {name}, {seeds}", f">= +{least}, interval above 0",
                   points(made[0]), _gained(made[0], least / 100))  # fmt: skip
    if domain == "ecommerce" and (made := change(runs, "bm25", "best")):
        yield f"{domain}, above BM25", "> 0", points(made[0]), _gained(made[0], 0)
    yield from _losses(domain, runs, found)
    for run in runs["best"]:
        if there := gap(run):
            wide = abs(there[0].delta) <= GAP / 100
            sure = max(-there[0].ci_low, there[0].ci_high) <= GAP / 100
            yield (f"{domain}, Traditional behind Simplified", f"<= {GAP:g}", points(there[0]),
                   _told(wide, sure=sure))  # fmt: skip
    yield from _rounded(domain, runs)
    minutes = _whole(runs["best"])
    if minutes:
        yield (f"{domain}, whole run, minutes", f"<= {MINUTES}", f"{minutes:.0f}",
               MET if minutes <= MINUTES else MISSED)  # fmt: skip


def _losses(domain: str, runs: Runs, found: Found) -> Iterator[Bar]:
    """Sets that training was not for; those that the recipe's pairs or the base hold do not count.

    The interval of the mean takes the sets for independent.
    """
    run = next((each for each in runs["best"] if "others" in each), {})
    sets = {name: made for name, base in elsewhere(found).items()
            if not trained_on(name, run) and (made := moved(run, name, base))}  # fmt: skip
    if sets:
        mean = sum(made.delta for made in sets.values()) / len(sets)
        half = math.hypot(*((made.ci_high - made.ci_low) / 2 for made in sets.values())) / len(sets)
        whole = Difference(mean, mean - half, mean + half, math.nan)
        yield (f"{domain}, mean of {len(sets)} other sets", f">= -{MEAN_LOSS:g}", points(whole),
               _kept(whole, MEAN_LOSS))  # fmt: skip
    parts = {prefix.rstrip("-"): made[0] for prefix in prefixes(runs)
             if (made := change(runs, BASE, "best", prefix))}  # fmt: skip
    if every := {**sets, **parts}:
        name, worst = min(every.items(), key=lambda each: each[1].delta)
        yield (f"{domain}, worst other set or sub-set: {name}", f">= -{WORST_LOSS:g}",
               points(worst), _kept(worst, WORST_LOSS))  # fmt: skip
    if "traditional" in sets:
        made = sets["traditional"]
        verdict = MET if made.delta >= 0 else UNSURE if made.ci_high >= 0 else MISSED
        yield f"{domain}, natively Traditional, over the starter", ">= 0", points(made), verdict


def _rounded(domain: str, runs: Runs) -> Iterator[Bar]:
    """The INT8 gate; of folds, each too small for a gate, what all of them say together."""
    made = rounding(runs)
    if made is None:
        return
    value = f"{100 * made.delta:+.2f} % [{100 * made.ci_low:+.2f}, {100 * made.ci_high:+.2f}]"
    gates = [each["status"] for run in runs[ROUNDED] for each in run.get("gates", ())]
    verdict = _kept(made, INT8_LOSS)
    if len(gates) == 1:
        value, verdict = f"{value}, gate {gates[0]}", _STATUS.get(gates[0], UNSURE)
    yield f"{domain}, INT8 against fp32", f">= -{INT8_LOSS:g} %", value, verdict


def _gained(made: Difference, least: float) -> str:
    return _told(made.delta >= least and made.delta > 0, sure=made.ci_low > 0)


def _kept(made: Difference, most: float) -> str:
    return _told(made.delta >= -most / 100, sure=made.ci_low >= -most / 100)


def _told(met: bool, *, sure: bool) -> str:
    return MISSED if not met else MET if sure else UNSURE


def _whole(runs: Sequence[Mapping[str, Any]]) -> float:
    """Minutes of the longest whole run; 0 where none was measured."""
    return max((run["whole minutes"] for run in runs if "whole minutes" in run), default=0.0)


def _mean(runs: Runs, name: str) -> str:
    """Mean of all seeds and of the queries that each has."""
    each = [list(run["values"]["ndcg@10"].values()) for run in runs.get(name, ())]
    means = [sum(values) / len(values) for values in each]
    return f"{100 * sum(means) / len(means):.1f}" if means else ""


def _gain(runs: Runs, other: str) -> str:
    made = change(runs, other, "best")
    return points(made[0]) if made else ""
