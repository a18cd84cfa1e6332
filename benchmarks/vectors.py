"""How many of each text's ten nearest stay where vectors are kept in fewer bytes.

python benchmarks/vectors.py --data ../shared/data [--bundle <folder>]

The passages of the general set are encoded by the starter in fp32. The ten that are nearest to each
one by its float32 vector are held against those by float16, by int8 as `finetune.inference.as_type`
makes it (each vector has a scale of its own) and by int8 with one scale for all. Writes
``benchmarks/results/vectors.json``; some five minutes on 2 cores, the starter's bundle not counted.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common.engines import ROOT, bundle
from numpy.typing import NDArray

from finetune.inference import OnnxEncoder, as_type, top_k

RESULTS = ROOT / "benchmarks/results/vectors.json"
NEAREST = 10

Vectors = NDArray[np.float32]

TYPES: dict[str, Callable[[Vectors], NDArray[np.number]]] = {
    "float16": lambda vectors: as_type(vectors, "float16"),
    "int8": lambda vectors: as_type(vectors, "int8"),
    "int8, one scale for all": lambda vectors: np.rint(127 * vectors).astype(np.int8),
}


def neighbours(vectors: NDArray[np.number], count: int = NEAREST) -> list[set[int]]:
    """The rows that are nearest to each row, without itself."""
    _, found = top_k(vectors, vectors, count + 1)
    return [set([n for n in row if n != own][:count]) for own, row in enumerate(found.tolist())]


def kept(vectors: Vectors, count: int = NEAREST) -> dict[str, float]:
    """By type, the share of each vector's nearest that stays; mean over vectors."""
    exact = neighbours(vectors, count)
    shares = {}
    for name, smaller in TYPES.items():
        pairs = zip(exact, neighbours(smaller(vectors), count), strict=True)
        shares[name] = round(float(np.mean([len(a & b) / len(a) for a, b in pairs])), 4)
    return shares


def main() -> int:
    """Encode, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--bundle", type=Path, help="default: the starter's, made once")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "inference")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    if not (asked.data / "general").is_dir():
        print(f"skipped: no folder {asked.data / 'general'}; name the data with --data")
        return 0
    from finetune.data.beir import read_folder

    texts = list(read_folder(asked.data / "general").corpus.values())
    made = asked.bundle or bundle("starter", asked.work, asked.data)
    vectors = OnnxEncoder.load(made, "fp32").encode(texts, "passage")
    result = {"set": "general", "texts": len(texts), "dim": vectors.shape[1], "nearest": NEAREST,
              "kept": kept(vectors)}  # fmt: skip
    asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
