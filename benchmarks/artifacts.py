"""What export costs in quality: INT8 on every domain, every format of every kind of model.

python benchmarks/artifacts.py --data ../shared/data [--only legal] [key=value …]

The starter is tuned on 4,000 pairs of each domain (`contrastive`, seed 1) and exported in fp32 and
dynamic INT8; then as a whole, by LoRA, by prefix tuning and with a Dense module (a bias in it), on
1,000 pairs of finance, whose questions are enough for the INT8 gate, in every format. Bars: fp32 of
every run has a cosine of 0.9999 to torch at least; the gate of every INT8 format passes (within
0.5 % of fp32's NDCG@10 on the report half); its top-10 overlap with torch is at least 0.97; two
loads of ``model/`` give the same vectors. Writes one JSON a run to
``benchmarks/results/artifacts/`` and ``table.md``; a run that is there is not repeated. JSONs of
other runs that lie there (LoRA, prefix and Dense on e-commerce, whose 195 questions are too few for
the gate) stand in the table and are held to no bar. More than an hour on 2 cores.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common.runs import RESULTS, ROOT, run

from finetune.report.gates import INT8

FOLDER = RESULTS / "artifacts"
DOMAINS = ("ecommerce", "medical", "finance", "legal")
EVERY = ["domain=finance", "limit=1000", "export=all"]
KINDS = {
    **{domain: ["recipes=contrastive", f"domain={domain}", "limit=4000"] for domain in DOMAINS},
    **{f"{recipe}-finance": [f"recipes={recipe}", *EVERY] for recipe in ("full", "lora", "prefix")},
    "dense-finance": ["recipes=full", *EVERY, "model=custom", "model.prompts.query='query: '",
                      "model.prompts.passage='passage: '"],
}  # fmt: skip
MIN_COSINE, MIN_OVERLAP = 0.9999, 0.97
# Of several lengths, so that padding has its say.
TEXTS = ["房东不退押金怎么办", "公司拖欠工资", "网店卖假货可以要求几倍赔偿", "离婚", "押金" * 100]


def with_dense(folder: Path) -> Path:
    """The starter with a Dense module: a rotation to 256 numbers and a shift, of fixed chance."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense

    from finetune.starter import build_starter

    if not (folder / "model/modules.json").is_file():
        build_starter(folder / "starter")
        model = SentenceTransformer(str(folder / "starter"), device="cpu")
        dense = Dense(model.get_embedding_dimension(), 256, bias=True,
                      activation_function=torch.nn.Identity())  # fmt: skip
        torch.manual_seed(0)
        torch.nn.init.orthogonal_(dense.linear.weight)
        torch.nn.init.normal_(dense.linear.bias, std=0.01)
        model.insert(len(model) - 1, dense)  # before the normalisation
        model.save(str(folder / "model"), create_model_card=False)
    return folder / "model"


def reload(run_dir: Path) -> dict[str, float]:
    """Load ``model/`` of a run twice; the largest difference of their vectors."""
    from finetune.model import TorchEncoder, load

    first, second = (TorchEncoder(load(run_dir / "model")).encode(TEXTS, "query") for _ in range(2))
    return {"reload_difference": float(abs(first - second).max())}


def domain_of(result: Mapping[str, Any]) -> str:
    """The domain that a kept run names."""
    words = (word.partition("=") for word in result["command"].split())
    return next(value for key, _, value in words if key == "domain")


def lines(name: str, result: Mapping[str, Any]) -> Iterator[str]:
    """The table's lines of one run, an artifact a line."""
    wanted = domain_of(result)
    scores = {row["artifact"]: row for row in result["scores"]
              if (row["set"], row["metric"]) == (wanted, "ndcg@10")}  # fmt: skip
    exact, sizes = scores["onnx-fp32"], {row["artifact"]: row for row in result["speed"]}
    for artifact, row in scores.items():
        if artifact in ("base", "tuned"):
            continue
        parity = result["parity"][artifact.removeprefix("onnx-")]
        change = row["value"] / exact["value"] - 1
        cells = [name, wanted, artifact, f"{100 * row['value']:.1f}", f"{100 * row['delta']:+.1f}",
                 f"{100 * change:+.2f} %", f"{parity['min_cosine']:.5f}",
                 f"{parity['centred_cosine']:.4f}", f"{parity['top10_overlap']:.3f}",
                 f"{sizes[artifact]['bytes'] / 1e6:.0f} MB", str(row["n"])]  # fmt: skip
        yield f"| {' | '.join(cells)} |"


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The Markdown table; NDCG@10 in points, its change relative to fp32."""
    head = ["model", "set", "artifact", "NDCG@10", "gain", "against fp32", "least cosine",
            "centred cosine", "top-10 overlap", "size", "queries"]  # fmt: skip
    rows = [line for name, result in results.items() for line in lines(name, result)]
    return "\n".join([f"| {' | '.join(head)} |", "| --- " * len(head) + "|", *rows])


def missed(results: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What is under a bar, or was not measured, of the runs of `KINDS` that are there."""
    for name in KINDS:
        if name in results:
            yield from (f"{name}: {what}" for what in _missed(name, results[name]))


def _missed(name: str, result: Mapping[str, Any]) -> Iterator[str]:
    parity, gates = result["parity"], {gate["name"]: gate for gate in result["gates"]}
    if parity["fp32"]["min_cosine"] < MIN_COSINE:
        yield f"fp32 has a cosine of {parity['fp32']['min_cosine']:.5f} to torch"
    for gate_name, artifact in INT8.items():
        precision = artifact.removeprefix("onnx-")
        if precision not in parity:
            continue
        gate, overlap = gates.get(gate_name), parity[precision]["top10_overlap"]
        if gate is None:
            yield f"{precision} has no gate: it was not published"
        elif gate["status"] != "passed":
            yield f"{precision} loses {100 * gate['value']:.2f} % of NDCG@10: {gate['status']}"
        if overlap < MIN_OVERLAP:
            yield f"{precision} shares {overlap:.3f} of the ten nearest"
    # The runs of the four domains are older than this measurement, and need it less.
    difference = result.get("reload_difference", 0.0 if name in DOMAINS else None)
    if difference is None:
        yield "two loads of model/ were not compared"
    elif difference:
        yield f"two loads of model/ differ by {difference:.1e}"


def earlier() -> dict[str, Any]:
    """What lies there of other runs than those of `KINDS`."""
    return {path.stem: json.loads(path.read_text("utf-8"))
            for path in sorted(FOLDER.glob("*.json")) if path.stem not in KINDS}  # fmt: skip


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
            dense = name.startswith("dense")
            own = (
                f"model.path={with_dense(ROOT / '.cache/dense-bias')}" if dense else "model=starter"
            )
            found = run(name, [*words, own, *common, *more], FOLDER, also=reload)
            results |= {name: found} if found else {}
            (FOLDER / "table.md").write_text(table(results | earlier()) + "\n", encoding="utf-8")
    print(table(results | earlier()))
    print("\n".join(found := list(missed(results))))
    return int(bool(found) or len(results) < len(KINDS))


if __name__ == "__main__":
    sys.exit(main())
