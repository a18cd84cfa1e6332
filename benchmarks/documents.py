"""What pairs made from documents alone give on the embedded statutes, generator by generator.

python benchmarks/documents.py [--only title] [key=value …]

Writes one JSON a run to ``benchmarks/results/documents/``, and ``table.md`` with all that are
there; about 5 minutes a run on 2 cores. What is there is not repeated.
"""

import argparse
import sys

from common.runs import RESULTS, read, run, table

from finetune.config.ranges import GENERATORS

PAIRS = 3000
# What the table does not tell is not made.
COMMON = ["export.precisions=[fp32]", "evaluate.general=null"]


def variants() -> dict[str, list[str]]:
    """Overrides by name of the run."""
    alone = ["recipes=documents", "domain=statutes", f"generate.pairs={PAIRS}"]
    singles = {
        name: [*alone, *(f"generate.{each}={float(each == name)}" for each in GENERATORS)]
        # Statutes hold no questions: `question` makes none.
        for name in ("title", "heading", "phrases", "words", "cloze", "neighbours", "identity")
    }
    questions = ["recipes=contrastive", "domain=statutes"]
    return {
        "all": alone,
        **singles,
        "questions": questions,
        "questions-joined": [*questions, "generate=documents", "generate.pairs=1000"],
        "questions-warmup": [*questions, "generate=documents", "generate.pairs=1000",
                             "generate.use=warmup"],
    }  # fmt: skip


def main() -> int:
    """Run what is missing; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="runs whose name begins so")
    asked, more = parser.parse_known_args()
    folder = RESULTS / "documents"
    results = {path.stem: read(path) for path in folder.glob("*.json")}
    chosen = {name: words for name, words in variants().items() if name.startswith(asked.only)}
    made = {name: run(name, [*words, *COMMON, *more], folder) for name, words in chosen.items()}
    results |= {name: each for name, each in made.items() if each}
    told = table({name: results[name] for name in variants() if name in results}, "statutes",
                 timed=False)  # fmt: skip
    (folder / "table.md").write_text(told + "\n", encoding="utf-8")
    print(told)
    return int(None in made.values())


if __name__ == "__main__":
    sys.exit(main())
