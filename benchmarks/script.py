"""Simplified, Traditional and crossed: what mixing and conversion at encode time do for each.

python benchmarks/script.py --data ../shared/data [--only mix-1] [--seeds 1]

The starter is tuned on 4,000 legal pairs, all Simplified, in five ways: as they are (``keep``),
half of them in Traditional (``mix``), or of every second of these the query alone (``crossed``),
with ``encode.script=t2s`` (``t2s``), and with that and half in Traditional (``mix-t2s``). Each is
measured on the report half of the legal questions in both scripts and crossed, and on
``traditional``, questions and passages that were written in Traditional: as they are, in
Simplified, and crossed.

Writes two JSON files a run to ``benchmarks/results/script/`` as it ends, and ``table.md``; what is
there is not repeated, so a benchmark that was stopped goes on.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.runs import RESULTS, ROOT, run
from common.runs import read as read_json

from finetune import pipeline
from finetune.commands.scoring import read
from finetune.config.compose import compose
from finetune.data.script import Scripts, in_scripts
from finetune.evaluation.artifacts import Outcome, score
from finetune.evaluation.remembered import Remembering
from finetune.inference import OnnxEncoder
from finetune.inference.script import converter
from finetune.progress import bar
from finetune.report.scripts import sections
from finetune.script import is_mixed
from finetune.stage import plan

FOLDER = RESULTS / "script"
WAYS = {
    "keep": ["evaluate.scripts=true"],
    "mix": ["script=mix:0.5"],
    "crossed": ["script=mix:0.5", "opencc.crossed=0.5"],
    "t2s": ["encode.script=t2s"],
    "mix-t2s": ["script=mix:0.5", "encode.script=t2s"],
}
NATIVE = "traditional"
COMMON = ["recipes=contrastive", "domain=legal", "model=starter", "train.epochs=1",
          "export.precisions=[fp32]", "evaluate.general=null"]  # fmt: skip
_SAMPLES = 10_000


def variants(data: Path, seeds: int, limit: int) -> Iterator[tuple[str, list[str]]]:
    """Names and overrides of all runs, the first seed of every way before the second of any."""
    for seed in range(1, seeds + 1):
        for name, words in WAYS.items():
            common = [*COMMON, f"limit={limit}", f"paths.data={data.resolve()}", f"seed={seed}"]
            yield f"{name}-{seed}", [*words, *common]


def native(name: str, overrides: Sequence[str], data: Path) -> list[dict[str, Any]]:
    """Score base and tuned model of a run on the natively Traditional set, or read what was kept.

    Returns:
        Rows as ``scripts`` of ``report.json``.
    """
    kept = FOLDER / f"{name}-{NATIVE}.json"
    if kept.is_file():
        return list(json.loads(kept.read_text(encoding="utf-8")))
    config = pipeline.resolve(compose([*overrides, "tracking=none"]))
    planned = plan(pipeline.steps_of(config), config.paths.cache)
    steps = {each.step.name: each.folder / "bundle" for each in planned}
    given = read(data / NATIVE, "all")
    sets = [given, *in_scripts(given, Scripts.of(config.script, config.opencc, None))]
    outcomes: dict[str, dict[str, Outcome]] = {}
    # The base is the same however rows are mixed: it is told of the runs that mix none.
    bases = [] if is_mixed(config.script) else [("base", "export-base")]
    for artifact, step in (*bases, ("tuned", "export")):
        bundled = OnnxEncoder.load(steps[step], "fp32", config.hardware.threads)
        encoder = Remembering(bundled, converter(bundled.info.script))
        for each in sets:
            with bar(f"{name}: {artifact}: {each.name}", len(each.prompted)) as progress:
                found = score(encoder, each, progress=progress)
            outcomes.setdefault(artifact, {})[each.name] = found
    rows = sections(outcomes, [given.name], _SAMPLES, config.seed)
    kept.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return rows


def table(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The Markdown table: by set and way the mean over seeds, in points of NDCG@10.

    Args:
        results: Rows of ``scripts`` by name of the run.
    """
    head = ["set", "way", "Simplified", "Traditional", "crossed", "gap", "gap, by seed",
            "same top 10", "same top 10, crossed"]  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for name in ("legal", NATIVE):
        for artifact, ways in (("base", ("keep", "t2s")), ("tuned", tuple(WAYS))):
            for way in ways:
                same = [row for run_name, rows in results.items()
                        if run_name.rpartition("-")[0] == way for row in rows
                        if (row["set"], row["artifact"]) == (name, artifact)]  # fmt: skip
                label = way if artifact == "tuned" else {"keep": "base", "t2s": "base, t2s"}[way]
                if same:
                    lines.append(f"| {name} | {label} | {' | '.join(_cells(same))} |")
    return "\n".join(lines)


def _cells(same: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for script in ("simplified", "traditional", "crossed"):
        half = statistics.mean(50 * (r[script]["ci_high"] - r[script]["ci_low"]) for r in same)
        yield f"{100 * statistics.mean(r[script]['value'] for r in same):.1f} ± {half:.1f}"
    yield f"{100 * statistics.mean(r['gap'] for r in same):+.1f}"
    yield ", ".join(
        f"{100 * r['gap']:+.1f} [{100 * r['gap_low']:+.1f}, {100 * r['gap_high']:+.1f}]"
        for r in same
    )
    for key in ("overlap_traditional", "overlap_crossed"):
        yield f"{statistics.mean(r[key] for r in same):.3f}"


def main() -> int:
    """Run what is missing; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=4_000, help="training pairs")
    parser.add_argument("--only", default="", help="runs whose name begins so; others are read")
    asked = parser.parse_args()
    missing = [name for name in ("legal", NATIVE) if not (asked.data / name).is_dir()]
    if missing:
        print(f"skipped: {asked.data} lacks {', '.join(missing)}; name the data with --data")
        return 0
    results: dict[str, Sequence[Mapping[str, Any]]] = {}
    failed = []
    for name, words in variants(asked.data, asked.seeds, asked.limit):
        kept = FOLDER / f"{name}.json"
        if name.startswith(asked.only):
            found = run(name, words, FOLDER)
        elif kept.is_file():
            found = read_json(kept)
        else:
            continue
        if found is None:
            failed.append(name)
            continue
        results[name] = [*found["scripts"], *native(name, words, asked.data)]
        (FOLDER / "table.md").write_text(table(results) + "\n", encoding="utf-8")
    print(table(results))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
