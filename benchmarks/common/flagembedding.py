"""FlagEmbedding's trainer in an environment of its own: `domains.py` holds one domain against it.

The learning rate is its documentation's, the temperature its default. A query comes with one
negative, drawn from all positives, as its documentation advises where none are known. Batches,
epochs and lengths are the script's (`plain.py`).
"""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.runs import ROOT

from finetune.errors import UserError

VERSION = "1.4.2"
_TRAINER = "FlagEmbedding.finetune.embedder.encoder_only.base"
_SETTINGS = {
    "train_group_size": 2,
    "query_max_len": 128,
    "passage_max_len": 128,
    "query_instruction_format": "{}{}",
    "per_device_train_batch_size": 32,
    "num_train_epochs": 1,
    "learning_rate": 1e-5,
    "temperature": 0.02,
    "warmup_steps": 0.1,
    "dataloader_drop_last": True,
    "normalize_embeddings": True,
    "save_strategy": "no",
    "report_to": "none",
}  # fmt: skip
_MADE = ("config.json", "model.safetensors")  # what training changes of a model's folder


def environment(folder: Path) -> Path:
    """Install the trainer, where that is not done, with the packages that we are tested with.

    Returns:
        Its Python.

    Raises:
        UserError: If it does not install.
    """
    python = folder / "bin/python"
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    words = ["-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt",
             f"FlagEmbedding=={VERSION}"]  # fmt: skip
    done = subprocess.run([python, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"FlagEmbedding {VERSION} does not install: {done.stderr.strip()[-500:]}")
    return python


def rows(pairs: Sequence[Mapping[str, str]], seed: int) -> list[dict[str, object]]:
    """Pairs in its columns, each with another row's positive as its negative."""
    rng = random.Random(seed)
    positives = sorted({pair["positive"] for pair in pairs})
    return [
        {"query": pair["query"], "pos": [pair["positive"]],
         "neg": [each for each in rng.sample(positives, 2) if each != pair["positive"]][:1]}
        for pair in pairs
    ]  # fmt: skip


def command(python: Path, model: Path, folder: Path, seed: int, precision: str) -> list[str]:
    """The command that trains on ``folder/rows.jsonl`` and writes to ``folder/trained``."""
    told = json.loads((model / "config_sentence_transformers.json").read_text("utf-8"))
    pooling = json.loads((model / "1_Pooling/config.json").read_text("utf-8"))
    asked = {
        **_SETTINGS,
        "model_name_or_path": model,
        "train_data": folder / "rows.jsonl",
        "cache_path": folder / "datasets",
        "output_dir": folder / "trained",
        "query_instruction_for_retrieval": told["prompts"]["query"],
        "passage_instruction_for_retrieval": told["prompts"]["passage"],
        "sentence_pooling_method": pooling["pooling_mode"],
        "bf16": precision == "bf16",
        "seed": seed,
    }  # fmt: skip
    pairs = ([f"--{name}", str(value)] for name, value in asked.items())
    return [str(python), "-m", _TRAINER, *(word for pair in pairs for word in pair)]


def completed(model: Path, folder: Path) -> Path:
    """A model folder of what it saved, which has no pooling and prompts: those of the base."""
    made = folder / "model"
    shutil.copytree(model, made)
    for name in _MADE:
        shutil.copy(folder / "trained" / name, made / name)
    return made
