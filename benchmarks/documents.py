"""What pairs made from documents alone give on the embedded statutes, generator by generator.

python benchmarks/documents.py [key=value …]

Writes one JSON a run to ``benchmarks/results/documents/`` and prints the table; about 8 minutes a
run on 2 cores. The report half decides nothing here: the shares in ``configs/generate`` were
chosen on the select half (``training.best`` of each JSON).
"""

import sys

from runs import RESULTS, run, table

GENERATORS = ("title", "heading", "question", "phrases", "cloze", "neighbours", "identity")
PAIRS = 3000


def variants() -> dict[str, list[str]]:
    """Overrides by name of the run."""
    alone = ["recipes=documents", "domain=statutes", f"generate.pairs={PAIRS}"]
    singles = {
        name: [*alone, *(f"generate.{each}={float(each == name)}" for each in GENERATORS)]
        for name in ("heading", "phrases", "cloze", "neighbours")  # statutes hold no questions
    }
    return {
        "all": alone,
        **singles,
        "questions": ["recipes=contrastive", "domain=statutes"],
        "questions-joined": ["recipes=contrastive", "domain=statutes", "generate=documents",
                             "generate.use=join", f"generate.pairs={PAIRS}"],
        "questions-warmup": ["recipes=contrastive", "domain=statutes", "generate=documents",
                             "generate.use=warmup", f"generate.pairs={PAIRS}"],
    }  # fmt: skip


def main() -> int:
    """Run what is missing; print the table."""
    folder = RESULTS / "documents"
    results = {name: run(name, [*words, *sys.argv[1:]], folder)
               for name, words in variants().items()}  # fmt: skip
    print(table(results, "statutes"))
    return int(None in results.values())


if __name__ == "__main__":
    sys.exit(main())
