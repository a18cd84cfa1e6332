"""Run what ``make demo`` runs and print the README's table from its report.

python benchmarks/demo.py

Writes ``benchmarks/results/demo.json``: scores, gates, parity, speeds, what was read, and the time
that the whole took (with an empty cache: ``paths.cache=<new folder>``).
"""

import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUN = ROOT / "runs/demo-benchmark"
SHOWN = ("bm25", "base", "tuned", "onnx-int8-dynamic")


def main() -> int:
    """Run, print, write."""
    command = [
        sys.executable, str(ROOT / "train.py"), "recipes=contrastive", "domain=statutes",
        "model=starter", "generate=documents", "generate.pairs=400", "tracking=none",
        f"run_dir={RUN}", *sys.argv[1:],
    ]  # fmt: skip
    started = time.perf_counter()
    code = subprocess.run(command, check=False).returncode
    seconds = round(time.perf_counter() - started, 1)
    if code not in (0, 3):
        return code
    report = json.loads((RUN / "report.json").read_text(encoding="utf-8"))
    rows = [r for r in report["baselines"] + report["scores"] if r["metric"] == "ndcg@10"]
    print("| NDCG@10 | " + " | ".join(SHOWN) + " |\n| --- |" + " --- |" * len(SHOWN))
    for name in dict.fromkeys(row["set"] for row in rows if "/" not in row["set"]):
        values = {row["artifact"]: row["value"] for row in rows if row["set"] == name}
        cells = " | ".join(f"{100 * values[artifact]:.1f}" for artifact in SHOWN)
        print(f"| {name} | {cells} |")
    kept = ("verdict", "scores", "baselines", "gates", "parity", "speed", "training", "data",
            "stages")  # fmt: skip
    folder = ROOT / "benchmarks/results"
    folder.mkdir(exist_ok=True)
    text = json.dumps(
        {"seconds": seconds} | {key: report[key] for key in kept}, ensure_ascii=False, indent=1
    )
    (folder / "demo.json").write_text(text + "\n", encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
