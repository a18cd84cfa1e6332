"""The choices that keys of a configuration leave, one enum each."""

from enum import Enum


class Source(Enum):
    """Where a domain's data comes from: the user's files, or the embedded law articles."""

    files = "files"
    statutes = "statutes"


class Kind(Enum):
    """What a domain's training rows hold, and with it how the domain is evaluated.

    A query and a text that answers it, evaluated by retrieval; or two texts and a score of how
    alike they are, evaluated by the similarity of pairs.
    """

    pairs = "pairs"
    scored = "scored"


class Hub(Enum):
    """Where a base model comes from."""

    starter = "starter"
    huggingface = "huggingface"
    modelscope = "modelscope"
    local = "local"


class Precision(Enum):
    """Number format of the forward pass in training; ``auto`` asks the machine."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Search(Enum):
    """How neighbours are found: among all, in clusters, in a graph, or ``auto`` by the sizes."""

    exact = "exact"
    auto = "auto"
    ivf = "ivf"
    hnsw = "hnsw"


class Tracker(Enum):
    """Where runs are recorded."""

    mlflow = "mlflow"
    none = "none"


class Lang(Enum):
    """Language of the report's page."""

    en = "en"
    zh = "zh"


class Use(Enum):
    """What becomes of pairs made from documents; ``warmup`` trains on them before the others."""

    none = "none"
    only = "only"
    join = "join"
    warmup = "warmup"


class BadRows(Enum):
    """What happens to rows that cannot be used: end the run, or leave them out and count them."""

    stop = "stop"
    drop = "drop"


class Leak(Enum):
    """Which training pairs count as leaks of the evaluation sets, and are dropped.

    ``strict`` drops, beside leaks, pairs whose positive answers an evaluation query; ``off`` drops
    none, and tells what it would have dropped.
    """

    default = "default"
    strict = "strict"
    off = "off"


class Duplicates(Enum):
    """How alike two pairs must be for the second to be dropped; each includes those before it."""

    none = "none"
    exact = "exact"
    punctuation = "punctuation"
    script = "script"
