"""Build every file of a report from the facts of a run."""

import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from finetune.config import Distill, to_dict
from finetune.evaluation.slices import slices
from finetune.records import EvaluationSet, Score, digest, read_dicts, write_json
from finetune.report import card, exports, page
from finetune.report.examples import Example, changed
from finetune.report.facts import (
    BASELINES,
    MAIN,
    METRIC_NAMES,
    SETS,
    Facts,
    Outcomes,
    is_cut,
    read_outcomes,
)
from finetune.report.gates import judge
from finetune.report.plots import Bar, Dot, bars, curve, scatter
from finetune.report.scores import by_length, measure, speed_rows
from finetune.report.similarity import calibrated, false_neighbours, similarity
from finetune.report.verdict import verdict

Plots = dict[str, tuple[str, Markup]]


def build(facts: Facts, out: Path) -> dict[str, Any]:
    """Write ``report.json``, ``report.html``, ``README.md``, ``plots/*.svg`` and ``outcomes/``.

    Where the select half was scored, ``thresholds.json`` too.

    Args:
        facts: What the run found out.
        out: Folder that gets the files.

    Returns:
        The content of ``report.json``; the pipeline fills ``stages`` when it publishes.
    """
    outcomes = read_outcomes(facts)
    kinds = {each.name: slices(each, facts.model.max_length) for each in facts.sets}
    rows = measure(outcomes, facts.evaluate.samples, facts.seed, kinds)
    gates = [*judge(outcomes, facts), *exports.unpublished(facts.parity)]
    scores = [row for row in rows if row.artifact not in BASELINES]
    report: dict[str, Any] = {
        "verdict": verdict(facts, scores, gates),
        "about": _about(facts),
        "scores": [dataclasses.asdict(row) for row in scores],
        "speed": speed_rows(facts.speeds, facts.evaluate.machine_price),
        "machine": {"price": facts.evaluate.machine_price, "currency": facts.evaluate.currency},
        "gates": [to_dict(gate) for gate in gates],
        "stages": [],
        "baselines": [dataclasses.asdict(row) for row in rows if row.artifact in BASELINES],
        "data": dict(facts.data_summary),
        "mining": facts.mining and dict(facts.mining),
        "training": facts.training and dict(facts.training),
        "merge": facts.merge and dict(facts.merge),
        "parity": dict(facts.parity),
        "cmteb": [dict(row) for row in facts.cmteb],
        "notes": list(_notes(facts, rows)),
    }
    domain = next((each for each in facts.sets if each.name == facts.domain_set), None)
    report["similarity"] = similarity(outcomes, domain) if domain else {}
    report["thresholds"] = calibrated(facts, outcomes)
    if report["thresholds"]:
        write_json(out / "thresholds.json", report["thresholds"])
    plots = _plots(facts, rows)
    _keep_outcomes(facts, out / "outcomes")
    _write(out, facts, report, _changed(facts, outcomes), plots)
    return report


def _write(
    out: Path,
    facts: Facts,
    report: Mapping[str, Any],
    examples: Sequence[tuple[str, Sequence[Example]]],
    plots: Plots,
) -> None:
    write_json(out / "report.json", report)
    (out / "README.md").write_text(card.render(facts, report), encoding="utf-8")
    html = page.render(facts, report, examples, plots)
    (out / "report.html").write_text(html, encoding="utf-8")
    (out / "plots").mkdir(exist_ok=True)
    for name, (_, svg) in plots.items():
        (out / "plots" / f"{name}.svg").write_text(svg, encoding="utf-8")


def _keep_outcomes(facts: Facts, out: Path) -> None:
    """Put together what each query got, and which sets those were, for later comparisons."""
    for folder in facts.outcomes:
        shutil.copytree(folder, out, dirs_exist_ok=True)
    write_json(out / SETS, {each.name: digest(each) for each in facts.sets})


def _about(facts: Facts) -> dict[str, Any]:
    return {
        "recipe": facts.recipe,
        "domain": facts.domain,
        "domain_set": facts.domain_set,
        "model": facts.model.name,
        "base_model": facts.base_model,
        "licence": facts.model.licence,
        "seed": facts.seed,
    }


def _notes(facts: Facts, rows: Sequence[Score]) -> Iterator[str]:
    """What a reader must know before believing the scores."""
    main = {r.artifact: r.value for r in rows if r.set == facts.domain_set and r.metric in MAIN}
    lexical, tuned = main.get("bm25"), main.get("tuned")
    if lexical is not None and tuned is not None and lexical >= tuned:
        yield (
            f"BM25, which only counts shared characters, scores {100 * lexical:.1f} points on "
            f"{facts.domain_set}, the tuned model {100 * tuned:.1f}: consider BM25, or both."
        )
    if facts.general_set is None:
        yield (
            "Forgetting was not measured: what tuning did to questions outside the domain is "
            "unknown. To measure it, name a BEIR-shaped folder of them: evaluate.general=<folder>."
        )
    yield from exports.notes(facts.parity)
    if facts.merge:
        yield f"Merged with the base: {facts.merge['why']}."
    if facts.distill:
        yield (
            f"base is the teacher, tuned its student of {_parts(facts.distill)}, which saw "
            "passages of the corpus, without queries or labels, while it learned."
        )
    for name in facts.contaminated:
        yield f"The base saw {name} in training: its score there is too good, and so may others be."
    seen = sorted({row["task"] for row in facts.cmteb if row["contaminated"]})
    if seen:
        yield f"Of C-MTEB, data of {', '.join(seen)} was trained on: scores there are too good."
    if "unknown" in facts.model.trained_on:
        yield "What the base was trained on is unknown, so that any set here may be contaminated."


def _parts(distill: Distill) -> str:
    sizes = {"layers": distill.layers, "pieces of vocabulary": distill.vocabulary}
    return " and ".join(f"{size} {name}" for name, size in sizes.items() if size)


def _changed(facts: Facts, outcomes: Outcomes) -> list[tuple[str, list[Example]]]:
    base, tuned = (outcomes.get(name, {}).get(facts.domain_set) for name in ("base", "tuned"))
    texts = next((each for each in facts.sets if each.name == facts.domain_set), None)
    if base is None or tuned is None or texts is None:
        return []
    rose, fell = changed(base, tuned, texts)
    found = [("Improved most", rose), ("Got worse most", fell)]
    if isinstance(texts, EvaluationSet):
        worst = false_neighbours(tuned, texts)
        found.append(
            ("Hardest false neighbours: no answers that the tuned model puts first", worst)
        )
    return found


def _plots(facts: Facts, rows: Sequence[Score]) -> Plots:
    """Draw what there is to draw; a plot without data is left out."""
    main = [row for row in rows if row.metric in MAIN and not is_cut(row.artifact)]
    curves = list(read_dicts(facts.curves)) if facts.curves else []
    best = facts.training["best_step"] if facts.training else None
    values = {row.artifact: row.value for row in main if row.set == facts.domain_set}
    dots = [
        Dot(artifact, speed["texts_per_second"], 100 * values[artifact])
        for artifact, speed in facts.speeds.items()
        if artifact in values and speed["texts_per_second"] > 0
    ]
    name = METRIC_NAMES[facts.metric]
    names = " and ".join(dict.fromkeys(METRIC_NAMES[row.metric] for row in main))
    kinds = [row for row in main if "/" in row.set and row.artifact in ("base", "tuned")]
    drawn = {
        "scores": (f"{names} with 95 % intervals", _groups(r for r in main if "/" not in r.set)),
        "lengths": (
            f"{name} on {facts.domain_set} by length of the vector",
            _lengths(rows, facts.domain_set),
        ),
        "kinds": (f"{name} by kind of query", _groups(kinds)),
        "select": (
            f"{name} while training, on a small part of the select half; step 0 is "
            + ("the untrained student" if facts.distill else "the base"),
            curve(
                curves, f"eval_{facts.metric}", "select score over steps", scale=100, best_step=best
            ),
        ),
        "loss": ("Training loss", curve(curves, "loss", "loss over steps")),
        "speed": (
            f"Speed against quality: {name} on {facts.domain_set}",
            scatter(dots, "quality over throughput"),
        ),
    }
    return {name: (caption, svg) for name, (caption, svg) in drawn.items() if svg}


def _lengths(rows: Sequence[Score], name: str) -> Markup | None:
    found = next((table for table in by_length(rows) if table.set == name), None)
    if found is None:
        return None
    groups = {
        artifact: [Bar(s.artifact, 100 * s.value, 100 * s.ci_low, 100 * s.ci_high) for s in scores]
        for artifact, scores in found.rows.items()
    }
    return bars(groups, "scores by length of the vector")


def _groups(rows: Iterator[Score] | Sequence[Score]) -> Markup | None:
    groups: dict[str, list[Bar]] = {}
    for row in rows:
        bar = Bar(row.artifact, 100 * row.value, 100 * row.ci_low, 100 * row.ci_high)
        groups.setdefault(row.set, []).append(bar)
    return bars(groups, "scores with intervals") if groups else None
