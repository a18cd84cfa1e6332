"""What copies with slips of the keyboard give on the embedded statutes, over three seeds.

python benchmarks/augment.py [--seeds 3] [key=value …]

Trained on the written questions with copies and without, and scored on those of the report half
twice: as they are, and each with one slip of the kinds that ``augment=typos`` makes (a few are too
short for one). Writes one JSON a run to ``benchmarks/results/augment/`` and ``table.md``: the
differences that the copies make on the same questions, and what slips cost. A run that is there is
not repeated.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from common.lab import bundled
from common.runs import RESULTS, ROOT, difference, run, table

from finetune.commands.scoring import outcomes
from finetune.config.compose import compose
from finetune.data import statutes
from finetune.data.augment import augment
from finetune.data.typos import CHANGES
from finetune.evaluation.artifacts import Outcome
from finetune.records import COPY, Pair
from finetune.sets import EvaluationSet
from finetune.starter import build_starter

FOLDER = RESULTS / "augment"
WORK = ROOT / ".cache/augment"
KINDS = ("none", "typos")
NAME = "statutes"
_SEED = 1_000  # of the slips that are asked; those that are trained on are drawn with a run's own


def asked() -> EvaluationSet:
    """The questions of the report half, in Simplified."""
    return cast(EvaluationSet, statutes.load(full=False).report[0])


def slipped(given: EvaluationSet) -> EvaluationSet:
    """The same questions, each with a slip; without those that have no place for one."""
    config = compose(["recipes=full", "augment=typos"])
    rows = [Pair(key, text, "", NAME) for key, text in given.queries.items()]
    made = augment(rows, (), replace(config.augment, share=1.0), CHANGES, (), _SEED,
                   leak=config.check.leak, near=config.check.near)  # fmt: skip
    copies = {row.id.removesuffix(COPY): row.query for row in made.rows
              if isinstance(row, Pair) and row.id.endswith(COPY)}  # fmt: skip
    return replace(given.only(set(copies)), name=f"{NAME}+slips", queries=copies)


def values(found: Outcome) -> dict[str, float]:
    """NDCG@10 by question."""
    scores = (round(float(each), 4) for each in found.metrics["ndcg@10"])
    return dict(zip(found.queries, scores, strict=True))


def scored(bundle: Path) -> dict[str, dict[str, float]]:
    """What a bundle gets on the questions with slips, and without."""
    sets = [asked(), slipped(asked())]
    ((_, found),) = outcomes(bundle, sets, "fp32")
    return {"clean": values(found[sets[0].name]), "slipped": values(found[sets[1].name])}


def base() -> dict[str, dict[str, float]]:
    """What the starter gets."""
    folder = WORK / "starter"
    if not (folder / "modules.json").is_file():
        build_starter(folder)
    return scored(bundled(folder, "starter", list(asked().queries.values())))


def of_slips(found: dict[str, dict[str, float]]) -> str:
    """What slips cost a model, in words."""
    clean, slips = (
        100 * sum(found[kind][name] for name in found["slipped"]) / len(found["slipped"])
        for kind in ("clean", "slipped")
    )
    return f"{clean:.1f} without slips, {slips:.1f} with"


def main() -> int:
    """Run what is missing; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    given, more = parser.parse_known_args()
    results: dict[str, Any] = {}
    for seed in range(1, given.seeds + 1):
        for kind in KINDS:
            words = ["recipes=full", f"domain={NAME}", "model=starter", f"augment={kind}",
                     "evaluate.general=null", "export.precisions=[fp32]", f"seed={seed}",
                     *more]  # fmt: skip
            name = f"{kind}-{seed}"
            results[name] = run(name, words, FOLDER, also=lambda out: scored(out / "bundle"))
    if None in results.values():
        return 1
    text = "\n\n".join([
        table(results, NAME, timed=False),
        f"questions as they are: {difference(results, *KINDS, 'clean')}",
        f"with a slip each: {difference(results, *KINDS, 'slipped')}",
        f"the same questions: base {of_slips(base())}; "
        + "; ".join(f"{name} {of_slips(found)}" for name, found in results.items()),
    ])  # fmt: skip
    (FOLDER / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
