"""GradCache: the memory that a batch of 1,024 takes, and how exact its gradients are.

python benchmarks/gradcache.py --data ../shared/data

Trains the starter for two steps of 1,024 legal pairs in a process of its own and reads its peak
resident memory; then compares gradients in chunks with those of a whole batch, fp32: without
dropout against the plain loss, with dropout against the same chunks all kept, which draw the same
masks. Bars: under 6 GiB, relative difference (of norms) at most 1e-5. Also counts what a text of
128 tokens keeps at m3e-base's geometry, which the chunks of configs/hardware are chosen by. Writes
``benchmarks/results/gradcache.json``.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.losses.gradcache import _create_minibatch, _minibatch_ranges
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from transformers import BertConfig, BertModel

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # this tree's, whatever is installed

from finetune import cpu, pipeline  # noqa: E402
from finetune import model as models  # noqa: E402
from finetune.config import Config  # noqa: E402
from finetune.config.choices import Precision  # noqa: E402
from finetune.config.compose import compose  # noqa: E402
from finetune.machine import hardware  # noqa: E402
from finetune.records import Pair, read_jsonl  # noqa: E402
from finetune.sets import EvaluationSet  # noqa: E402
from finetune.training import losses  # noqa: E402
from finetune.training import train as training  # noqa: E402

GIB = 2**30
MOST_MEMORY, MOST_DIFFERENCE = 6.0, 1e-5
DROPOUT = 0.1


def configuration(asked: argparse.Namespace, folder: Path) -> Config:
    """A run on legal pairs, two batches long, up to the base model."""
    return compose([
        "recipes=full", "domain=legal", f"paths.data={asked.data}", "hardware=cpu",
        f"hardware.precision={asked.precision}", f"limit={2 * asked.batch}",
        f"train.batch_size={asked.batch}", "train.checkpoints=1", "tracking=none", "until=base",
        "check.bad_rows=drop", f"paths.cache={folder}/cache", f"run_dir={folder}/run",
        f"hardware.chunk={asked.chunk}",
    ])  # fmt: skip


def made(config: Config) -> tuple[Path, list[Pair]]:
    """The starter's folder and the pairs, made where they are not there yet."""
    pipeline.run(config)
    cache = config.paths.cache
    (model,), (data,) = cache.glob("base/[!.]*"), cache.glob("data/[!.]*")
    return model / "model", list(read_jsonl(data / "train.jsonl", Pair))


def train(config: Config, out: Path) -> dict[str, Any]:
    """Two steps in this process; the guard has one query to score."""
    model, pairs = made(config)
    resolved = hardware.resolve(config.hardware)
    plan = training.Plan(config.train, dict(config.loss), Precision(resolved.precision), "cpu",
                         resolved.threads, config.seed, chunk=resolved.chunk)  # fmt: skip
    select = EvaluationSet("none", {"q": pairs[0].query}, {"d": pairs[0].positive}, {"q": {"d": 1}})
    out.mkdir()
    before, start = _peak(), time.perf_counter()
    result = training.train(model, pairs, select, plan, out)
    return {
        "peak_gib": round(_peak() / GIB, 2), "before_training_gib": round(before / GIB, 2),
        "steps": result["steps"], "seconds": round(time.perf_counter() - start, 1),
        "precision": resolved.precision.value, "chunk": resolved.chunk,
        "batch": config.train.batch_size, "max_length": config.train.max_length,
        "threads": resolved.threads,
    }  # fmt: skip


def _peak() -> int:
    """Bytes that this process has held at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def differences(config: Config, rows: int, chunk: int) -> dict[str, float]:
    """Relative difference of loss and gradients between chunks and the whole batch."""
    folder, pairs = made(config)
    model = models.load(folder).train()
    model.max_seq_length = config.train.max_length
    torch.set_num_threads(cpu.count())
    node = dict(config.loss)
    texts = [[pair.query for pair in pairs[:rows]], [pair.positive for pair in pairs[:rows]]]
    columns = [dict(model.preprocess(column)) for column in texts]
    plain = MultipleNegativesRankingLoss(model, scale=node["scale"])
    found = {}
    for name, dropout in (("", 0.0), ("_with_dropout", DROPOUT)):
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = dropout
        torch.manual_seed(0)
        loss, gradients = _backward(model, losses.build(node, model, chunk)(columns, None))
        torch.manual_seed(0)
        whole = _same_masks(model, plain, columns, chunk) if dropout else plain(columns, None)
        exact_loss, exact = _backward(model, whole)
        found[f"loss{name}"] = abs(loss - exact_loss) / exact_loss
        found[f"gradients{name}"] = float((gradients - exact).norm() / exact.norm())
    return found


def _backward(model: torch.nn.Module, loss: torch.Tensor) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    grads = [parameter.grad for parameter in model.parameters()]
    return loss.item(), torch.cat([grad.flatten() for grad in grads if grad is not None])


def _same_masks(
    model: torch.nn.Module, loss: MultipleNegativesRankingLoss, columns: list[dict], chunk: int
) -> torch.Tensor:
    """The loss of the whole batch, embedded in the chunks that GradCache makes."""
    vectors = [
        torch.cat([
            model(_create_minibatch(column, *ends))["sentence_embedding"]
            for ends in _minibatch_ranges(column, chunk)
        ])
        for column in columns
    ]  # fmt: skip
    return loss.compute_loss_from_embeddings(vectors, None)


def activations(autocast: torch.dtype | None, tokens: int = 128) -> float:
    """Megabytes that a BERT of 12 layers and 768 channels keeps of one text until the backward."""
    torch.manual_seed(0)
    config = BertConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = BertModel(config, add_pooling_layer=False).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    sizes = []
    for texts in (1, 2):  # the difference: autocast keeps its copies of the weights only once
        kept: dict[int, torch.Tensor] = {}
        with (
            torch.autograd.graph.saved_tensors_hooks(
                lambda t, kept=kept: kept.setdefault(t.untyped_storage().data_ptr(), t),
                lambda t: t,
            ),
            torch.autocast("cpu", autocast, enabled=autocast is not None),
        ):
            ids = torch.ones(texts, tokens, dtype=torch.long)
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
        sizes.append(sum(t.untyped_storage().nbytes() for place, t in kept.items()
                         if place not in weights))  # fmt: skip
    return (sizes[1] - sizes[0]) / 1e6


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=str(ROOT.parent / "shared/data"))
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--chunk", type=int, default=64, help="hardware.chunk")
    parser.add_argument("--precision", default="fp32", help="of the memory's measurement")
    parser.add_argument("--rows", type=int, default=64, help="of the batch whose gradients count")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/gradcache.json")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        result = train(configuration(asked, asked.child), asked.child / "trained")
        (asked.child / "memory.json").write_text(json.dumps(result), encoding="utf-8")
        return 0
    with tempfile.TemporaryDirectory() as name:
        config = configuration(asked, Path(name))
        made(config)
        subprocess.run([sys.executable, *sys.argv, f"--child={name}"], check=True)
        memory = json.loads((Path(name) / "memory.json").read_text(encoding="utf-8"))
        apart = differences(config, asked.rows, chunk=asked.rows // 4)
    kept = {"fp32": activations(None), "bf16": activations(torch.bfloat16)}
    result = {
        "memory": memory, "m3e_base_mb_a_text": {k: round(v, 1) for k, v in kept.items()},
        "relative_differences": {k: float(f"{v:.2g}") for k, v in apart.items()},
        "rows_compared": asked.rows, "dropout": DROPOUT,
        "bars": {"peak_gib": MOST_MEMORY, "gradients": MOST_DIFFERENCE},
        "machine": cpu.described(),
    }  # fmt: skip
    print(json.dumps(result, indent=2))
    asked.out.parent.mkdir(exist_ok=True)
    asked.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    worst = max(value for name, value in apart.items() if name.startswith("gradients"))
    return 0 if memory["peak_gib"] < MOST_MEMORY and worst <= MOST_DIFFERENCE else 1


if __name__ == "__main__":
    sys.exit(main())
