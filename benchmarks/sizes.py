"""How large each format of a model is, in the geometry of the m3e family, with random weights.

python benchmarks/sizes.py [--large]

Writes ``benchmarks/results/sizes.json``: megabytes by model and format, and how close each format's
vectors of random tokens are to those of fp32. Bar: INT8 of m3e-small 24 MB, m3e-base 110 MB,
m3e-large 340 MB.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = ROOT / "benchmarks/results/sizes.json"
VOCABULARY = 21_128
# Layers, hidden size; the feed-forward layer is four times as wide, a head has 64.
GEOMETRY = {"m3e-small": (4, 512), "m3e-base": (12, 768), "m3e-large": (24, 1024)}


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--large", action="store_true", help="m3e-large too: minutes, 8 GB")
    asked = parser.parse_args()
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name, geometry in GEOMETRY.items():
        if name == "m3e-large" and not asked.large:
            continue
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measure(Path(folder), *geometry)
        print(name, json.dumps(found[name]))
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(found, indent=2) + "\n")


def measure(folder: Path, layers: int, hidden: int) -> dict[str, dict[str, float]]:
    """Export one model in every format; megabytes, and mean-centred cosine with fp32."""
    from finetune.export import Form, compare, export_onnx, prepare, quantize

    model = random_bert(folder / "model", layers, hidden)
    export_onnx(model, folder / "fp32.onnx")
    export_onnx(model, folder / "fp16.onnx", half=True)
    feeds = [random_batch(seed) for seed in range(4)]
    for form in Form:
        prepared = prepare(folder / "fp32.onnx", form, (), feeds)
        quantize(folder / "fp32.onnx", folder / f"int8-{form.value}.onnx", prepared)
    exact = run(folder / "fp32.onnx")
    return {
        file.stem: {
            "megabytes": round(file.stat().st_size / 1e6, 1),
            "centred_cosine": round(compare(exact, run(file)).centred_cosine, 5),
        }
        for file in sorted(folder.glob("*.onnx"))
    }


def random_bert(folder: Path, layers: int, hidden: int):  # noqa: ANN201 (torch is imported inside)
    """A BERT with random weights and mean pooling."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(0)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = [*special, *(chr(0x4E00 + n) for n in range(VOCABULARY - len(special)))]
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=hidden, num_hidden_layers=layers,
        num_attention_heads=hidden // 64, intermediate_size=4 * hidden,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    BertTokenizerFast(vocab={t: n for n, t in enumerate(tokens)}).save_pretrained(folder)
    modules = [Transformer(str(folder), max_seq_length=512), Pooling(hidden, "mean")]
    return SentenceTransformer(modules=modules, device="cpu")


def random_batch(seed: int) -> dict[str, np.ndarray]:
    """Eight rows of 32 random tokens."""
    ids = np.random.default_rng(seed).integers(5, VOCABULARY, (8, 32))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def run(file: Path) -> np.ndarray:
    """Vectors of batches that the calibration has not seen."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, random_batch(seed))[0] for seed in (90, 91, 92)])


if __name__ == "__main__":
    main()
