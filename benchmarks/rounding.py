"""How many texts INT8's weights must be fitted to: parity of the starter by their number.

python benchmarks/rounding.py --data ../shared/data [--counts 64,256]

The starter in dynamic INT8, compared with fp32 on 350 documents and 150 questions of each domain
that it was not fitted to: mean-centred cosine and top-10 overlap (see `finetune.export.parity`).
Nothing is kept in fp32. Writes ``benchmarks/results/rounding.json``; some 4 minutes on 2 cores.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from common.runs import RESULTS, ROOT

DOMAINS = ("legal", "medical", "ecommerce", "finance")
QUESTIONS, DOCUMENTS = 150, 350


def exported(folder: Path) -> Path:
    """The starter as an fp32 bundle."""
    from finetune import model as models
    from finetune.config import Export
    from finetune.export import Origin, export_bundle
    from finetune.starter import build_starter

    build_starter(folder / "model")
    model = models.load(folder / "model")
    export_bundle(model, models.TorchEncoder(model), ["贷款怎么还", "如何申请离婚"],
                  folder / "bundle", Origin("starter", "starter", "unknown", "unknown"),
                  Export(["fp32"], None, 2, {"fp32": {}}))  # fmt: skip
    return folder / "bundle"


def measured(bundle: Path, data: Path, counts: list[int]) -> list[dict[str, Any]]:
    """Parity on one domain, by number of texts."""
    from finetune.config.compose import compose
    from finetune.data.beir import read_folder
    from finetune.export import draw
    from finetune.export.int8 import Form, quantize
    from finetune.export.parity import Comparison
    from finetune.export.quantized import Quantizer
    from finetune.inference import OnnxEncoder

    dev = read_folder(data)
    chance = random.Random(0)
    documents, questions = sorted(dev.corpus.values()), sorted(dev.queries.values())
    judged = chance.sample(documents, DOCUMENTS) + chance.sample(questions, QUESTIONS)
    encoder = OnnxEncoder.load(bundle, "fp32")
    comparison = Comparison(encoder, judged)
    settings = compose(["recipes=full"]).quantize
    fp32, trial, found = bundle / "fp32/model.onnx", bundle / "trial.onnx", []
    for count in counts:
        start = time.perf_counter()
        texts = draw([*documents, *questions], count, 0, judged)
        quantizer = Quantizer(fp32, encoder, texts, replace(settings, weight_texts=count),
                              comparison, threads=None)  # fmt: skip
        quantize(fp32, trial, quantizer.prepared(Form.dynamic))
        seconds = time.perf_counter() - start
        parity = asdict(comparison(encoder.running(trial)))
        found.append({"domain": data.name, "weight_texts": count, **parity,
                      "seconds": round(seconds, 1)})  # fmt: skip
        print(found[-1], flush=True)
    return found


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--counts", default="64,256")
    asked = parser.parse_args()
    if not (asked.data / "legal").is_dir():
        print(f"skipped: no folder {asked.data / 'legal'}; name the data with --data")
        return 0
    counts = [int(each) for each in asked.counts.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        bundle = exported(Path(folder))
        rows = [row for name in DOMAINS for row in measured(bundle, asked.data / name, counts)]
    text = json.dumps(rows, indent=1)
    (RESULTS / "rounding.json").write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
