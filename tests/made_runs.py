"""Run directories of runs that never were, as far as a comparison reads them."""

from pathlib import Path

import numpy as np
import yaml

from finetune.evaluation.artifacts import Outcome, write_outcome
from finetune.records import write_json


def finished(folder: Path, gain=0.0, seed=1, recipe="full", sets=None, int8=None, **more) -> Path:
    """30 queries, on which the base has .45; tuned model and INT8 gain on each query alike."""
    values = np.linspace(0.2, 0.7, 30)
    gains = {"base": 0.0, "tuned": gain} | ({} if int8 is None else {"onnx-int8-dynamic": int8})
    for artifact, change in gains.items():
        path = folder / "outcomes" / artifact / "dev.jsonl"
        path.parent.mkdir(parents=True)
        ids = tuple(f"q{n}" for n in range(30))
        metrics = {m: values + change for m in ("ndcg@10", "mrr@10", "recall@100")}
        write_outcome(path, Outcome(ids, metrics, (("d",),) * 30))
    write_json(folder / "outcomes/sets.json", sets or {"dev": "abc"})
    write_json(folder / "report.json", {})
    config = {"recipe": recipe, "seed": seed, "run_dir": str(folder), "train": more}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder
