"""Build every file of a report from the facts of a run."""

import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.config import Distill, to_dict
from finetune.evaluation.slices import slices
from finetune.evaluation.statistics import smallest_difference
from finetune.records import Score, write_json
from finetune.report import card, exports, page, scripts
from finetune.report.examples import Example, changed
from finetune.report.facts import (
    BASELINES,
    MAIN,
    SETS,
    Facts,
    Outcomes,
    counted,
    read_outcomes,
)
from finetune.report.figures import Plots, plotted
from finetune.report.gates import judge
from finetune.report.scores import measure, paired, speed_rows, timed_on
from finetune.report.similarity import calibrated, false_neighbours, similarity
from finetune.report.verdict import verdict
from finetune.report.words import Said
from finetune.script import KEEP
from finetune.sets import EvaluationSet, digest


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
    kinds = {each.name: slices(each, facts.model.max_length) for each in facts.sets
             if not scripts.is_converted(each.name)}  # fmt: skip
    rows = measure(outcomes, facts.evaluate.samples, facts.seed, kinds)
    gates = [*judge(outcomes, facts), *scripts.gates(outcomes, facts),
             *exports.unpublished(facts.parity)]  # fmt: skip
    scores = [row for row in rows if row.artifact not in BASELINES]
    report: dict[str, Any] = {
        "verdict": verdict(facts, scores, gates),
        "about": _about(facts),
        "scores": [dataclasses.asdict(row) for row in scores],
        "speed": speed_rows(facts.speeds, facts.evaluate.machine_price),
        "machine": {
            "price": facts.evaluate.machine_price,
            "currency": facts.evaluate.currency,
            "timed_on": timed_on(facts.speeds),
        },
        "gates": [to_dict(gate) for gate in gates],
        "stages": [],
        "baselines": [dataclasses.asdict(row) for row in rows if row.artifact in BASELINES],
        "data": dict(facts.data_summary),
        "mining": facts.mining and dict(facts.mining),
        "training": facts.training and dict(facts.training),
        "merge": facts.merge and dict(facts.merge),
        "parity": dict(facts.parity),
        "published": exports.published(facts.parity, gates),
        "cmteb": [dict(row) for row in facts.cmteb],
        "scripts": scripts.sections(
            outcomes, [each.name for each in facts.sets], facts.evaluate.samples, facts.seed
        ),
        "tokens": facts.tokens and dict(facts.tokens),
        "notes": [*_notes(facts, rows), *_visible(facts, outcomes)],
    }
    domain = next((each for each in facts.sets if each.name == facts.domain_set), None)
    report["similarity"] = similarity(outcomes, domain) if domain else {}
    report["thresholds"] = calibrated(facts, outcomes)
    if report["thresholds"]:
        write_json(out / "thresholds.json", report["thresholds"])
    plots = plotted(facts, rows, report["similarity"], report["thresholds"])
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
        "base_revision": facts.base_revision,
        "licence": facts.model.licence,
        "seed": facts.seed,
    }


def _notes(facts: Facts, rows: Sequence[Score]) -> Iterator[Said]:
    """What a reader must know before believing the scores."""
    main = {r.artifact: r.value for r in rows if r.set == facts.domain_set and r.metric in MAIN}
    lexical, tuned = main.get("bm25"), main.get("tuned")
    if lexical is not None and tuned is not None and lexical >= tuned:
        yield Said("note.bm25", lexical=f"{100 * lexical:.1f}", set=facts.domain_set,
                   tuned=f"{100 * tuned:.1f}")  # fmt: skip
    if facts.general_set is None:
        yield Said("note.forgetting")
    yield from exports.notes(facts.parity)
    if facts.script != KEEP:
        yield Said("note.script", way=facts.script)
    if facts.merge:
        yield Said("note.merged", why=facts.merge["why"])
    if facts.distill:
        yield Said("note.distill", parts=_parts(facts.distill))
    for name in facts.contaminated:
        yield Said("note.seen", name=name)
    if facts.data_seen:
        yield Said("note.card", told=facts.data_seen)
    seen = sorted({row["task"] for row in facts.cmteb if row["contaminated"]})
    if seen:
        yield Said("note.cmteb", tasks=", ".join(seen))
    if "unknown" in facts.model.trained_on:
        yield Said("note.unknown")


def _visible(facts: Facts, outcomes: Outcomes) -> Iterator[Said]:
    """Say which difference the domain's set can show at all."""
    base, tuned = (outcomes.get(name, {}).get(facts.domain_set) for name in ("base", "tuned"))
    if base is None or tuned is None or facts.kept_base:
        return
    before, after = paired(base, tuned)
    smallest = smallest_difference(after - before)
    if 0 < smallest < float("inf"):
        yield Said("note.visible", set=facts.domain_set, n=len(before),
                   counted=Said(f"counted.{counted(base.main)}"),
                   points=f"{100 * smallest:.1f}")  # fmt: skip


def _parts(distill: Distill) -> Said:
    sizes = {"note.layers": distill.layers, "note.pieces": distill.vocabulary}
    first, *more = [Said(key, size=size) for key, size in sizes.items() if size]
    return Said("note.both", one=first, other=more[0]) if more else first


def _changed(facts: Facts, outcomes: Outcomes) -> list[tuple[str, list[Example]]]:
    base, tuned = (outcomes.get(name, {}).get(facts.domain_set) for name in ("base", "tuned"))
    texts = next((each for each in facts.sets if each.name == facts.domain_set), None)
    if base is None or tuned is None or texts is None:
        return []
    rose, fell = changed(base, tuned, texts)
    found: list[tuple[str, list[Example]]] = [
        (Said("example.improved"), rose), (Said("example.worse"), fell),
    ]  # fmt: skip
    if isinstance(texts, EvaluationSet):
        found.append((Said("example.neighbours"), false_neighbours(tuned, texts)))
    return found
