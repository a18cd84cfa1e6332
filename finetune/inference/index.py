"""Nearest neighbours with faiss where exact search would take too long (an extra).

Exact search is `top_k`: for one pass over a corpus faiss's flat index does the same products no
faster, and orders equal scores by chance. What faiss adds are indexes that look at a part of the
corpus only:

- ``ivf``: the corpus in some thousands of clusters, of which a query is compared with the nearest.
  Built once over the corpus, in parts; the clusters may lie on disk. For many queries at once.
- ``hnsw``: a graph from neighbour to neighbour; the fastest for single queries and few neighbours,
  slow to build, and the whole corpus must fit in memory. For a service.
"""

import logging
import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.errors import UserError
from finetune.inference.search import Top, top_k
from finetune.inference.vectors import as_float32

log = logging.getLogger(__name__)

METHODS = ("exact", "auto", "ivf", "hnsw")
# Products of a query and a text up to which `auto` stays exact: at 384 numbers some minutes of two
# cores. Below some ten thousand queries building the clusters takes as long as comparing with all.
EXACT_PRODUCTS = 2 * 10**10
# Rows added, or trained on, at once.
BLOCK = 65_536
_LISTS = "clusters.ivf"

Find = Callable[[NDArray[np.number], int], Top]


def searcher(
    corpus: NDArray[np.number], method: str, queries: int, folder: Path | None = None
) -> Find:
    """Return a function of queries ``[n, d]`` and k that finds what `top_k` finds, or nearly.

    Args:
        corpus: ``[m, d]``, perhaps a memory map.
        method: ``exact``; ``ivf``; ``hnsw``; ``auto`` is exact up to `EXACT_PRODUCTS`, then ivf.
        queries: How many will be asked in all, for ``auto``.
        folder: Where clusters may lie; without it they are in memory. A graph always is.

    Raises:
        UserError: There is no such method, or faiss is needed and not installed.
    """
    if method not in METHODS:
        raise UserError(f"search={method}: expected {', '.join(METHODS)}")
    if method == "auto":
        method = "exact" if queries * len(corpus) <= EXACT_PRODUCTS else "ivf"
        if method == "ivf" and find_spec("faiss") is None:
            log.warning("search=auto: compares with every text, as faiss is not installed; faster: "
                        "pip install 'finetune[search]'")  # fmt: skip
            method = "exact"
    if method == "exact" or not len(corpus):
        return lambda asked, k: top_k(asked, corpus, k)
    return Index(corpus, method, folder).search


class Index:
    """A faiss index over unit vectors; `search` may be called from several threads.

    The same corpus gives the same index, however many threads build it.

    Args:
        corpus: ``[m, d]``, perhaps a memory map; read in parts, and again for what the index finds
            too little for.
        method: ``ivf`` or ``hnsw``.
        folder: Where the clusters of ``ivf`` lie (float32, as large as the corpus and, while it is
            built, up to twice); without it they are in memory.

    Raises:
        UserError: faiss is not installed.
    """

    def __init__(self, corpus: NDArray[np.number], method: str, folder: Path | None = None) -> None:
        self._corpus = corpus
        self._faiss = _faiss(method)
        self._index = self._ivf(folder) if method == "ivf" else self._hnsw()
        for start in range(0, len(corpus), BLOCK):
            self._index.add(as_float32(corpus[start : start + BLOCK]))
        if folder is not None and method == "ivf":
            # It stays readable until the index is gone, and then gives its space back by itself.
            (folder / _LISTS).unlink()

    def search(self, queries: NDArray[np.number], k: int) -> Top:
        """Find nearly the k nearest of each query; see `finetune.inference.top_k`.

        Where the clusters looked at hold less than k texts, the query is compared with all.
        """
        k = min(k, len(self._corpus))
        asked = as_float32(queries)
        scores, indices = self._index.search(asked, k, params=self._effort(k))
        short = np.flatnonzero((indices < 0).any(axis=1))
        if short.size:
            scores[short], indices[short] = top_k(asked[short], self._corpus, k)
        order = np.lexsort((indices, -scores), axis=-1)
        return np.take_along_axis(scores, order, 1), np.take_along_axis(indices, order, 1)

    def _effort(self, k: int) -> Any:
        """How far a search looks: the wanted ones must be a small part of those looked at."""
        if hasattr(self._index, "hnsw"):
            return self._faiss.SearchParametersHNSW(efSearch=max(128, 2 * k))
        clusters = self._index.nlist
        # A sixteenth of the corpus: recall@10 .955 on 19,312 real texts. And 32 texts for each one
        # wanted: with a sixteenth alone recall@100 was .87 there.
        probed = max(16, clusters // 16, math.ceil(32 * k * clusters / len(self._corpus)))
        return self._faiss.SearchParametersIVF(nprobe=min(clusters, probed))

    def _ivf(self, folder: Path | None) -> Any:
        rows, dim = self._corpus.shape
        # 4 sqrt(m), as faiss advises: to find the nearest clusters then costs a query no more than
        # to look into a few of them.
        clusters = max(1, min(2 ** round(math.log2(4 * math.sqrt(rows))), rows // 39))
        faiss = self._faiss
        metric = faiss.METRIC_INNER_PRODUCT
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, clusters, metric)
        index.cp.seed = 0
        # 64 texts a cluster place its centre; faiss would take 256 and four times as long.
        sample = np.random.default_rng(0).permutation(rows)[: 64 * clusters]
        index.train(as_float32(self._corpus[np.sort(sample)]))
        if folder is not None:
            self._lists = faiss.OnDiskInvertedLists(clusters, index.code_size, str(folder / _LISTS))
            index.replace_invlists(self._lists, False)
        return index

    def _hnsw(self) -> Any:
        # 32 neighbours each, chosen among 200: recall above .95 at hundreds of dimensions.
        dim = self._corpus.shape[1]
        index = self._faiss.IndexHNSWFlat(dim, 32, self._faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 200
        return index


def _faiss(method: str) -> Any:
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            f"search={method}: needs the package faiss-cpu: pip install 'finetune[search]', or "
            "take search=exact"
        ) from error
    return faiss
