"""Hold the plan's memory estimates against the peaks of real runs, step by step.

python benchmarks/memory.py [--again] [--only WORDS]

Each case is a run on random texts, its steps executed as `finetune.pipeline` does; the kernel's
peak counter is set back before each. A case's training starts in a process of its own, as after a
stop, unless it is a *whole* run, which goes through in one process. Texts have 30 to 100 % of their
column's width, as real ones vary, or, where a case says *cut*, all as many tokens as training
reads. One thread, so that any machine gives the same; how busy it is does not count. Cases measured
before are not measured again without ``--again``; their estimates are. Writes
``benchmarks/results/memory.json``; exits with 1 when an estimate is off by more than 25 %.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.randoms import LETTERS, build, texts, write_dev

from finetune.machine import estimate
from finetune.machine.geometry import Geometry
from finetune.records import read_json, write_json, write_jsonl
from finetune.stage import Planned

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/memory.json"
BAR = 0.25
# Where a part of a case ends: before this step.
UNTIL = {("plan", "export-base"), ("before", "train"), ("train", "export")}
MIB = 1024**2
GEOMETRIES = {
    "tiny": Geometry(2, 32, 64, 4, 500, 512, 2),
    "m3e-small": Geometry(4, 512, 2048, 8, 21_128, 512, 2),
}
COMMON = "的一是不了人我在有他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之"


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        model: Of `GEOMETRIES`, with random weights, or ``starter``.
        recipe: What is trained of it.
        batch: Pairs.
        width: Tokens that training reads of a text; queries have a quarter.
        precision: Of training.
        cut: Whether every text is as long as training reads.
        steps: Of training.
        more: Overrides.
        whole: Whether all steps run in one process.
    """

    model: str
    recipe: str
    batch: int
    width: int
    precision: str
    cut: bool = False
    steps: int = 8
    more: tuple[str, ...] = ()
    whole: bool = False

    @property
    def name(self) -> str:
        """The case in words."""
        words = [self.recipe, self.model, f"{self.batch} pairs of {self.width} tokens"]
        words += [self.precision, f"{self.steps} steps", *(["cut"] if self.cut else []), *self.more]
        return ", ".join([*words, *(["whole run"] if self.whole else [])])


CASES = (
    Case("tiny", "full", 32, 128, "fp32"),
    Case("m3e-small", "full", 8, 64, "fp32", cut=True),
    Case("m3e-small", "full", 16, 128, "fp32", steps=40),
    Case("m3e-small", "full", 32, 128, "bf16"),
    Case("m3e-small", "full", 16, 128, "bf16", steps=120),
    Case("m3e-small", "full", 256, 128, "bf16", steps=3, more=("hardware.chunk=64",)),
    Case("m3e-small", "contrastive", 16, 128, "fp32"),
    Case("m3e-small", "lora", 32, 128, "bf16", more=("adapter.layers=2",)),
    Case("m3e-small", "prefix", 16, 256, "fp32"),
    Case("starter", "full", 32, 128, "bf16", whole=True),
    Case("starter", "full", 8, 256, "fp32"),
    Case("starter", "full", 16, 64, "bf16", cut=True),
    Case("starter", "full", 16, 128, "bf16", more=("train.dropout=0.1",)),
    Case("starter", "lora", 32, 128, "bf16", more=("train.epochs=2",), whole=True),
    Case("starter", "lora", 16, 256, "fp32"),
    Case("starter", "prefix", 32, 128, "bf16", whole=True),
    Case("starter", "prefix", 8, 64, "fp32"),
    Case("starter", "contrastive", 16, 128, "bf16", whole=True),
    Case("starter", "contrastive", 8, 64, "fp32"),
)


def main() -> int:
    """Measure what was not measured yet, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--again", action="store_true", help="measure all cases anew")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)  # case, folder, part of it
    asked = parser.parse_args()
    if asked.child:
        index, folder, part = asked.child
        print(json.dumps(child(CASES[int(index)], Path(folder), part)))
        return 0
    kept: dict[str, Any] = {} if asked.again or not RESULTS.is_file() else read_json(RESULTS)
    wrong = 0
    for case in CASES:
        if asked.only not in case.name:
            continue
        found = measure(case, kept.get(case.name, {}))
        kept[case.name] = found
        wrong += show(case, found)
        known = {each.name: kept[each.name] for each in CASES if each.name in kept}
        write_json(RESULTS, known)
    print(f"{wrong} estimates are off by more than {BAR:.0%}")
    return 1 if wrong else 0


def show(case: Case, found: dict[str, dict[str, Any]]) -> int:
    """Print a case; return how many of its estimates are off by more than the bar."""
    print(case.name)
    wrong = 0
    for step, row in found.items():
        over = abs(row["ratio"] - 1) > BAR
        wrong += over
        print(f"    {step:14} {row['measured'] / MIB:6.0f} MiB, estimate "
              f"{row['estimated'] / MIB:6.0f}: {100 * (row['ratio'] - 1):+6.1f} %"
              + (f" ({row['added'] / MIB:5.0f} beside the imports, estimate "
                 f"{row['estimated_added'] / MIB:5.0f})" if "added" in row else "")
              + (" !!" if over else ""), flush=True)  # fmt: skip
    return wrong


def measure(case: Case, known: dict[str, Any]) -> dict[str, Any]:
    """Run a case where its peaks are not known, and hold them against today's estimates."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = ["plan"] if known else ["whole"] if case.whole else ["before", "train"]
        prepare(case, folder)
        answers = [run(case, folder, part) for part in parts]
    estimated = answers[-1]["estimated"]
    peaks = {step: row["measured"] for step, row in known.items()} or {
        step: peak for answer in answers for step, peak in answer["peaks"].items()
    }
    found = {}
    for step, peak in peaks.items():
        if estimated[step] is None:  # light, as the plan says by saying nothing
            continue
        found[step] = {"measured": peak, "estimated": estimated[step],
                       "ratio": round(estimated[step] / peak, 3)}  # fmt: skip
        if step == "train" and not case.whole:
            added = known[step]["added"] if known else peak - answers[-1]["imports"]
            found[step] |= {"added": added, "estimated_added": estimated[step] - estimate.PROCESS}
    return found


def run(case: Case, folder: Path, part: str) -> dict[str, Any]:
    """Run a part of a case in a process of its own."""
    command = [sys.executable, __file__, "--child", str(CASES.index(case)), str(folder), part]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{case.name}: {part} failed\n{done.stderr[-4000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


# --- in a process of its own ---


def child(case: Case, folder: Path, part: str) -> dict[str, Any]:
    """Execute the steps of a part that are not cached, and read their peaks; estimate all."""
    from finetune import pipeline
    from finetune.config.compose import compose
    from finetune.machine import hardware
    from finetune.stage import execute, plan

    config = pipeline.resolve(compose(overrides(case, folder)))
    planned = plan(pipeline.steps_of(config), config.paths.cache)
    answer: dict[str, Any] = {"peaks": {}}
    if part == "train":  # what a process holds before it loads a model
        import finetune.training.train  # noqa: F401

        answer["imports"] = status("VmRSS")
    done: dict[str, Path] = {}
    for each in planned:
        name = each.step.name
        if (part, name) in UNTIL:
            break
        cached = each.cached
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is held now
        done[name] = execute(each, done).folder
        if not cached:
            answer["peaks"][name] = status("VmHWM")
        hardware.give_memory_back()
    answer["estimated"] = estimates(planned)
    return answer


def estimates(planned: Sequence[Planned]) -> dict[str, int | None]:
    """What a plan says once the base and its tokeniser are here.

    Without a tokeniser texts are taken for words, which have fewer tokens than chance letters.
    """
    from finetune.planning.facts import Facts
    from finetune.planning.forecast import predict

    facts = Facts(planned)
    return {each.step.name: predict(each.step, facts).memory for each in planned}


def overrides(case: Case, folder: Path) -> list[str]:
    """The command line of a case."""
    model = ["model=starter"]
    if case.model in GEOMETRIES:
        model = ["model=custom", f"model.path={folder}/model", "model.max_length=512",
                 "model.prompts={query: '', passage: ''}"]  # fmt: skip
    return [
        f"recipes={case.recipe}", *model, "domain=custom", f"domain.train={folder}/train.jsonl",
        f"domain.dev={folder}/dev", f"train.batch_size={case.batch}",
        f"train.max_length={case.width}", "train.checkpoints=1", "mine.relative_margin=0",
        "hardware=cpu", f"hardware.precision={case.precision}", "hardware.threads=1",
        "evaluate.speed_texts=20", "evaluate.samples=100", "tracking=none", "evaluate.general=null",
        f"paths.cache={folder}/cache", f"paths.runs={folder}/runs", *case.more,
    ]  # fmt: skip


def status(field: str) -> int:
    """Bytes that the kernel counts for this process."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


# --- models and texts ---


def prepare(case: Case, folder: Path) -> None:
    """Write a domain of random texts, and a model where it is none of the embedded one's."""
    own = GEOMETRIES.get(case.model)
    letters = LETTERS[: own.vocabulary - 5] if own else COMMON
    count = case.batch * case.steps
    # Some letters of the starter share a token.
    short, long = (2 * case.width,) * 2 if case.cut else (case.width // 4, case.width)
    queries = texts(count, short, letters, seed=1, whole=case.cut)
    passages = texts(count, long, letters, seed=2, whole=case.cut)
    rows = [{"query": q, "positive": p} for q, p in zip(queries, passages, strict=True)]
    write_jsonl(folder / "train.jsonl", rows)
    write_dev(folder / "dev", letters)
    if own:
        build(own, letters, folder / "model")


if __name__ == "__main__":
    sys.exit(main())
