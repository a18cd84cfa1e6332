"""What a domain's questions leave to gain: labels of their own kind, BM25 beside it, failures.

python benchmarks/ceiling.py <domain> [<bundle>] --data ../shared/data

On the report half, NDCG@10, each against the model (the starter, or a bundle of another one):

- BM25 and the model fused by reciprocal rank: with the weight that is best on the select half, and
  with the weight that is best for each question, which nobody can know (oracle).
- The starter trained on four fifths of the select half's own questions and answers, the last fifth
  for the guard: pairs such as nobody has, of the very kind that is asked.

Then up to 50 questions of which no answer is among the model's first ten, drawn from the select
half, and from the report half where that has too few. Their texts go to
``.cache/ceiling/<domain>-failures.md``, for reading. What a reader makes of them is kept in
``benchmarks/results/ceiling/<domain>.tsv``, a line a question: its id, a tab, and one of
``wrong label`` (the answer is none, or another passage is one as well as it), ``ambiguous`` (the
question does not tell which), ``model`` (the answer is right, and what came before it is not).

Writes ``benchmarks/results/ceiling/<domain>.json`` (no text) and prints it as a table.
"""

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common.comparison import head, line, points
from common.lab import bundled
from common.runs import RESULTS, ROOT, run, versions
from numpy.typing import NDArray

from finetune.data.beir import read_folder
from finetune.evaluation import bm25, retrieval
from finetune.evaluation.retrieval import Ranking
from finetune.evaluation.statistics import compare
from finetune.inference import OnnxEncoder
from finetune.progress import bar
from finetune.records import write_jsonl
from finetune.sets import EvaluationSet, half, write_set
from finetune.starter import build_starter

FOLDER = RESULTS / "ceiling"
WORK = ROOT / ".cache/ceiling"
KINDS = ("wrong label", "ambiguous", "model")
_READ = 50
_WEIGHTS = tuple(round(0.05 * step, 2) for step in range(21))  # of BM25
_SMOOTHING = 60  # reciprocal rank fusion's usual constant
_SAMPLES = 10_000
Scores = Mapping[str, float]  # NDCG@10 by query


def fused(one: Ranking, other: Ranking, weight: float) -> Ranking:
    """Two rankings of the same queries as one, by reciprocal rank.

    Args:
        one: Of weight ``1 - weight``.
        other: Of weight ``weight``.
        weight: 0 to 1.
    """
    rows = []
    for first, second in zip(one.documents, other.documents, strict=True):
        found: Counter[str] = Counter()
        for share, documents in ((1 - weight, first), (weight, second)):
            for place, document in enumerate(documents if share else ()):
                found[document] += share / (_SMOOTHING + place + 1)
        rows.append(tuple(document for document, _ in found.most_common(retrieval.DEPTH)))
    return Ranking(one.queries, tuple(rows), np.empty((len(rows), 0), np.float32))


def scores(ranking: Ranking, whole: EvaluationSet) -> dict[str, float]:
    """NDCG@10 of each query that has an answer."""
    queries = [each for each in ranking.queries if retrieval.judged(each, whole.qrels)]
    values = retrieval.score(ranking, whole.qrels)["ndcg@10"]
    return dict(zip(queries, values.tolist(), strict=True))


def fusion(own: Ranking, words: Ranking, whole: EvaluationSet) -> dict[str, Scores]:
    """What the report half gets from fusing, by how the weight was found; the weight is told."""
    each = {weight: scores(fused(own, words, weight), whole) for weight in _WEIGHTS}
    select = [query for query in each[0.0] if half(query) == "select"]
    report = [query for query in each[0.0] if half(query) == "report"]
    best = max(_WEIGHTS, key=lambda weight: sum(each[weight][query] for query in select))
    return {
        f"with BM25, weight {best:g}": {query: each[best][query] for query in report},
        "with BM25, oracle": {
            query: max(found[query] for found in each.values()) for query in report
        },
    }


def taught(domain: str, whole: EvaluationSet) -> Mapping[str, Any] | None:
    """Train the starter on the select half's own answers; None where the run failed."""
    halves = {name: [query for query in whole.queries if half(query) == name]
              for name in ("select", "report")}  # fmt: skip
    order = sorted(halves["select"])
    random.Random(0).shuffle(order)
    folder = WORK / domain
    parts = {"dev": order[::5], "test": halves["report"]}
    for name, queries in parts.items():
        write_set(folder / name / domain, whole.only(set(queries)))
    asked = sorted(set(order) - set(parts["dev"]))
    write_jsonl(folder / "train.jsonl", [
        {"query": whole.queries[query], "positive": whole.corpus[document], "source": "select"}
        for query in asked for document in whole.qrels[query]])  # fmt: skip
    words = ["recipes=contrastive", "domain=custom", f"domain.train={folder / 'train.jsonl'}",
             f"domain.dev={folder / 'dev' / domain}", f"domain.test={folder / 'test' / domain}",
             "model=starter", "train.epochs=3", "train.learning_rate=5e-5", "seed=1",
             "export.precisions=[fp32]", "evaluate.general=null"]  # fmt: skip
    return run(domain, words, WORK / "runs", questions=domain)


def failures(found: Scores, places: Ranking) -> list[str]:
    """Questions of which no answer is among the first ten, the select half's first."""
    missed = sorted(query for query in places.queries if found.get(query) == 0)
    random.Random(0).shuffle(missed)
    missed.sort(key=lambda query: half(query) == "report")
    return missed[:_READ]


def sheet(missed: Sequence[str], own: Ranking, whole: EvaluationSet) -> Iterator[str]:
    """Yield the lines for a reader: question, answers with their place, the model's first three."""
    ranked = dict(zip(own.queries, own.documents, strict=True))
    for query in missed:
        yield f"## {query}\n\n{whole.queries[query]}\n"
        for document in whole.qrels[query]:
            place = ranked[query].index(document) + 1 if document in ranked[query] else "> 100"
            yield f"- answer, place {place}: {whole.corpus[document]}"
        yield from (f"- found: {whole.corpus[document]}" for document in ranked[query][:3])
        yield ""


def judged(path: Path, missed: Sequence[str]) -> dict[str, int]:
    """How many failures a reader called what; those that are unread count as ``not read``."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    said = dict(each.split("\t") for each in lines)
    if unknown := set(said.values()) - set(KINDS):
        raise SystemExit(f"{path}: {sorted(unknown)} are none of {', '.join(KINDS)}")
    counts = Counter(said.get(query, "not read") for query in missed)
    return {name: counts[name] for name in (*KINDS, "not read") if counts[name]}


def rows(base: Scores, others: Mapping[str, Scores]) -> Iterator[dict[str, Any]]:
    """Yield a row a system: its mean, and what it has more than the model, with its interval."""
    queries = sorted(base)
    before = _aligned(base, queries)
    for name, found in others.items():
        after = _aligned(found, queries)
        made = compare(before, after, _SAMPLES)
        yield {"system": name, "ndcg@10": round(float(after.mean()), 4), "gain": points(made)}


def _aligned(found: Scores, queries: Sequence[str]) -> NDArray[np.float64]:
    return np.array([found[query] for query in queries])


def starter(whole: EvaluationSet) -> Path:
    """The starter's bundle, made once."""
    folder = WORK / "starter"
    if not (folder / "modules.json").is_file():
        build_starter(folder)
    return bundled(folder, "starter", list(whole.queries.values()))


def main() -> int:
    """Measure, keep and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("domain")
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    asked = parser.parse_args()
    if not (asked.data / asked.domain).is_dir():
        print(f"skipped: no folder {asked.data / asked.domain}; name the data with --data")
        return 0
    whole = read_folder(asked.data / asked.domain)
    bundle = asked.bundle.resolve() if asked.bundle else starter(whole)
    encoder = OnnxEncoder.load(bundle, "fp32")
    with bar(f"encode {asked.domain}", len(whole.prompted)) as progress:
        own = retrieval.rank(encoder, whole, progress=progress)
    words = bm25.rank(whole)
    found = scores(own, whole)
    report = {query: value for query, value in found.items() if half(query) == "report"}
    systems = {"the model": report, "BM25": scores(words, whole), **fusion(own, words, whole)}
    if done := taught(asked.domain, whole):
        pairs = done["data"]["pairs"]
        systems[f"trained on {pairs} pairs of the select half"] = done["questions"]
    missed = failures(found, own)
    WORK.mkdir(parents=True, exist_ok=True)
    paper = WORK / f"{asked.domain}-failures.md"
    paper.write_text("\n".join(sheet(missed, own, whole)), encoding="utf-8")
    said = judged(FOLDER / f"{asked.domain}.tsv", missed)
    name = bundle.parent.name if asked.bundle else "starter"
    kept = {"versions": versions(), "model": name, "queries": len(report),
            "systems": list(rows(report, systems)),
            "without an answer in the first ten": sum(value == 0 for value in found.values()),
            "read": said}  # fmt: skip
    FOLDER.mkdir(parents=True, exist_ok=True)
    text = json.dumps(kept, ensure_ascii=False, indent=1)
    (FOLDER / f"{asked.domain}.json").write_text(text + "\n", encoding="utf-8")
    print(head("system", "NDCG@10", "against the model"))
    for row in kept["systems"]:
        print(line([row["system"], f"{100 * row['ndcg@10']:.1f}", row["gain"]]))
    print(f"failures: {kept['without an answer in the first ten']}; of those in {paper}: {said}")
    return int(done is None)


if __name__ == "__main__":
    sys.exit(main())
