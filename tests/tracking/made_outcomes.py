"""What queries got, in runs that never were."""

from collections.abc import Sequence
from pathlib import Path

from finetune.records import write_jsonl

QUALITY = [0.1 * (n % 10) for n in range(48)]


def write_outcome(path: Path, values: Sequence[float]) -> None:
    """Write what each query got."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"query": f"q{n}", "ndcg@10": v, "top": []} for n, v in enumerate(values)]
    write_jsonl(path, rows)
