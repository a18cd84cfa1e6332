"""What tests of the benchmarks share: their modules, and a run that never was."""

import importlib.util
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def benchmark(name, monkeypatch):
    """A benchmark's module under a name of its own: `tests` has folders that are called alike."""
    monkeypatch.syspath_prepend(BENCHMARKS)  # for what it imports
    (path,) = [*BENCHMARKS.glob(f"{name}.py"), *BENCHMARKS.glob(f"common/{name}.py")]
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made_up(wanted, metric="ndcg@10", low=0.01, step=60, gates=(), rate=40.0):
    """The kept JSON of a run that gained two points."""
    score = {"set": wanted, "metric": metric, "ci_low": 0.4, "ci_high": 0.5}
    return {
        "scores": [{**score, "artifact": "base", "value": 0.45},
                   {**score, "artifact": "tuned", "value": 0.47, "delta": 0.02, "p_value": 0.003,
                    "delta_low": low}],
        "speed": [{"artifact": "base", "texts_per_second": 40.0, "bytes": 138e6},
                  {"artifact": "tuned", "texts_per_second": rate, "bytes": 95e6}],
        "training": {"best_step": step, "steps": 120, "improved": step > 0,
                     "pairs_per_second": 6.0, "trainable_parameters": 23_000_000},
        "gates": list(gates), "peak_bytes": 2**33, "train_peak_bytes": 2**31,
    }  # fmt: skip
