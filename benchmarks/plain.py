"""The script that everybody writes: sentence-transformers' trainer with its usual values.

python benchmarks/plain.py <train.jsonl> <model folder> <out folder> [--precision bf16] [--seed 1]

Multiple negatives ranking loss at scale 20, learning rate 2e-5, batches of 32 in random order, one
epoch, the last weights kept. No selection of pairs, no mining, nothing measured while it trains.
It is given what many forget: the model's prompts, and batches without equal texts. Other benchmarks
compare with it; it imports nothing of ours. Prints one line of JSON.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.training_args import BatchSamplers


def read(path: Path) -> Dataset:
    """The pairs of a JSON Lines file."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    columns = ("query", "positive")
    return Dataset.from_dict({name: [row[name] for row in rows] for name in columns})


def arguments(asked: argparse.Namespace, model: SentenceTransformer, device: str) -> dict:
    """The trainer's arguments."""
    prompts = {"query": model.prompts.get("query") or "",
               "positive": model.prompts.get("passage") or ""}  # fmt: skip
    return {
        "output_dir": str(asked.out / "trainer"),
        "num_train_epochs": asked.epochs,
        "per_device_train_batch_size": asked.batch_size,
        "learning_rate": asked.learning_rate,
        "warmup_steps": 0.1,
        "bf16": asked.precision == "bf16",
        "fp16": asked.precision == "fp16",
        "use_cpu": device == "cpu",
        "seed": asked.seed,
        "prompts": prompts,
        "batch_sampler": BatchSamplers.NO_DUPLICATES,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "logging_steps": 10**9,
        "dataloader_pin_memory": device != "cpu",
    }


def train(asked: argparse.Namespace) -> dict:
    """Train, save, and say how fast it was and what it took."""
    device = asked.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if asked.threads:
        torch.set_num_threads(asked.threads)
    model = SentenceTransformer(str(asked.model), device=device)
    window = model.max_seq_length
    model.max_seq_length = asked.max_length
    pairs = read(asked.train)
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(**arguments(asked, model, device)),
        train_dataset=pairs,
        loss=MultipleNegativesRankingLoss(model, scale=asked.scale),
    )
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    model.max_seq_length = window
    model.save(str(asked.out / "model"), create_model_card=False)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else peak_resident()
    trained = trainer.state.global_step * asked.batch_size
    return {"pairs": len(pairs), "precision": asked.precision, "seconds": round(seconds, 2),
            "peak_bytes": peak, "pairs_per_second": round(trained / seconds, 2)}  # fmt: skip


def peak_resident() -> int:
    """Peak resident memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Read the command line, train, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--scale", type=float, default=20.0)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", choices=("cuda", "cpu"))
    asked = parser.parse_args()
    print(json.dumps(train(asked)))


if __name__ == "__main__":
    main()
