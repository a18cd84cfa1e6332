"""The inference core: onnxruntime, tokenizers and numpy; no torch.

It runs an exported bundle wherever it is needed: in evaluation, in mining, in the benchmark and in
the user's own service.

    encoder = OnnxEncoder.load(Path("runs/x/bundle"))
    vectors = encoder.encode(["房东不退押金怎么办"], prompt="query")   # [1, dim], unit length
    scores, indices = top_k(vectors, corpus_vectors, k=10)

    encode_file(Path("corpus.txt"), Path("corpus.npy"), Path("runs/x/bundle"))   # millions of lines
"""

from finetune.inference.batches import token_budget_batches
from finetune.inference.bundle import BundleFile, BundleInfo
from finetune.inference.encoder import Encoder, shortened
from finetune.inference.files import encode_file
from finetune.inference.index import Index, searcher
from finetune.inference.onnx import OnnxEncoder
from finetune.inference.search import top_k
from finetune.inference.stream import encode_in_processes, encode_iter
from finetune.inference.vectors import TYPES, as_float32, as_type

__all__ = [
    "TYPES",
    "BundleFile",
    "BundleInfo",
    "Encoder",
    "Index",
    "OnnxEncoder",
    "as_float32",
    "as_type",
    "encode_file",
    "encode_in_processes",
    "encode_iter",
    "searcher",
    "shortened",
    "token_budget_batches",
    "top_k",
]
