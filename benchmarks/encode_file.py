"""Files of any size: encoding that is killed twice, and mining over a million vectors.

python benchmarks/encode_file.py --data ../shared/data [--texts 200000] [--vectors 1000000]
    [--only encode|mine] [--bundle <folder>] [--work <folder>]

``encode``: `finetune encode --input` over so many texts (those of the domains, over and over, each
with a number of its own), once as a whole and once killed (SIGKILL) at two random moments; the
files must be equal to the last byte, and memory must keep to twice the model file and 200 MB. A
tenth of the texts must take as much memory, and the same time a text within 25 %.
``mine``: `finetune.mining.mine` of 2,000 pairs over pools of an eighth, a quarter, a half and all
of the vectors, which lie on disk in float16; each in a process of its own. Its own memory (without
the pages of the file, which the kernel takes back when it needs them) must not grow with the
vectors but only with the texts, and time must be linear: seconds for a vector within 25 % of each
other. Writes ``benchmarks/results/encode_file.json``; exits with 1 where a bar is missed.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from common.engines import ROOT, bundle, child, texts_of

RESULTS = ROOT / "benchmarks/results/encode_file.json"
DIM, CANDIDATES, PART = 384, 50, 50_000
LINEAR = 0.25
SHARES = (8, 4, 2, 1)
ENCODING, MINING = 300, 3e-5  # texts a second, and seconds a vector for 2,000 queries, assumed


def main() -> int:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--texts", type=int, default=200_000)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--only", choices=("encode", "mine"))
    parser.add_argument("--bundle", type=Path, help="default: the starter's, made once")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "inference")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(mine(Path(asked.child[0]), int(asked.child[1]), asked.queries)))
        return 0
    if not (asked.data / "legal").is_dir():
        print(f"skipped: no folder {asked.data / 'legal'}; name the data with --data")
        return 0
    seconds = {"encode": 2.2 * asked.texts / ENCODING,
               "mine": 2.5 * asked.vectors * MINING * asked.queries / 2000}  # fmt: skip
    parts = [asked.only] if asked.only else list(seconds)
    print(f"about {sum(seconds[part] for part in parts) / 60:.0f} min", flush=True)
    kept = json.loads(asked.out.read_text("utf-8")) if asked.out.is_file() else {}
    asked.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=asked.work) as name:
        for part in parts:
            kept[part] = {"encode": encoding, "mine": mining}[part](asked, Path(name))
            print(json.dumps(kept[part], indent=1), flush=True)
            asked.out.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    return int(not all(kept[part]["met"] for part in parts))


def encoding(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Encode the texts as a whole, and killed twice."""
    made = asked.bundle or bundle("starter", asked.work, asked.data)
    source, few = folder / "texts.txt", folder / "few.txt"
    known = [text.replace("\n", " ") for text in texts_of(asked.data, asked.texts)]
    lines = (f"{known[n % len(known)]} {n}\n" for n in range(asked.texts))
    with source.open("w", encoding="utf-8") as file, few.open("w", encoding="utf-8") as tenth:
        for number, line in enumerate(lines):
            file.write(line)
            if number < asked.texts // 10:
                tenth.write(line)
    small = encode(made, few, folder / "few.npy")
    whole = encode(made, source, folder / "whole.npy")
    rng = random.Random(0)
    moments = [rng.uniform(0.1, 0.4) * whole["seconds"] for _ in range(2)]
    parts = [encode(made, source, folder / "killed.npy", seconds) for seconds in moments]
    last = encode(made, source, folder / "killed.npy")
    same = (folder / "whole.npy").read_bytes() == (folder / "killed.npy").read_bytes()
    size = (made / "int8-dynamic/model.onnx").stat().st_size / 1e6
    bounded = whole["peak_mb"] <= min(small["peak_mb"] + 100, 2 * size + 200)
    each = whole["seconds"] / asked.texts, small["seconds"] / (asked.texts // 10)
    linear = max(each) / min(each) - 1
    return {
        "texts": asked.texts, "seconds": whole["seconds"], "peak_mb": whole["peak_mb"],
        "bar_mb": round(2 * size + 200), "peak_mb_of_a_tenth": small["peak_mb"],
        "seconds_of_a_tenth": small["seconds"], "spread_of_seconds_a_text": round(linear, 3),
        "killed_after": [p["seconds"] for p in parts],
        "done_when_killed": [p["done"] for p in parts], "last_seconds": last["seconds"],
        "identical": same, "met": same and bounded and linear <= LINEAR,
    }  # fmt: skip


def encode(made: Path, source: Path, out: Path, until: float | None = None) -> dict[str, Any]:
    """Run the command, perhaps killed after some seconds; seconds, rows done, peak MB."""
    words = ["encode", str(made), "--input", str(source), "--output", str(out)]
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from finetune.cli import main; " \
           "sys.exit(main(sys.argv[1:]))"  # fmt: skip
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, "-c", code, *words])
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, memory(process.pid).get("VmHWM", 0))
        if until is not None and time.monotonic() - start > until:
            process.kill()
        time.sleep(0.05)
    if process.returncode not in (0, -9):
        raise SystemExit(f"finetune encode: exit code {process.returncode}")
    record = out.with_name(out.name + ".json")
    done = json.loads(record.read_text("utf-8"))["done"] if record.is_file() else 0
    return {"seconds": round(time.monotonic() - start, 1), "done": done, "peak_mb": round(peak)}


def memory(pid: int | str) -> dict[str, float]:
    """MB that the kernel counts for a process; nothing where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {line.split(":")[0]: int(line.split()[1]) / 1000 for line in lines if "kB" in line}


def mining(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Mine over growing pools."""
    file = folder / "pool.npy"
    write_pool(file, asked.vectors)
    sizes = [asked.vectors // share for share in SHARES]
    more = ["--queries", str(asked.queries)]
    found = {
        str(size): child([__file__, "--child", str(file), str(size), *more], threads=2)
        for size in sizes
    }
    file.unlink()
    each = [row["seconds"] / int(size) for size, row in found.items()]
    beside = [row["own_mb"] for row in found.values()]
    # Texts and their normalised form, about 250 bytes each, are the caller's and in memory.
    allowed = beside[0] + 250e-6 * (sizes[-1] - sizes[0]) + 100
    linear = max(each) / min(each) - 1
    return {
        "queries": asked.queries, "pools": found, "spread_of_seconds_a_vector": round(linear, 3),
        "met": linear <= LINEAR and beside[-1] <= allowed,
    }  # fmt: skip


def write_pool(file: Path, count: int) -> None:
    """Random unit vectors in float16, part by part."""
    rng = np.random.default_rng(0)
    out = np.lib.format.open_memmap(file, "w+", np.float16, (count, DIM))
    for start in range(0, count, PART):
        part = rng.standard_normal((min(PART, count - start), DIM), np.float32)
        out[start : start + PART] = part / np.linalg.norm(part, axis=1, keepdims=True)
    out.flush()


def mine(file: Path, size: int, queries: int) -> dict[str, float]:
    """Mine in this process over the first so many vectors of a file."""
    from finetune import mining as miner
    from finetune.records import Pair

    vectors = np.load(file, mmap_mode="r")[:size]
    rng = np.random.default_rng(1)
    asks = np.asarray(vectors[rng.integers(0, size, queries)], np.float32)
    asks += 0.5 * rng.standard_normal(asks.shape, np.float32) / DIM**0.5
    asks /= np.linalg.norm(asks, axis=1, keepdims=True)
    pairs = [Pair(str(n), f"问{n}", f"答{n}", "random") for n in range(queries)]
    pool = miner.Pool([f"文{n}" for n in range(size)], vectors)
    most = [0.0]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            most[0] = max(most[0], memory("self")["RssAnon"])

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    rows = list(miner.mine(pairs, asks, asks, pool, negatives=1, candidates=CANDIDATES,
                           relative_margin=0.05))  # fmt: skip
    seconds = time.perf_counter() - start
    stop.set()
    watcher.join()
    return {
        "seconds": round(seconds, 2), "own_mb": round(most[0]),
        "mined": sum(mined is not None for mined, _ in rows),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
