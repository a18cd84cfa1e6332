"""The INT8 models of a bundle: fitted to texts of the domain, worst parts kept in fp32."""

import logging
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finetune.config import Quantize
from finetune.export.int8 import Int8Plan, quantize
from finetune.export.parity import Comparison, Parity
from finetune.export.sensitivity import Kept, keep_worst
from finetune.export.weights import Form, Prepared, prepare
from finetune.inference import OnnxEncoder
from finetune.inference.onnx import Feed

log = logging.getLogger(__name__)

FORMS = {
    "int8-dynamic": Form.dynamic,
    "int8-static": Form.static,
    "openvino-int8": Form.static,
}


class Quantizer:
    """Makes the INT8 models of one bundle; holds what they share.

    Args:
        fp32: The graph.
        encoder: Runs it.
        texts: Texts to fit to, in an order that has nothing to do with what they are.
        settings: How.
        comparison: Tells how close a model comes to the reference.
        threads: Threads of ONNX Runtime; None takes every CPU.
    """

    def __init__(
        self,
        fp32: Path,
        encoder: OnnxEncoder,
        texts: Sequence[str],
        settings: Quantize,
        comparison: Comparison,
        *,
        threads: int | None,
    ) -> None:
        self.fp32, self.encoder, self.texts, self.settings = fp32, encoder, texts, settings
        self.comparison, self.threads = comparison, threads
        self._prepared: dict[Form, Prepared] = {}
        self.kept: dict[Form, Kept] = {}
        self.budget = {"centred_cosine": settings.centred_cosine,
                       "top10_overlap": settings.top10_overlap}  # fmt: skip

    def write(self, precision: str, file: Path) -> dict[str, Any]:
        """Write a model; return its plan, as ``bundle.json`` holds it."""
        form = FORMS[precision]
        kept = self._keep(form)
        plan = self._write(form, file, kept.groups)
        read = self.settings.range_texts if form is Form.static else 0
        log.info("quantised %d MatMuls and %d tables: %s",
                 len(plan.matmuls), len(plan.embeddings), file)  # fmt: skip
        return {
            **asdict(plan),
            "form": form.value,
            "kept_fp32_for_quality": kept.groups,
            "quality": kept.told(self.budget),
            "weight_texts": len(self.texts[: self.settings.weight_texts]),
            "range_texts": len(self.texts[:read]),
            "range_percentile": self.settings.range_percentile if read else None,
        }

    def prepared(self, form: Form) -> Prepared:
        """Rounded weights, and ranges where the form needs them; made once."""
        if form not in self._prepared:
            settings = self.settings
            self._prepared[form] = prepare(
                self.fp32, form, self._feeds(settings.weight_texts),
                self._feeds(settings.range_texts) if form is Form.static else (),
                settings.range_percentile,
            )  # fmt: skip
        return self._prepared[form]

    def _keep(self, form: Form) -> Kept:
        """Choose what stays fp32; ONNX Runtime's static model decides for OpenVINO's, too."""

        def measure(keep: Collection[str], count: int | None) -> Parity:
            with tempfile.TemporaryDirectory(dir=self.fp32.parent) as folder:
                trial = Path(folder) / "trial.onnx"
                self._write(form, trial, keep)
                return self.comparison(self.encoder.running(trial, self.threads), count)

        if form not in self.kept:
            self.kept[form] = keep_worst(
                self.prepared(form).groups, measure, self.budget, self.settings.max_fp32
            )
        return self.kept[form]

    def _write(self, form: Form, file: Path, keep: Collection[str]) -> Int8Plan:
        return quantize(self.fp32, file, self.prepared(form), keep)

    def _feeds(self, count: int) -> list[Feed]:
        """Batches of the first texts, every other as a query, so that both prompts are seen."""
        texts = self.texts[:count]
        halves = (texts[::2], "query"), (texts[1::2], "passage")
        return [feed for half, name in halves for _, feed in self.encoder.batches(half, name)]
