"""The learning curve: what a domain's tuning gains from 500, 1,000, 5,000 and all of its pairs.

python benchmarks/curve.py --data ../shared/data [--only legal] [--sizes 500,1000,5000,all]
    [key=value …]

The starter is tuned on so many pairs of legal and of medical by the domain's best recipe, else by
`contrastive`, with one seed, and measured on the report half. Prints first what it takes, about
three hours on 2 cores. Writes one JSON a run to ``benchmarks/results/curve/`` as it ends,
``table.md``, and ``points.json``, which goes to ``finetune/commands/gains.json``, from which
``finetune check`` tells what to expect. A run that is there is not repeated unless the recipe has
changed.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common.runs import RESULTS, ROOT, read, run, stale

from finetune.config.compose import choices
from finetune.records import write_json

FOLDER = RESULTS / "curve"
DOMAINS = ("legal", "medical")
ALL = "all"
SIZES = ("500", "1000", "5000", ALL)
ASSUMED = 11_000  # pairs that the forecast takes for all of them
# Minutes, about, beside training: the base's part, once; exporting and scoring the tuned model.
ONCE, EACH, PAIRS_A_MINUTE = 10, 10, 500
HEAD = ("domain", "recipe", "pairs", "base", "tuned", "gain", "p", "best step",
        "minutes of training")  # fmt: skip


def variants(data: Path, sizes: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Names and overrides of all runs."""
    for domain in DOMAINS:
        best = f"best_{domain}"
        recipe = best if best in choices("recipes") else "contrastive"
        common = [f"recipes={recipe}", f"domain={domain}", "model=starter", "seed=1",
                  f"paths.data={data.resolve()}", "export.precisions=[fp32]"]  # fmt: skip
        for size in sizes:
            yield f"{domain}-{size}", [*common, f"limit={'null' if size == ALL else size}"]


def pairs(size: str) -> int:
    """Pairs of a size, about."""
    return ASSUMED if size == ALL else int(size)


def hours(missing: list[str]) -> float:
    """Hours that runs take, about."""
    domains, sizes = [*zip(*map(_parts, missing), strict=True)] or [(), ()]
    training = sum(map(pairs, sizes)) / PAIRS_A_MINUTE
    return (ONCE * len(set(domains)) + EACH * len(sizes) + training) / 60


def point(name: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """What a run gained: NDCG@10 on the report half against the base, with its interval."""
    domain, _ = _parts(name)
    score = _scores(result, domain)["tuned"]
    return {"domain": domain, "pairs": result["data"]["pairs"],
            "gain": round(score["delta"], 4), "low": round(score["delta_low"], 4),
            "high": round(score["delta_high"], 4)}  # fmt: skip


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The Markdown table, a line a run; points are hundredths of NDCG@10."""
    lines = [f"| {' | '.join(HEAD)} |", "| --- " * len(HEAD) + "|"]
    for name, result in results.items():
        domain, _ = _parts(name)
        scores, training = _scores(result, domain), result["training"]
        row = scores["tuned"]
        seconds = sum(each["seconds"] for each in result["stages"] if each["name"] == "train")
        ends = f"[{100 * row['delta_low']:+.1f}, {100 * row['delta_high']:+.1f}]"
        step = f"{training['best_step']} of {training['steps']}" if training["improved"] else "base"
        recipe = result["command"].partition("recipes=")[2].split()[0]
        cells = [domain, recipe, f"{result['data']['pairs']:,}",
                 f"{100 * scores['base']['value']:.1f}",
                 f"{100 * row['value']:.1f} ± {50 * (row['ci_high'] - row['ci_low']):.1f}",
                 f"{100 * row['delta']:+.1f} {ends}", f"{row['p_value']:.4f}", step,
                 f"{seconds / 60:.0f}"]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _scores(result: Mapping[str, Any], domain: str) -> dict[str, Mapping[str, Any]]:
    """NDCG@10 by artifact."""
    return {row["artifact"]: row for row in result["scores"]
            if (row["set"], row["metric"]) == (domain, "ndcg@10")}  # fmt: skip


def _parts(name: str) -> tuple[str, str]:
    domain, _, size = name.rpartition("-")
    return domain, size


def main() -> int:
    """Run what is missing; print and write the table and the points."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--only", default="", help="runs whose name begins so")
    parser.add_argument("--sizes", default=",".join(SIZES))
    asked, more = parser.parse_known_args()
    absent = [name for name in DOMAINS if not (asked.data / name).is_dir()]
    if absent:
        print(f"skipped: {asked.data} lacks {', '.join(absent)}; name the data with --data")
        return 0
    wanted = asked.sizes.split(",")
    sizes = sorted({*SIZES, *wanted}, key=pairs)
    kept = {path.stem: read(path) for path in FOLDER.glob("*-*.json")}
    known = {name: [*words, *more] for name, words in variants(asked.data, sizes)}
    chosen = [name for name in known if name.startswith(asked.only) and _parts(name)[1] in wanted]
    missing = [name for name in chosen if name not in kept or stale(kept[name], known[name])]
    print(f"{len(missing)} runs, about {hours(missing):.1f} h", flush=True)
    results: dict[str, Mapping[str, Any]] = {}
    for name, words in known.items():
        found = run(name, words, FOLDER) if name in chosen else kept.get(name)
        if found is not None:
            results[name] = found
            (FOLDER / "table.md").write_text(table(results) + "\n", encoding="utf-8")
            write_json(FOLDER / "points.json", [point(*each) for each in results.items()])
    print(table(results))
    return int(not results.keys() >= set(chosen))


if __name__ == "__main__":
    sys.exit(main())
