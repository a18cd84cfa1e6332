"""Settings that have the right type and still cannot work."""

import inspect
import math
import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from operator import attrgetter
from typing import Any

from hydra.utils import get_class

from finetune import script
from finetune.config import Config, Mine, augmentation, writing
from finetune.config.choices import Kind, Source, Use
from finetune.config.ranges import GENERATORS, RANGES
from finetune.errors import first_line, nearest

PRECISIONS = ("fp32", "fp16", "int8-dynamic", "int8-static", "openvino-int8")
# What a floor of ``export.floors`` may be of.
_CLOSENESS = ("min_cosine", "mean_cosine", "centred_cosine", "top10_overlap")

# Losses of sentence-transformers whose labels are a teacher's vectors.
_VECTOR_LOSSES = ("EmbedDistillLoss", "MSELoss")

_ADAPTER_SIZES = ("layers", "length", "peft.r")
OWN = "domain"  # what the domain's own rows are called beside mixed sets
# Losses of sentence-transformers that learn from two texts and a score.
_SCORED_LOSSES = ("CoSENTLoss", "AnglELoss", "CosineSimilarityLoss")
_CHOICES = {"model.pooling": ("mean", "cls"), "hardware.device": ("auto", "cpu", "cuda"),
            "hardware.attention": ("sdpa", "eager", "lean", "flash_attention_2"),
            "export.precisions": PRECISIONS}  # fmt: skip


def problems(config: Config) -> Iterator[str]:
    """Say what is out of range, no valid choice, or at odds with another setting."""
    for key, (low, high) in RANGES.items():
        value = attrgetter(key)(config)
        if value is not None and not value > low:
            bound = "0 or more" if low < 0 else f"greater than {low:g}"
            yield f"{key}={value}: must be {bound}"
        elif value is not None and not value <= high:
            yield f"{key}={value}: must be at most {high:g}"
    for key, options in _CHOICES.items():
        value = attrgetter(key)(config)
        wrong = [each for each in (value if isinstance(value, list) else [value])
                 if each not in (*options, None)]  # fmt: skip
        if wrong or value == []:
            yield f"{key}={value}: choose from: {', '.join(options)}"
    if set(config.model.prompts) != {"query", "passage"}:
        yield f"model.prompts: has {sorted(config.model.prompts)}; expected query and passage"
    shares = [getattr(config.generate, name) for name in GENERATORS]
    if config.generate.use is not Use.none and not (sum(shares) or config.writer.asked):
        yield (
            f"generate.use={config.generate.use.value}: no generator has a share; add "
            "generate=documents, or give one a share, as generate.cloze=1"
        )
    yield from writing.problems(config.writer, makes_pairs=config.generate.use is not Use.none)
    yield from _adapter_problems(config.adapter)
    yield from _merge_problems(config)
    yield from _distill_problems(config)
    yield from _dims_problems(config)
    yield from _export_problems(config)
    yield from _mine_problems(config.mine)
    yield from _domain_problems(config)
    if config.domain.kind is Kind.scored:
        yield from _scored_problems(config)
    yield from _mix_problems(config)
    yield from _noise_problems(config)
    yield from _pseudo_problems(config)
    yield from augmentation.problems(config.augment, distilled=config.distill.asked)
    yield from script.problems(
        config.script, config.opencc, config.encode, distilled=config.distill.asked
    )


def _domain_problems(config: Config) -> Iterator[str]:
    """Say what cannot name a domain, and where own data would be left for the statutes."""
    domain = config.domain
    if not re.fullmatch(r"[\w-][\w.-]*", domain.name):  # it names folders
        yield f"domain.name={domain.name!r}: expected letters, digits, -, _ and ."
    if domain.source is not Source.statutes:
        return
    for key in ("train", "dev", "test", "documents", "queries"):
        value = getattr(domain, key)
        if value is not None:
            yield (
                f"domain.{key}={value}: domain={domain.name} brings its own data and would not "
                "read yours; add domain=custom"
            )


def _mine_problems(mine: Mine) -> Iterator[str]:
    if not mine.rounds:
        return
    if mine.negatives > mine.candidates:
        yield (
            f"mine.negatives={mine.negatives}: only mine.candidates={mine.candidates} neighbours "
            "are looked at; raise mine.candidates"
        )
    search = mine.search.value
    if search in ("ivf", "hnsw") and find_spec("faiss") is None:
        yield (
            f"mine.search={search}: needs the package faiss-cpu; pip install 'finetune[search]', "
            "or set mine.search=exact"
        )


def _scored_problems(config: Config) -> Iterator[str]:
    if config.mine.rounds:
        yield f"mine.rounds={config.mine.rounds}: scored pairs take no negatives; set mine=none"
    if config.generate.use is not Use.none:
        yield (
            f"generate.use={config.generate.use.value}: makes pairs of a query and its answer, and "
            f"domain={config.domain.name} holds scored pairs; set generate=none"
        )


def _noise_problems(config: Config) -> Iterator[str]:
    if not config.noise.cut:
        return
    ranks = f"noise.cut={config.noise.cut}: ranks the answers of queries"
    if config.domain.kind is Kind.scored:
        yield f"{ranks}, and scored pairs have none; set noise=none"
    if config.distill.asked:
        yield f"{ranks}, and a student learns vectors; set noise=none"


def _pseudo_problems(config: Config) -> Iterator[str]:
    use = config.pseudo.use
    if use is Use.none:
        return
    if use is Use.warmup:
        yield f"pseudo.use={use.value}: choose from: none, join, only"
    given = f"pseudo.use={use.value}: gives queries an answer"
    if config.domain.kind is Kind.scored:
        yield f"{given}, and scored pairs have none; set pseudo.use=none"
    if config.distill.asked:
        yield f"{given}, and a student learns vectors; set pseudo.use=none"
    if config.script in script.WHOLE:
        yield (
            f"{given} as they are, and script={config.script} would convert the passages alone; "
            f"set script={script.KEEP} or pseudo.use=none"
        )


def _mix_problems(config: Config) -> Iterator[str]:
    for name, each in config.mix.items():
        if name == OWN:
            yield f"mix.{name}: the name of the domain's own rows; choose another"
        if not 0 < each.weight < 1:
            yield f"mix.{name}.weight={each.weight}: must be greater than 0 and less than 1"
        if each.prompts and set(each.prompts) != {"query", "passage"}:
            yield f"mix.{name}.prompts: has {sorted(each.prompts)}; expected query and passage"
        wanted = kind_of(each.loss or config.loss)
        if each.kind is not wanted:
            yield (
                f"mix.{name}.kind={each.kind.value}: its loss learns from rows of the kind "
                f"{wanted.value}; give it one of its own, as +loss@mix.{name}.loss=cosent for "
                "scored or mnrl for pairs"
            )
    total = sum(each.weight for each in config.mix.values())
    if total >= 1:
        yield f"mix: weights add up to {total:g}; must be less than 1: the rest is the domain's"


def kind_of(loss: Mapping[str, Any]) -> Kind:
    """Say what rows a loss learns from, by the name of its target."""
    if isinstance(loss.get("loss"), Mapping):  # of a loss around another, as matryoshka
        return kind_of(loss["loss"])
    name = str(loss.get("_target_", "")).rpartition(".")[2]
    return Kind.scored if name in _SCORED_LOSSES else Kind.pairs


def _adapter_problems(adapter: Mapping[str, Any]) -> Iterator[str]:
    """The numbers of an adapter; the schema leaves its keys and their types open."""
    peft = adapter.get("peft")
    inside = peft if isinstance(peft, Mapping) else {}
    if "peft" in adapter and "_target_" not in inside:
        yield f"adapter.peft={peft}: must be a peft config: a _target_ and what it takes"
    numbers = {**adapter, **{f"peft.{key}": value for key, value in inside.items()}}
    for key in _ADAPTER_SIZES:
        if key in numbers and (type(numbers[key]) is not int or numbers[key] < 1):
            yield f"adapter.{key}={numbers[key]}: must be a whole number, 1 or more"
    limit = numbers.get("cache_gb", 0)
    if type(limit) not in (int, float) or not 0 <= limit < math.inf:
        yield f"adapter.cache_gb={limit}: must be a number of gigabytes, 0 or more"


def _merge_problems(config: Config) -> Iterator[str]:
    for weight in config.merge.weights:
        if not 0 < weight <= 1:
            yield (
                f"merge.weights={config.merge.weights}: {weight:g} is no share of the tuned "
                "weights; expected numbers above 0 and at most 1"
            )
    if config.merge.weights and "prefix" in str(config.adapter.get("_target_")):
        yield "merge: a prefix cannot be merged with the base, which has none; leave merge=none"


def _dims_problems(config: Config) -> Iterator[str]:
    dims = config.loss.get("matryoshka_dims", [])
    if not (isinstance(dims, list) and all(type(dim) is int and dim > 0 for dim in dims)):
        yield f"loss.matryoshka_dims={dims}: expected lengths of vectors, as in [256, 128]"
    elif config.export.dim is not None and config.export.dim not in dims:
        yield (
            f"export.dim={config.export.dim}: the model is trained to be cut to "
            f"{', '.join(map(str, dims)) or 'no length at all'}; choose one of these, or train "
            "for it with recipes=matryoshka and loss.matryoshka_dims"
        )


def _distill_problems(config: Config) -> Iterator[str]:
    loss = str(config.loss.get("_target_", "")).rpartition(".")[2]
    if not config.distill.asked:
        if loss in _VECTOR_LOSSES:
            yield f"loss: {loss} learns a teacher's vectors; there is none: set distill=layers6"
        return
    if loss not in _VECTOR_LOSSES:
        yield f"distill: {loss} cannot learn a teacher's vectors; set loss=distill"
    if config.mix:
        yield "distill: a student learns from its teacher alone; leave mix out"
    if config.mine.rounds:
        yield "distill: a student learns vectors, not negatives; set mine=none"
    if config.generate.use is Use.warmup:
        yield "distill: a student has no warm-up; set generate.use=join or none"
    if config.merge.weights:
        yield "distill: a student cannot be merged with its larger teacher; set merge=none"
    if not config.distill.texts:
        yield "distill.texts=0: must be greater than 0 for a student"


def _export_problems(config: Config) -> Iterator[str]:
    floors = config.export.floors
    for name in config.export.precisions:
        if name in PRECISIONS and name not in floors:
            yield f"export.floors.{name}: not set; it says how close to torch {name} must be"
    for name, floor in floors.items():
        for key in sorted(set(floor).difference(_CLOSENESS)):
            yield f"export.floors.{name}.{key}: unknown; {nearest(key, _CLOSENESS)}"
    if "openvino-int8" in config.export.precisions and find_spec("openvino") is None:
        yield (
            "export.precisions: openvino-int8 needs the package openvino; "
            "pip install 'finetune[openvino]'"
        )


def target_problems(name: str, node: Mapping[str, Any]) -> Iterator[str]:
    """Bind the keys of a ``_target_`` node, and of the nodes inside it, to the targets' signatures.

    Not part of `compose`: it imports the target, and with it torch.
    """
    target = str(node.get("_target_", ""))
    if not target:
        yield f"{name}: no _target_ (the class that makes it)"
        return
    try:
        signature = inspect.signature(get_class(target))
    except (ImportError, ValueError) as error:
        yield f"{name}._target_={target}: {first_line(error)}"
        return
    known = [key for key in signature.parameters if key != "model"]
    for key, value in node.items():
        if not key.startswith("_") and key not in known:
            yield f"{name}.{key}: {target} has no parameter {key!r}; {nearest(key, known)}"
        elif isinstance(value, Mapping) and "_target_" in value:
            yield from target_problems(f"{name}.{key}", value)
