"""Tasks of C-MTEB on local data: mteb's score, ours on the same pairs, and what was published.

python benchmarks/cmteb.py --bundle runs/<run>/bundle [--data ../shared/data] [--precision fp32]

Lays the sets of ``sts`` out as the hub has ATEC, BQ, LCQMC, PAWSX, STSB and AFQMC, the set
``general`` as it has CovidRetrieval, and each general query with its answers and nine other titles
as it has T2Reranking; then runs each task as ``evaluate=cmteb`` does. Published scores are the
embedded starter's base's (intfloat/multilingual-e5-small); of the last two tasks there are none,
for the texts are others.

Writes ``benchmarks/results/cmteb.json``, by precision, and keeps what is there of other tasks; ends
with 1 where mteb and we differ. On the same cosines the two agree to 1e-6
(``tests/evaluation/test_mteb.py``); here mteb computes its own in float32, by which pairs that all
but tie change places, and rounds means of retrieval to 5 digits.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common.runs import RESULTS, ROOT

from finetune.commands.scoring import read
from finetune.evaluation import cmteb
from finetune.evaluation.artifacts import score
from finetune.inference import OnnxEncoder
from finetune.records import write_json
from finetune.sets import AnySet, EvaluationSet, RerankingSet, ScoredSet

BASE = "intfloat/multilingual-e5-small"
PAIRS = {"ATEC": ("atec", "test"), "BQ": ("bq", "test"), "LCQMC": ("lcqmc", "test"),
         "PAWSX": ("pawsx_zh", "test"), "STSB": ("stsb_zh", "test"),
         "AFQMC": ("afqmc", "validation")}  # fmt: skip
SEARCHES = ("CovidRetrieval", "T2Reranking")
OTHERS = 9  # titles beside a query's answers
NEAR = 1e-4

Tables = Mapping[str, Sequence[Mapping[str, Any]]]


def sets(data: Path, names: Sequence[str]) -> Iterator[tuple[str, str, AnySet, Tables]]:
    """Yield task, split, our set and the hub's tables of it."""
    for name in names:
        if name in PAIRS:
            folder, split = PAIRS[name]
            pairs = read(data / "sts" / folder, "all")
            if isinstance(pairs, ScoredSet):
                rows = [{"sentence1": p.a, "sentence2": p.b, "score": p.score} for p in pairs.pairs]
                yield name, split, pairs, {"default": rows}
    general = read(data / "general", "all")
    if isinstance(general, EvaluationSet):
        for name in SEARCHES:
            if name in names:
                each = general if name == SEARCHES[0] else candidates(general)
                yield name, "dev", each, tables(each)


def candidates(given: EvaluationSet) -> RerankingSet:
    """Each query with its answers and some other documents, drawn by a fixed seed."""
    rng, corpus = np.random.default_rng(0), list(given.corpus)
    found = {}
    for query, relevance in given.qrels.items():
        others = [corpus[row] for row in rng.integers(0, len(corpus), OTHERS)]
        found[query] = tuple(dict.fromkeys([*relevance, *others]))
    qrels = {query: {name: given.qrels[query].get(name, 0) for name in names}
             for query, names in found.items()}  # fmt: skip
    queries = {query: given.queries[query] for query in found}
    return RerankingSet(given.name, queries, given.corpus, qrels, found).only(found)


def tables(each: EvaluationSet) -> Tables:
    """A retrieval or reranking set as the hub has it."""
    found: dict[str, list[dict[str, Any]]] = {
        "corpus": [{"_id": key, "text": text, "title": ""} for key, text in each.corpus.items()],
        "queries": [{"_id": key, "text": text} for key, text in each.queries.items()],
        "default": [{"query-id": query, "corpus-id": name, "score": value}
                    for query, row in each.qrels.items() for name, value in row.items()],
    }  # fmt: skip
    if isinstance(each, RerankingSet):
        found["top_ranked"] = [{"query-id": query, "corpus-ids": list(names)}
                               for query, names in each.candidates.items()]  # fmt: skip
    return found


def lay_out(folder: Path, split: str, content: Tables) -> None:
    """Write tables as a repository of the hub holds them."""
    lines = ["---", "configs:"]
    for name, rows in content.items():
        path = folder / name / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
        lines += [f"- config_name: {name}", "  data_files:", f"  - split: {split}",
                  f"    path: {name}/{split}-*"]  # fmt: skip
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]), encoding="utf-8")


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--precision", default="int8-dynamic")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--tasks", default=",".join([*PAIRS, *SEARCHES]))
    asked = parser.parse_args()
    if not (asked.data / "sts").is_dir():
        print(f"skipped: no folder {asked.data / 'sts'}; name the data with --data")
        return 0
    encoder = OnnxEncoder.load(asked.bundle, asked.precision)
    path = RESULTS / "cmteb.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    found = known.get(asked.precision, {})
    print("| task | mteb | ours | published |\n| --- | --- | --- | --- |")
    for name, split, each, content in sets(asked.data, asked.tasks.split(",")):
        with tempfile.TemporaryDirectory() as work:
            lay_out(Path(work) / name, split, content)
            cmteb.run(name, encoder, "bundle", Path(work) / name, Path(work))
            row = cmteb.read(Path(work) / f"{name}.json")
        outcome = score(encoder, each)
        ours = float(outcome.metrics[outcome.main].mean())
        told = cmteb.published(BASE, name) if name in PAIRS else None
        found[name] = {**row, "ours": ours, "published": told}
        shown = "" if told is None else f"{100 * told:.2f}"
        print(f"| {name} | {100 * row['value']:.3f} | {100 * ours:.3f} | {shown} |", flush=True)
    write_json(path, known | {asked.precision: found})
    return int(any(abs(row["value"] - row["ours"]) > NEAR for row in found.values()))


if __name__ == "__main__":
    sys.exit(main())
