"""Four domains: what the best recipe gives, beside BM25, the base and what people do otherwise.

python benchmarks/domains.py --data ../shared/data [--only legal-best] [--seeds 3]

Systems: BM25 on characters and bigrams; the starter; the script that everybody writes (`plain.py`,
4,000 pairs drawn at random, bf16 where the machine computes that itself); on one domain
FlagEmbedding's trainer, on the same pairs; `full`, `lora`, `prefix` and `contrastive` on 4,000
pairs; and ``recipes=best_<domain>``. Three seeds of the script and of
the best recipe, one of the others. A domain without a best recipe is told and left out of that.

Everything is scored on the report half of the domain's queries; settings were chosen on the select
half. E-commerce has few queries: there the best recipe is trained five times a seed, each time with
another fifth of them as report half, so that all of them report, and the systems that select
nothing are scored on all. With their first seed the starter, the script and the best recipe are
scored on the other sets too (the report half of general questions, natively Traditional ones, 2,000
pairs of each similarity set, the same for all), and on the legal questions and articles converted
to Traditional. Starter and script are scored as ONNX fp32, which is held against torch first; of
the best recipe that is the bundle it published, in INT8 too for the first seed. Minutes are of what
comes before a trained model (for a recipe its stages but export, evaluation and report, for the
script its one process) and of the whole command, as if nothing of it had been in the cache.

Prints first what the whole plan takes at the pace of what was done on this machine, and what is
missing. Writes one JSON a run to ``benchmarks/results/domains/`` as it ends (seed, versions, scores
of every query, no text), ``table.md``, which ends in the bars, and ``docs/domains.md``. What is
there is not repeated, unless its recipe has changed; a run that fails is told at the end.
"""

import argparse
import dataclasses
import json
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.comparison import read, table
from common.lab import Lab
from common.runs import RESULTS, ROOT, versions
from common.runs import read as read_json
from common.systems import DOMAINS, System, hours, pace, systems
from common.verdicts import page, verdicts

from finetune.config.compose import choices, compose
from finetune.errors import UserError
from finetune.machine import hardware, rates

FOLDER = RESULTS / "domains"
PAGE = ROOT / "docs/domains.md"


def expected(planned: Sequence[System], kept: Mapping[str, Mapping[str, Any]]) -> tuple[float, str]:
    """How many times the table's minutes systems take here, and where that is from.

    Before the first one has ended the product's own table of machines tells it, corrected by what
    its trainings took on this one.
    """
    here = hardware.resolve(compose(["recipes=full"]).hardware)
    label = hardware.label(here)
    if found := pace(planned, kept, label):
        return found, "at the pace of those done here"
    of_table = rates.rate("train", "cpu", 2, "bf16")
    of_this = rates.rate("train", here.device, here.threads, here.precision.value)
    took = rates.corrections(ROOT / ".cache", label).get("train", 1.0)
    return took * of_table / of_this, "none was timed here yet"


def attempt(lab: Lab, system: System) -> dict[str, Any] | None:
    """Train and score a system; None, with why on the terminal, where that fails."""
    try:
        return lab.result(system)
    except UserError as error:
        print(f"{system.label}: {error}", flush=True)
    except Exception:  # noqa: BLE001 - the other runs go on, and this one is told
        traceback.print_exc()
    return None


def write(folder: Path) -> str:
    """Write the tables of what is there; return the longer one."""
    found = read(folder)
    text = f"{table(found)}\n{verdicts(found)}"
    (folder / "table.md").write_text(text, encoding="utf-8")
    if any("best" in runs for runs in found.values()):
        PAGE.write_text(page(found), encoding="utf-8")
    return text


def main() -> int:
    """Run what is missing; print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--work", type=Path, default=ROOT / ".cache/domains")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="runs whose name begins so")
    asked = parser.parse_args()
    if not (asked.data / "legal").is_dir():
        print(f"skipped: no folder {asked.data / 'legal'}; name the data with --data")
        return 0
    recipes, lab = choices("recipes"), Lab(asked.data, asked.work)
    planned = list(systems(asked.seeds, recipes))
    kept = {path.stem: read_json(path) for path in FOLDER.glob("*.json")}
    wanted = [each for each in planned if each.label.startswith(asked.only)]
    missing = [each for each in wanted
               if each.label not in kept or lab.stale(each, kept[each.label])]  # fmt: skip
    times, why = expected(planned, kept)
    print(f"{len(planned)} runs, about {hours(planned, times):.1f} h in all; {len(missing)} to do, "
          f"about {hours(missing, times):.1f} h ({why})", flush=True)  # fmt: skip
    for name in [name for name in DOMAINS if f"best_{name}" not in recipes]:
        print(f"no recipe best_{name}: {name} is left without", flush=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    failed = []
    for system in missing:
        if system.label in kept:
            print(f"{system.label}: made by another command, recipe or data; it runs again")
        result = attempt(lab, system)
        if result is None:
            failed.append(system.label)
            continue
        whole = {**dataclasses.asdict(system), "versions": versions(), **result}
        text = json.dumps(whole, ensure_ascii=False)
        (FOLDER / f"{system.label}.json").write_text(text + "\n", encoding="utf-8")
        write(FOLDER)
    print(write(FOLDER))
    if failed:
        print(f"failed: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
