"""What pairs made from documents alone give on the embedded statutes, generator by generator.

python benchmarks/documents.py [key=value …]

Writes one JSON a run to ``benchmarks/results/documents/``, and ``table.md``; about 5 minutes a run
on 2 cores. What is there is not repeated.
"""

import sys

from runs import RESULTS, run, table

from finetune.config.ranges import GENERATORS

PAIRS = 3000
# What the table does not tell is not made.
COMMON = ["export.precisions=[fp32]", "evaluate.general=null"]


def variants() -> dict[str, list[str]]:
    """Overrides by name of the run."""
    alone = ["recipes=documents", "domain=statutes", f"generate.pairs={PAIRS}"]
    singles = {
        name: [*alone, *(f"generate.{each}={float(each == name)}" for each in GENERATORS)]
        # Statutes hold no questions, and only as many titles as laws.
        for name in ("title", "heading", "phrases", "words", "cloze", "neighbours")
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
    folder = RESULTS / "documents"
    results = {name: run(name, [*words, *COMMON, *sys.argv[1:]], folder)
               for name, words in variants().items()}  # fmt: skip
    told = table(results, "statutes", timed=False)
    (folder / "table.md").write_text(told + "\n", encoding="utf-8")
    print(told)
    return int(None in results.values())


if __name__ == "__main__":
    sys.exit(main())
