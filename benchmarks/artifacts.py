"""What export costs in quality: INT8 on every domain, every format of every kind of model.

python benchmarks/artifacts.py --data ../shared/data [--only legal] [key=value …]

The starter is tuned on 4,000 pairs of each domain (`contrastive`, seed 1) and exported in fp32 and
dynamic INT8; then by LoRA, by prefix tuning and with a Dense module, on 1,000 pairs of e-commerce,
in every format. Each artifact's NDCG@10 on the report half is held against fp32's (bar: within
0.5 % on each domain, top-10 overlap of the questions' vectors with torch's at least 0.97). Writes
one JSON a run to ``benchmarks/results/artifacts/`` and ``table.md``; a run that is there is not
repeated. About an hour on 2 cores.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runs import RESULTS, ROOT, run

FOLDER = RESULTS / "artifacts"
DOMAINS = ("ecommerce", "medical", "finance", "legal")
EVERY = ["domain=ecommerce", "limit=1000", "export=all"]
KINDS = {
    **{domain: ["recipes=contrastive", f"domain={domain}", "limit=4000"] for domain in DOMAINS},
    "lora": ["recipes=lora", *EVERY],
    "prefix": ["recipes=prefix", *EVERY],
    "dense": ["recipes=full", *EVERY, "model=custom", "model.prompts.query='query: '",
              "model.prompts.passage='passage: '"],
}  # fmt: skip
MAX_DROP, MIN_OVERLAP = 0.005, 0.97


def with_dense(folder: Path) -> Path:
    """The starter with a Dense module behind it: a rotation to 256 numbers, of fixed chance."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense

    from finetune.starter import build_starter

    if not (folder / "model/modules.json").is_file():
        build_starter(folder / "starter")
        model = SentenceTransformer(str(folder / "starter"), device="cpu")
        dense = Dense(model.get_embedding_dimension(), 256, bias=False,
                      activation_function=torch.nn.Identity())  # fmt: skip
        torch.manual_seed(0)
        torch.nn.init.orthogonal_(dense.linear.weight)
        model.insert(len(model) - 1, dense)  # before the normalisation
        model.save(str(folder / "model"), create_model_card=False)
    return folder / "model"


def lines(name: str, result: Mapping[str, Any]) -> Iterator[str]:
    """The table's lines of one run, an artifact a line."""
    wanted = "ecommerce" if name not in DOMAINS else name
    scores = {row["artifact"]: row for row in result["scores"]
              if (row["set"], row["metric"]) == (wanted, "ndcg@10")}  # fmt: skip
    exact, sizes = scores["onnx-fp32"], {row["artifact"]: row for row in result["speed"]}
    for artifact, row in scores.items():
        if artifact in ("base", "tuned"):
            continue
        parity = result["parity"][artifact.removeprefix("onnx-")]
        change = row["value"] / exact["value"] - 1
        cells = [name, artifact, f"{100 * row['value']:.1f}", f"{100 * row['delta']:+.1f}",
                 f"{100 * change:+.2f} %", f"{parity['min_cosine']:.5f}",
                 f"{parity['centred_cosine']:.4f}", f"{parity['top10_overlap']:.3f}",
                 f"{sizes[artifact]['bytes'] / 1e6:.0f} MB", str(row["n"])]  # fmt: skip
        yield f"| {' | '.join(cells)} |"


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The Markdown table; NDCG@10 in points, its change relative to fp32."""
    head = ["model", "artifact", "NDCG@10", "gain", "against fp32", "least cosine",
            "centred cosine", "top-10 overlap", "size", "queries"]  # fmt: skip
    rows = [line for name, result in results.items() for line in lines(name, result)]
    return "\n".join([f"| {' | '.join(head)} |", "| --- " * len(head) + "|", *rows])


def missed(results: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What is under a bar: INT8 of the domains."""
    for name in DOMAINS:
        if name not in results:
            continue
        gate = next(each for each in results[name]["gates"] if each["name"] == "int8")
        overlap = results[name]["parity"]["int8-dynamic"]["top10_overlap"]
        if gate["value"] > MAX_DROP:
            yield f"{name}: INT8 loses {100 * gate['value']:.2f} % of NDCG@10"
        if overlap < MIN_OVERLAP:
            yield f"{name}: INT8 shares {overlap:.3f} of the ten nearest"


def main() -> int:
    """Run what is missing; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--only", default="", help="runs whose name begins so")
    asked, more = parser.parse_known_args()
    if not (asked.data / "legal").is_dir():
        print(f"skipped: no folder {asked.data / 'legal'}; name the data with --data")
        return 0
    common = [f"paths.data={asked.data.resolve()}", "seed=1", "train.epochs=1",
              "evaluate.general=null"]  # fmt: skip
    results = {}
    for name, words in KINDS.items():
        if name.startswith(asked.only) or (FOLDER / f"{name}.json").is_file():
            own = [f"model.path={with_dense(ROOT / '.cache/dense')}"] if name == "dense" else [
                "model=starter"]  # fmt: skip
            found = run(name, [*words, *own, *common, *more], FOLDER)
            results |= {name: found} if found else {}
            (FOLDER / "table.md").write_text(table(results) + "\n", encoding="utf-8")
    print(table(results))
    print("\n".join(found := list(missed(results))))
    return int(bool(found) or len(results) < len(KINDS))


if __name__ == "__main__":
    sys.exit(main())
