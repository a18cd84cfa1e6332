"""Domains of random texts and models of random weights, for benchmarks of time and memory."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from finetune.machine.geometry import Geometry
from finetune.records import write_jsonl

LETTERS = "".join(chr(0x4E00 + i) for i in range(20_000))  # of models with random weights


def texts(count: int, width: int, letters: str, seed: int, *, whole: bool = False) -> list[str]:
    """Texts of 30 to 100 % of a width in characters, as real ones vary; or all of it.

    Args:
        count: How many.
        width: Characters; a model of random weights takes each for a token.
        letters: To draw from.
        seed: Of the draw.
        whole: Whether every text has the full width.
    """
    rng = random.Random(seed)
    return ["".join(rng.choices(letters, k=width if whole else _length(rng, width)))
            for _ in range(count)]  # fmt: skip


def _length(rng: random.Random, width: int) -> int:
    return max(2, int(width * rng.uniform(0.3, 1)))


def write_dev(folder: Path, letters: str, queries: int = 40, passages: int = 80) -> None:
    """Write an evaluation folder; the i-th passage answers the i-th query."""
    folder.mkdir(parents=True)
    for name, width, count in (("queries", 16, queries), ("corpus", 64, passages)):
        rows = enumerate(texts(count, width, letters, seed=count))
        write_jsonl(folder / f"{name}.jsonl", [{"id": f"{name[0]}{i}", "text": t} for i, t in rows])
    lines = ["query-id\tcorpus-id\tscore", *(f"q{i}\tc{i}\t1" for i in range(queries))]
    (folder / "qrels.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def recipes(folder: Path) -> list[str]:
    """Names of the recipes that random texts will do for."""
    return [path.stem for path in sorted(folder.glob("*.yaml"))
            if not _names_data(yaml.safe_load(path.read_text("utf-8")))]  # fmt: skip


def _names_data(recipe: Mapping[str, Any]) -> bool:
    """Whether it is bound to real data: to sources of a domain, or to sets that it mixes in."""
    parts = {part: name for each in recipe.get("defaults", []) for part, name in each.items()}
    sources = recipe.get("domain", {}).get("sources")
    return bool(sources or recipe.get("mix")) or parts.get("override /mix", "none") != "none"


def build(geometry: Geometry, letters: Sequence[str], out: Path) -> None:
    """Write a transformers folder of random weights whose vocabulary is Chinese characters."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    names += [f"[unused{i}]" for i in range(geometry.vocabulary - len(names))]
    config = BertConfig(
        vocab_size=geometry.vocabulary, hidden_size=geometry.hidden,
        num_hidden_layers=geometry.layers, num_attention_heads=geometry.heads,
        intermediate_size=geometry.ffn, max_position_embeddings=geometry.positions,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(out)
    BertTokenizerFast(vocab={name: i for i, name in enumerate(names)}).save_pretrained(out)
