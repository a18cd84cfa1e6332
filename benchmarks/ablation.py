"""What each ingredient of a best recipe gives: the recipe without it, on the same questions.

python benchmarks/ablation.py --data ../shared/data [--only legal] [key=value …]

Ingredients are what ``recipes/best_<domain>.yaml`` itself says: each part that it chooses
(``mine``, ``merge``, …) with the values that it sets in it, and each value that it sets (a learning
rate, the sources). Taken away, the default stands in its place: what ``configs/default.yaml``
chooses, or the value that the part has by itself. One seed, the usual halves, each run against the
whole recipe on the same report questions (paired); p-values are Holm's, for a domain has several
ingredients. Legal and e-commerce. Prints first which runs there are; about half an hour each on 2
cores, on e-commerce ten minutes. Writes one JSON a run to ``benchmarks/results/ablation/`` as it
ends, and ``table.md``; what is there is not repeated, unless the recipe has changed.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from common.comparison import head, line, points
from common.lab import minutes
from common.runs import RESULTS, ROOT, read, run

from finetune.config import to_dict
from finetune.config.compose import choices, compose
from finetune.evaluation.statistics import Difference, compare, holm

FOLDER = RESULTS / "ablation"
DOMAINS = ("legal", "ecommerce")
WHOLE = "whole"
SAMPLES = 10_000
_CHOICE = "override /"


def ingredients(domain: str) -> dict[str, list[str]]:
    """By ingredient of a domain's best recipe, the overrides that take it away."""
    path = ROOT / f"recipes/best_{domain}.yaml"
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    chosen = {key.removeprefix(_CHOICE): choice for each in recipe.pop("defaults", ())
              for key, choice in each.items() if key.startswith(_CHOICE)}  # fmt: skip
    usual = _usual()
    alone = _values(domain, [f"{group}={choice}" for group, choice in chosen.items()])
    without = _values(domain, [])
    leaves = list(_leaves(recipe))
    found = {}
    for group, choice in chosen.items():
        if choice != usual[group]:
            own = [key for key in leaves if key.startswith(f"{group}.")]
            found[group] = [f"{group}={usual[group]}", *_set(without, own)]
    for key in leaves:
        words = _set(alone, [key])
        if words and words != _set(recipe, [key]):
            found[key] = words
    return found


def _usual() -> Mapping[str, str]:
    """What the default chooses of each group."""
    default = yaml.safe_load((ROOT / "configs/default.yaml").read_text(encoding="utf-8"))
    pairs = (each for each in default["defaults"] if isinstance(each, dict))
    return {group: choice for each in pairs for group, choice in each.items()}


def _values(domain: str, words: Sequence[str]) -> Mapping[str, Any]:
    """The configuration of a domain as its parts are by themselves."""
    return to_dict(compose(["recipes=full", f"domain={domain}", *words]))


def _leaves(content: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _set(values: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """Overrides that give keys these values; a key that is not there needs none."""
    found = []
    for key in keys:
        part = reduce(lambda inner, name: (inner or {}).get(name, {}), key.split("."), values)
        if part != {}:
            found.append(f"{key}={json.dumps(part)}")
    return found


def difference(whole: Mapping[str, float], without: Mapping[str, float]) -> Difference:
    """What the whole recipe gains over one without an ingredient, on the same questions."""
    names = sorted(whole)
    one, other = (np.array([each[name] for name in names]) for each in (without, whole))
    return compare(one, other, SAMPLES)


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a line an ingredient, the largest gain of its domain first."""
    lines = [head("domain", "ingredient", "in its place", "NDCG@10", "the ingredient gives", "p",
                  "training, minutes", "")]  # fmt: skip
    for domain in DOMAINS:
        whole = results.get(f"{domain}-{WHOLE}")
        if whole is None:
            continue
        own = {name.removeprefix(f"{domain}-"): result for name, result in results.items()
               if name.startswith(f"{domain}-") and result is not whole}  # fmt: skip
        made = {name: difference(whole["questions"], result["questions"])
                for name, result in own.items()}  # fmt: skip
        p_values = dict(zip(made, holm([each.p_value for each in made.values()]), strict=True))
        lines.append(line([domain, "the whole recipe", "", _mean(whole), "", "", _minutes(whole),
                           ""]))  # fmt: skip
        for name, each in sorted(made.items(), key=lambda item: -item[1].delta):
            lines.append(line([domain, name, ", ".join(own[name]["without"]), _mean(own[name]),
                               points(each), f"{p_values[name]:.4f}", _minutes(own[name]),
                               _judged(each, p_values[name])]))  # fmt: skip
    return "\n".join(lines) + "\n"


def _judged(made: Difference, p_value: float) -> str:
    if p_value >= 0.05:
        return "not shown to help"
    return "helps" if made.delta > 0 else "harms"


def _mean(result: Mapping[str, Any]) -> str:
    values = result["questions"].values()
    return f"{100 * sum(values) / len(values):.1f}"


def _minutes(result: Mapping[str, Any]) -> str:
    return f"{minutes(result['stages']):.0f}"


def main() -> int:
    """Run what is missing; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--only", default="", help="runs whose name begins so")
    asked, more = parser.parse_known_args()
    if not (asked.data / "legal").is_dir():
        print(f"skipped: no folder {asked.data / 'legal'}; name the data with --data")
        return 0
    planned: dict[str, tuple[str, list[str]]] = {}
    for domain in DOMAINS:
        if f"best_{domain}" not in choices("recipes"):
            print(f"no recipe best_{domain}: {domain} is left out", flush=True)
            continue
        planned[f"{domain}-{WHOLE}"] = domain, []
        planned |= {f"{domain}-{name}": (domain, words)
                    for name, words in ingredients(domain).items()}  # fmt: skip
    print(f"{len(planned)} runs: {', '.join(planned)}", flush=True)
    results, failed = {}, []
    for name, (domain, words) in planned.items():
        kept = FOLDER / f"{name}.json"
        if name.startswith(asked.only):
            whole = [f"recipes=best_{domain}", f"domain={domain}", "model=starter", "seed=1",
                     f"paths.data={asked.data.resolve()}", "export.precisions=[fp32]",
                     "evaluate.speed_texts=30", *more]  # fmt: skip
            made = run(name, [*whole, *words], FOLDER, domain)
            failed += [] if made else [name]
        else:
            made = read(kept) if kept.is_file() else None
        if made:
            results[name] = {**made, "without": words}
            (FOLDER / "table.md").write_text(table(results), encoding="utf-8")
    print(table(results))
    if failed:
        print(f"failed: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
