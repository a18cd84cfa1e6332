"""Between what each number of the configuration may lie."""

import dataclasses
import math

from finetune.config.augmentation import KINDS
from finetune.config.pairs import Generate

GENERATORS = tuple(  # the fields of a share
    field.name for field in dataclasses.fields(Generate) if field.type is float
)

# A number must be greater than the first and at most the second.
RANGES: dict[str, tuple[float, float]] = {
    "seed": (-1, 2**32 - 1),  # what numpy takes
    "limit": (0, math.inf),
    "generate.pairs": (0, math.inf),
    **{f"generate.{name}": (-1e-9, math.inf) for name in GENERATORS},
    "pseudo.pairs": (0, math.inf),
    "writer.share": (-1e-9, math.inf),
    "writer.queries": (0, 20),
    "writer.limit": (0, math.inf),
    "writer.price_in": (-1e-9, math.inf),
    "writer.price_out": (-1e-9, math.inf),
    "writer.concurrency": (0, 256),
    "writer.timeout": (0, 3_600),
    "writer.retries": (-1, 20),
    "check.near": (0, 1),
    "check.foreign_share": (-1e-9, 1),
    "check.boilerplate_queries": (1, math.inf),
    "check.tokens_per_character": (0, 10),
    "model.max_length": (7, math.inf),
    "noise.cut": (-1e-9, 1),
    "augment.share": (-1e-9, 1),
    **{f"augment.{kind}": (-1e-9, math.inf) for kind in KINDS},
    "mine.rounds": (-1, 10),
    "mine.negatives": (-1, 32),
    "mine.candidates": (-1, math.inf),
    "mine.relative_margin": (-1e-9, 1),
    "mine.filter_margin": (-1e-9, 1),
    "distill.layers": (-1, 1_000),
    "distill.vocabulary": (-1, 10_000_000),
    "distill.texts": (-1, math.inf),
    "distill.min_kept": (-1e-9, 1),
    "distill.min_speedup": (-1e-9, 100),
    "train.epochs": (0, 1_000),
    "train.batch_size": (1, 65_536),
    "train.learning_rate": (0, 1),
    "train.warmup": (-1e-9, 1),
    "train.weight_decay": (-1e-9, 1),
    "train.dropout": (-1e-9, 0.9),
    "train.max_length": (7, math.inf),
    "train.checkpoints": (0, 1_000),
    "train.guard_share": (0, 1),
    "train.patience": (0, math.inf),
    "merge.keep_gain": (-1e-9, 1),
    "merge.domain_texts": (-1, math.inf),
    "merge.general_texts": (-1, math.inf),
    "hardware.threads": (-1, 1_024),
    "hardware.processes": (-1, 65_536),
    "hardware.chunk": (0, math.inf),
    "hardware.encode_tokens": (0, math.inf),
    "hardware.workers": (-1, 64),
    "export.parity_texts": (1, math.inf),
    "quantize.weight_texts": (-1, math.inf),
    "quantize.range_texts": (0, math.inf),
    "quantize.range_percentile": (50, 100),
    "quantize.centred_cosine": (-1, 1),
    "quantize.top10_overlap": (-1e-9, 1),
    "quantize.max_fp32": (-1e-9, 1),
    "evaluate.samples": (99, 1_000_000),
    "evaluate.alpha": (0, 1),
    "evaluate.min_gain": (-1e-9, 1),
    "evaluate.visible": (0, 1),
    "evaluate.max_int8_drop": (-1e-9, 1),
    "evaluate.max_script_gap": (-1e-9, 1),
    "evaluate.max_latency_ms": (0, math.inf),
    "evaluate.speed_texts": (0, math.inf),
    "evaluate.machine_price": (0, math.inf),
    "evaluate.max_general_drop": (-1e-9, 1),
}
