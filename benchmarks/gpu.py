"""Every recipe for a short training on a GPU, in each precision that a hardware profile names.

python benchmarks/gpu.py [--pairs 6400] [--recipes plain full lora]
python benchmarks/gpu.py --device cpu --model tiny --pairs 64 --out <file>    (a smoke test)

Random texts, and random weights in the geometry of m3e-base: nothing is downloaded and nothing is
learned; quality is the business of other benchmarks. Recipes that name sources of a domain or mix
sets in are left out. Each run has a process of its own; its data, mining and student are made
before the training is measured: pairs a second with the guard and the checkpoint, peak memory
against the plan's estimate, and model-FLOPs use, which is the operations that the method needs
(`finetune.machine.geometry`) over what a large matrix product reaches here in the same precision.
The plain sentence-transformers script trains on the same pairs. Goes on where it stopped; writes
``benchmarks/results/gpu.json`` by device, and prints a table; exits with 1 where an estimate is off
by more than 25 %.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from common.randoms import LETTERS, build, recipes, texts, write_dev

from finetune import cpu
from finetune.machine import rates
from finetune.machine.geometry import M3E_BASE, Geometry
from finetune.records import read_json, write_json, write_jsonl

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/gpu.json"
RECIPES = recipes(ROOT / "recipes")
GEOMETRIES = {"m3e-base": M3E_BASE, "tiny": Geometry(6, 32, 64, 4, 500, 512, 2)}
BATCH, WIDTH, QUERY = 64, 128, 32  # pairs; characters of a passage and of a query, at most
YARDSTICK = {"pairs": 50_000, "hours": 4, "recipe": "lora", "gpus": ("v100", "a10")}
MIB = 1024**2
BAR = 0.25  # what an estimate may be off by


def precisions(device: str) -> list[str]:
    """What the hardware profiles of such a device name."""
    profiles = (yaml.safe_load(path.read_text("utf-8"))
                for path in sorted((ROOT / "configs/hardware").glob("*.yaml")))  # fmt: skip
    named = {each["precision"] for each in profiles if each["device"] == device}
    return sorted(named - {"auto"}) or ["fp32"]


def overrides(asked: argparse.Namespace, recipe: str, precision: str, folder: Path) -> list[str]:
    """The command line of a run."""
    kind = "scored" if recipe == "cosent" else "pairs"
    data = folder / kind
    words = [
        f"recipes={recipe}", "model=custom", f"model.path={folder}/model", "model.max_length=512",
        "model.prompts={query: '', passage: ''}", "domain=custom", f"domain.kind={kind}",
        f"domain.train={data}/train.jsonl", f"domain.dev={data}/dev",
        f"hardware.device={asked.device}", f"hardware.precision={precision}",
        f"train.batch_size={BATCH}", f"train.max_length={WIDTH}",
        "train.epochs=1", "train.checkpoints=1", "mine.relative_margin=0", "evaluate.general=null",
        f"limit={asked.pairs}", "export.precisions=[fp32]", "tracking=none",
        f"paths.cache={folder}/cache", f"paths.runs={folder}/runs",
    ]  # fmt: skip
    if recipe in ("documents", "simcse", "warmup"):
        words += [f"domain.documents={folder}/documents.jsonl", f"generate.pairs={asked.pairs}"]
    if recipe == "queries":
        words += [
            f"domain.queries={folder}/queries.txt",
            f"domain.documents={folder}/documents.jsonl",
        ]
    if recipe == "matryoshka":
        words.append(f"loss.matryoshka_dims={[GEOMETRIES[asked.model].hidden, 16]}")
    if recipe == "distill":
        words.append(f"distill.layers={GEOMETRIES[asked.model].layers // 2}")
    return words


def prepare(asked: argparse.Namespace, folder: Path) -> None:
    """Write the model and the data of every recipe."""
    geometry = GEOMETRIES[asked.model]
    letters = LETTERS[: geometry.vocabulary - 5]
    queries, passages = texts(asked.pairs, QUERY, letters, 1), texts(asked.pairs, WIDTH, letters, 2)
    pairs = list(zip(queries, passages, strict=True))
    rows = [{"query": query, "positive": passage} for query, passage in pairs]
    write_dev(folder / "pairs/dev", letters)
    write_jsonl(folder / "pairs/train.jsonl", rows)
    (folder / "scored/dev").mkdir(parents=True)
    write_jsonl(folder / "scored/train.jsonl",
                [{"a": query, "b": passage, "score": index % 2}
                 for index, (query, passage) in enumerate(pairs)])  # fmt: skip
    others = zip(texts(80, QUERY, letters, 3), texts(80, WIDTH, letters, 4), strict=True)
    write_jsonl(folder / "scored/dev/test.jsonl",
                [{"sentence1": query, "sentence2": passage, "label": index % 2}
                 for index, (query, passage) in enumerate(others)])  # fmt: skip
    documents = [{"id": f"d{index}", "title": query, "text": f"{query}。{passage}"}
                 for index, (query, passage) in enumerate(pairs)]  # fmt: skip
    write_jsonl(folder / "documents.jsonl", documents)
    asked_for = "".join(f"{each['text'][:-1]}\n" for each in documents)
    (folder / "queries.txt").write_text(asked_for, encoding="utf-8")
    build(geometry, letters, folder / "model")


def run(command: list[str]) -> dict[str, Any]:
    """Run a command; its last line is JSON."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-4000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(asked: argparse.Namespace, recipe: str, precision: str, folder: Path) -> dict[str, Any]:
    """One training: ours, or the plain script's."""
    if recipe == "plain":
        out = folder / "plain" / precision
        return run([
            sys.executable, str(ROOT / "benchmarks/plain.py"), str(folder / "pairs/train.jsonl"),
            str(folder / "model"), str(out), "--precision", precision, "--device", asked.device,
            "--batch-size", str(BATCH), "--max-length", str(WIDTH),
        ])  # fmt: skip
    words = overrides(asked, recipe, precision, folder)
    return run([sys.executable, __file__, "--child", *words])


# --- in a process of its own ---


def child(words: list[str]) -> dict[str, Any]:
    """Execute the steps before the training, then the training, and tell what that took."""
    from finetune import pipeline
    from finetune.config.compose import compose
    from finetune.machine.geometry import Adapter, forward_flops, training_passes
    from finetune.planning.facts import Facts
    from finetune.planning.forecast import predict
    from finetune.stage import execute, plan

    config = pipeline.resolve(compose(words))
    planned = plan(pipeline.steps_of(config), config.paths.cache)
    done: dict[str, Path] = {}
    for each in planned:
        step = each.step
        if step.name == "train":
            break
        done[step.name] = execute(each, done).folder
    facts = Facts(planned)
    geometry, found = facts.geometry_of(step), facts.rows(step)
    assert geometry is not None and found is not None  # the steps before have made them
    lengths = [min(length, WIDTH) for length in found[1].ravel().tolist()]
    row = forward_flops(geometry, lengths) / len(found[1])
    passes = training_passes(geometry, Adapter.of(step.settings["adapter"], geometry), 1)
    forget_peak(step.settings["device"])
    result = read_json(execute(each, done).folder / "training.json")
    return {
        "pairs_per_second": result["pairs_per_second"], "steps": result["steps"],
        "trainable_parameters": result["trainable_parameters"],
        "peak_bytes": peak(step.settings["device"]), "estimated_bytes": predict(step, facts).memory,
        "flops_a_pair": passes * row,
    }  # fmt: skip


def forget_peak(device: str) -> None:
    """Count the peak from what is held now."""
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak(device: str) -> int:
    """Most bytes held since: of the GPU, or of this process."""
    if device == "cuda":
        import torch

        free, whole = torch.cuda.mem_get_info()
        context = whole - free - torch.cuda.memory_reserved()  # CUDA's own, which runs need too
        return context + torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def multiply(device: str, precision: str) -> float:
    """Operations a second of a large square matrix product; median of ten."""
    import torch

    size = 8192 if device == "cuda" else 1024
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(12):
        start = time.perf_counter()
        torch.matmul(left, right)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds[2:])


# --- the table ---


def name_of(device: str) -> str:
    """What the device calls itself."""
    if device == "cuda":
        import torch

        return str(torch.cuda.get_device_name())
    return cpu.name()


def table(found: Mapping[str, Any]) -> Iterator[str]:
    """A line a run, and what the yardstick would take."""
    yield "| run | pairs/s | of the plain script's | peak, MiB | estimate | model-FLOPs use |"
    yield "| --- " * 6 + "|"
    runs, products = found["runs"], found["matmul_flops"]
    for name, row in runs.items():
        recipe, precision = name.rsplit("-", 1)
        plain = runs.get(f"plain-{precision}", row)["pairs_per_second"]
        cells = [name, f"{row['pairs_per_second']:.0f}", f"{row['pairs_per_second'] / plain:.2f}",
                 f"{row['peak_bytes'] / MIB:.0f}"]  # fmt: skip
        if recipe == "plain":
            cells += ["", ""]
        else:
            use = row["flops_a_pair"] * row["pairs_per_second"] / products[precision]
            cells += [f"{row['estimated_bytes'] / row['peak_bytes'] - 1:+.0%}", f"{use:.0%}"]
        yield f"| {' | '.join(cells)} |"
    yield from yardstick(runs, products)


def off(runs: Mapping[str, Any]) -> list[str]:
    """The runs whose memory the plan does not estimate within the bar; the plain ones have none."""
    return [name for name, row in runs.items() if "estimated_bytes" in row
            and abs(row["estimated_bytes"] / row["peak_bytes"] - 1) > BAR]  # fmt: skip


def yardstick(runs: Mapping[str, Any], products: Mapping[str, float]) -> Iterator[str]:
    """Hours of the family's published training here, and on its GPUs at the same use of them."""
    pairs, recipe = YARDSTICK["pairs"], YARDSTICK["recipe"]
    for name, row in runs.items():
        precision = name.rsplit("-", 1)[1]
        if name != f"{recipe}-{precision}":
            continue
        seconds = pairs / row["pairs_per_second"]
        use = row["flops_a_pair"] * row["pairs_per_second"] / products[precision]
        needed = pairs * row["flops_a_pair"] / use
        guesses = [f"{needed / rates.PEAK[gpu][precision == 'fp32'] / 60:.1f} on {gpu}"
                   for gpu in YARDSTICK["gpus"]]  # fmt: skip
        yield (f"{name}, {pairs:,} pairs, an epoch: {seconds / 60:.1f} minutes here; at the same "
               f"use of the data sheet's peak {', '.join(guesses)} "
               f"(published: {YARDSTICK['hours']} hours)")  # fmt: skip


def supported(device: str, precision: str) -> bool:
    """Whether the device computes in it; told where it does not."""
    if device == "cuda" and precision == "bf16":
        import torch

        if not torch.cuda.is_bf16_supported(including_emulation=False):
            print(f"skipped: {name_of(device)} has no bf16")
            return False
    return True


def main() -> int:
    """Run what is missing; print and write the table."""
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(sys.argv[2:])))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--model", default="m3e-base", choices=tuple(GEOMETRIES))
    parser.add_argument("--pairs", type=int, default=6_400)
    parser.add_argument("--recipes", nargs="*", default=["plain", *RECIPES])
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    import torch

    if asked.device == "cuda" and not torch.cuda.is_available():
        print("skipped: no GPU that this torch can use; --device cpu --model tiny tries the script")
        return 0
    results = read_json(asked.out) if asked.out.is_file() else {}
    mine = results.setdefault(name_of(asked.device), {"matmul_flops": {}, "runs": {}})
    mine |= {"torch": torch.__version__, "model": asked.model, "pairs": asked.pairs,
             "batch_size": BATCH, "max_length": WIDTH}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        prepare(asked, Path(folder))
        for precision in filter(
            lambda each: supported(asked.device, each), precisions(asked.device)
        ):
            mine["matmul_flops"].setdefault(precision, multiply(asked.device, precision))
            for recipe in asked.recipes:
                if f"{recipe}-{precision}" not in mine["runs"]:
                    found = measure(asked, recipe, precision, Path(folder))
                    mine["runs"][f"{recipe}-{precision}"] = found
                    write_json(asked.out, results)
    print(asked.device, name_of(asked.device), *table(mine), sep="\n")
    wrong = off(mine["runs"])
    print(f"{len(wrong)} estimates are off by more than {BAR:.0%}: {', '.join(wrong) or 'none'}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
