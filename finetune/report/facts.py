"""What the report is made from, and the order in which it tells it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune import hub
from finetune.config import Distill, Evaluate, Model
from finetune.config.choices import Lang
from finetune.data.contamination import plain
from finetune.evaluation import sts
from finetune.evaluation.artifacts import Outcome, read_outcome
from finetune.report.words import Said
from finetune.script import KEEP
from finetune.sets import AnySet, EvaluationSet, RerankingSet, ScoredSet

# The metrics that decide: of retrieval sets, of scored sets, of reranking sets.
MAIN = (EvaluationSet.main, ScoredSet.main, RerankingSet.main)
METRIC_NAMES = {"ndcg@10": "NDCG@10", "mrr@10": "MRR@10", "recall@100": "Recall@100", "map": "MAP",
                "spearman": "Spearman", "ap": "AP", "f1": "best F1"}  # fmt: skip
BASELINES = ("bm25",)
ARTIFACTS = ("base", "tuned", "onnx-fp32", "onnx-fp16", "onnx-int8-dynamic", "onnx-int8-static",
             "openvino-int8")  # fmt: skip

SETS = "sets.json"  # beside outcomes: digests of the sets that they are of

# Of each artifact, by set, what every query got.
Outcomes = Mapping[str, Mapping[str, Outcome]]


@dataclass(frozen=True)
class Facts:
    """What a run found out.

    Attributes:
        recipe: Name of the recipe.
        domain: Name of the domain.
        model: The base model.
        evaluate: Statistics and gates.
        seed: Of the run; resampling uses it too.
        outcomes: Folders that hold ``<artifact>/<set>.jsonl``.
        speeds: ``latency_ms``, ``texts_per_second`` and ``bytes`` by artifact.
        data_summary: What the data step read, kept and dropped, by reason.
        mining: What mining kept and dropped; None without mining.
        training: ``base``, ``best``, ``best_step``, ``improved``, ``steps``, ``stopped_at``,
            ``pairs_per_second``, ``rows_left_out`` of an epoch, ``parameters``,
            ``trainable_parameters`` and, where the model loads with a package only, ``requires``;
            None where nothing was trained.
        curves: JSON Lines with ``step``, ``loss``, ``learning_rate``, ``eval_<metric>``.
        parity: By precision, how close the exported model comes to torch (``min_cosine``,
            ``mean_cosine``, …) and ``misses``, the floors that kept it from being published.
        sets: The report half: the texts of the examples.
        domain_set: Name of the set that the verdict and the gain gate are about.
        general_set: Name of the set on which forgetting was measured; None where it was not.
        merge: Content of ``merge.json``; None where the tuned model was left as it is.
        distill: Of a student: then the base is its teacher.
        select: The folder with ``<artifact>/<set>.jsonl`` of the select half, and that half.
        tokens: What the tokenizer makes of the texts, as `finetune.data.tokens.report` tells it.
        noise: Some pairs that were left out for their rank (`finetune.steps.noise.samples`).
        script: How the encoder converts texts before it tokenises them.
        cmteb: Rows of C-MTEB, as `finetune.evaluation.cmteb.rows` gathers them.
        lang: Of the page.
        data_licences: What the data card says of its sources' licences; None without a card.
        data_flaws: What the data card warns of.
        data_seen: What the base saw of the domain's data, by the card; None where that is silent.
        adapter: ``adapter/`` is published beside the merged model, for peft.
        dim: Length that the bundle cuts its vectors to unless told otherwise; None: whole.
    """

    recipe: str
    domain: str
    model: Model
    evaluate: Evaluate
    seed: int
    outcomes: Sequence[Path]
    speeds: Mapping[str, Mapping[str, Any]]
    data_summary: Mapping[str, Any]
    mining: Mapping[str, Any] | None
    training: Mapping[str, Any] | None
    curves: Path | None
    parity: Mapping[str, Any]
    sets: Sequence[AnySet]
    domain_set: str
    general_set: str | None = None
    merge: Mapping[str, Any] | None = None
    distill: Distill | None = None
    select: tuple[Path, AnySet] | None = None
    cmteb: Sequence[Mapping[str, Any]] = ()
    lang: Lang = Lang.en
    data_licences: str | None = None
    data_flaws: Sequence[str] = ()
    data_seen: str | None = None
    adapter: bool = False
    dim: int | None = None
    tokens: Mapping[str, Any] | None = None
    script: str = KEEP
    noise: Sequence[Mapping[str, Any]] = ()

    @property
    def kept_base(self) -> bool:
        """True when the guard found nothing better than the base."""
        return self.training is not None and not self.training["improved"]

    @property
    def metric(self) -> str:
        """The metric that decides on the domain's set."""
        return next(each.main for each in self.sets if each.name == self.domain_set)

    @property
    def base_model(self) -> str:
        """What the base is called where it comes from: hub id, else folder name, else name."""
        return self.model.id or (self.model.path.name if self.model.path else self.model.name)

    @property
    def base_revision(self) -> str:
        """Which of its revisions was tuned; ``unknown`` of folders and the embedded model."""
        return hub.pinned(self.model) or "unknown"

    @property
    def speedup(self) -> float:
        """How many times the base's texts a second the tuned model encodes."""
        tuned, base = (self.speeds[name]["texts_per_second"] for name in ("tuned", "base"))
        return float(tuned / base)

    @property
    def contaminated(self) -> list[str]:
        """Evaluation sets whose public namesake the base saw in training."""
        seen = {plain(name) for name in self.model.trained_on}
        return [each.name for each in self.sets if plain(each.name) in seen]


def read_outcomes(facts: Facts) -> dict[str, dict[str, Outcome]]:
    """Read every outcome: artifacts in telling order, the domain's set before the others."""
    found: dict[str, dict[str, Outcome]] = {}
    for folder in facts.outcomes:
        for artifact, by_set in read_folder(folder).items():
            found.setdefault(artifact, {}).update(by_set)
    return {
        artifact: {
            name: found[artifact][name]
            for name in sorted(found[artifact], key=lambda name: (name != facts.domain_set, name))
        }
        for artifact in in_order(found)
    }


def read_folder(folder: Path) -> dict[str, dict[str, Outcome]]:
    """Read a folder with ``<artifact>/<set>.jsonl``."""
    found: dict[str, dict[str, Outcome]] = {}
    for path in sorted(folder.glob("*/*.jsonl")):
        found.setdefault(path.parent.name, {})[path.stem] = read_outcome(path)
    return found


def counted(metric: str) -> str:
    """What a metric is a mean over."""
    return "pairs" if metric in sts.METRICS else "queries"


def in_order(artifacts: Iterable[str]) -> list[str]:
    """Sort artifacts: baselines, base, tuned, then what was exported; whole vectors before cut."""
    known = BASELINES + ARTIFACTS

    def place(artifact: str) -> tuple[int, str, bool, int]:
        name, cut, dim = artifact.partition("@")
        return (known.index(name) if name in known else len(known)), name, cut != "", -int(dim or 0)

    return sorted(artifacts, key=place)


def is_cut(artifact: str) -> bool:
    """Say whether an artifact is another's vectors, cut to their first numbers: ``tuned@256``."""
    return "@" in artifact


def exact_and_served(
    artifacts: Collection[str], artifact: str, dim: int | None
) -> tuple[str, str] | None:
    """Find what an INT8 artifact is judged by: at the length that the bundle serves, if scored.

    Args:
        artifacts: Names of those that were scored.
        artifact: Name of the INT8 one.
        dim: Length that the bundle cuts vectors to; None leaves them whole.

    Returns:
        The name of what it is held to, ONNX fp32 or torch where that was not published, and its
        own; None where they were not both scored.
    """
    for cut in ([f"@{dim}"] if dim else []) + [""]:
        for exact in ("onnx-fp32", "tuned"):
            if exact + cut in artifacts and artifact + cut in artifacts:
                return exact + cut, artifact + cut
    return None


def tuned_and_set(artifacts: Collection[str], facts: Facts) -> tuple[str, str]:
    """Find what the gain is judged by: at the length that the bundle serves, if scored.

    Args:
        artifacts: Names of those that were scored.
        facts: Of the run.

    Returns:
        The name of the tuned model's vectors, and of the domain's set, which tells their length.
    """
    cut = f"tuned@{facts.dim}"
    if cut not in artifacts:
        return "tuned", facts.domain_set
    return cut, Said("gate.cut", set=facts.domain_set, dim=str(facts.dim))
