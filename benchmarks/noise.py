"""What leaving out noise gives on e-commerce data: three seeds with and without.

python benchmarks/noise.py --data ../shared/data [--seeds 3] [key=value …]

Pairs of product titles and of customers' talk with services, many of them wrong; the report half
has questions of products. Writes one JSON a run to ``benchmarks/results/noise/`` and the table
beside them, with the difference that the filter makes on the same questions (queries resampled,
the seeds' noise added); a run that is there is not repeated. About 7 minutes a run on 2 cores.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.runs import RESULTS, ROOT, difference, run, table

FOLDER = RESULTS / "noise"


def left_out(results: Mapping[str, Mapping[str, Any] | None]) -> str:
    """What the filter left out, by source."""
    result = next((each for name, each in results.items() if name.startswith("rank") and each), {})
    sources = result.get("data", {}).get("noise by source", {})
    return "; ".join(f"{name}: {count}" for name, count in sources.items())


def main() -> int:
    """Run what is missing; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--seeds", type=int, default=3)
    asked, more = parser.parse_known_args()
    if not (asked.data / "ecommerce").is_dir():
        print(f"skipped: no folder {asked.data / 'ecommerce'}; name the data with --data")
        return 0
    common = ["recipes=contrastive", "domain=ecommerce", "model=starter",
              f"paths.data={asked.data.resolve()}", "evaluate.general=null",
              "export.precisions=[fp32]", *more]  # fmt: skip
    results = {}
    for seed in range(1, asked.seeds + 1):
        for kind in ("none", "rank"):
            words = [*common, f"noise={kind}", f"seed={seed}"]
            results[f"{kind}-{seed}"] = run(f"{kind}-{seed}", words, FOLDER, "ecommerce")
    if None in results.values():
        return 1
    text = "\n\n".join(
        [
            table(results, "ecommerce", timed=False),
            difference(results, "none", "rank"),
            f"left out: {left_out(results)}\n",
        ]
    )
    (FOLDER / "table.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
