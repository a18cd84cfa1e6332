"""What is known of a plan's model and data before any of its steps has run.

Read from what is there already: the base's ``config.json`` and tokeniser where the base step is
cached (of a local folder the former at once), the training rows where the step that makes them is
cached, else a look at the data's sources. What is in none of these is not known. Nothing imports
torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from finetune import hub
from finetune.config import Model
from finetune.config.choices import Hub, Use
from finetune.config.ranges import GENERATORS
from finetune.data.lengths import ASSUMED
from finetune.data.peek import (
    Peek,
    Texts,
    look_at,
    look_at_set,
    look_at_statutes,
    look_for,
    rows_of,
)
from finetune.errors import UserError
from finetune.evaluation.guard import FEWEST_TEXTS, guard_texts
from finetune.machine.geometry import STARTER, Geometry, forward_flops
from finetune.mining import usual
from finetune.records import read_json
from finetune.script import BOTH
from finetune.stage import Planned, Step

_TOKENS_PER_CHARACTER = 1.0  # of Chinese text in BERT's vocabularies
_SPECIAL = 2
_ASKED = 30  # characters of a question made from a text, about


class Facts:
    """What is known of a plan's model and data; read when first asked for."""

    def __init__(self, planned: Sequence[Planned]) -> None:
        self._planned = {each.step.name: each for each in planned}

    @cached_property
    def geometry(self) -> Geometry | None:
        """Sizes of the base; None where no ``config.json`` of it can be had."""
        path, built = self._model().path, self._built("config.json")
        given = path / "config.json" if path is not None else None
        for config in (built, given):
            if config is not None and config.is_file():
                return _geometry(config)
        if self._model().hub is Hub.starter:
            return STARTER
        away = hub.config_of(self._model())
        return Geometry.of(away) if away is not None else None

    def geometry_of(self, step: Step) -> Geometry | None:
        """Sizes of the model that a step reads: the base, or what a student of it is made of."""
        student = self._planned.get("student")
        if self.geometry is None or student is None or step.inputs.get("model", "base") == "base":
            return self.geometry
        asked = student.step.settings
        return replace(self.geometry, layers=asked["layers"] or self.geometry.layers,
                       vocabulary=asked["vocabulary"] or self.geometry.vocabulary)  # fmt: skip

    @cached_property
    def data(self) -> Peek | None:
        """The domain's texts; None where the data step must read them first."""
        planned, sets = self._planned["data"], self._planned["sets"]
        if planned.cached and sets.cached:
            return look_at(planned.folder, sets.folder)
        settings = planned.step.settings
        return look_for(settings["domain"], settings["limit"])

    @property
    def longest(self) -> int:
        """Tokens that the model reads of a text."""
        return int(self._model().max_length)

    def rows(self, step: Step) -> tuple[int, NDArray[np.int64]] | None:
        """Rows that a step trains on, and the tokens of examples, ``[examples, columns]``."""
        texts = self.texts(step)
        if texts is None or not texts.sample:
            return None
        if "texts" in step.settings:
            return self._lessons(step, texts)
        columns = usual([len(row) for row in texts.sample])
        # Rows with fewer texts are filled up with others' negatives.
        lengths = np.stack([self.lengths([row[min(i, len(row) - 1)] for row in texts.sample])
                            for i in range(columns)], 1)  # fmt: skip
        made = self._maker(step)
        if not made.cached and "mine" in made.step.settings:
            mined = made.step.settings["mine"].negatives  # texts like the positives
            lengths = np.concatenate([lengths[:, :2], *[lengths[:, 1:2]] * mined], axis=1)
        return round(texts.count * self._growth(step)), lengths

    def _lessons(self, step: Step, pairs: Texts) -> tuple[int, NDArray[np.int64]] | None:
        """What a student is taught: texts of the pairs, then passages."""
        if self.data is None:
            return None
        sample = [text for row in pairs.sample for text in row[:2]]
        if 2 * pairs.count < step.settings["texts"]:
            sample += [text for (text,) in self.data.passages.sample]
        count = min(step.settings["texts"], 2 * pairs.count + self.data.passages.count)
        return count, self.lengths(sample)[:, None]

    def texts(self, step: Step) -> Texts | None:
        """The pairs that a step reads; None where a step before it has yet to make them."""
        made = self._maker(step)
        if made.cached:
            return rows_of(made.folder)
        if {"mine", "noise"} & made.step.settings.keys():
            return self.texts(made.step)
        if "pseudo" in made.step.settings:  # how many queries have an answer, nobody knows
            return None
        if self.data is None:
            return None
        return self._made(made.step) if "generate" in made.step.settings else self.data.rows

    def _maker(self, step: Step) -> Planned:
        """The step whose rows a step reads; behind those that rewrite rows or add copies."""
        made = self._planned[step.inputs.get("pairs", "data")]
        passes = not made.cached and made.step.name.startswith(("script", "augment"))
        return self._maker(made.step) if passes else made

    def _growth(self, step: Step) -> float:
        """How many times its maker's rows a step reads, about, where copies have yet to be added.

        With ``script=both`` rows that are the same in both scripts are counted twice all the same.
        """
        made = self._planned[step.inputs.get("pairs", "data")]
        if made.cached or not made.step.name.startswith(("script", "augment")):
            return 1.0
        settings = made.step.settings
        copies = settings["augment"].share if "augment" in settings else 0
        return self._growth(made.step) * (1 + copies + (settings.get("script") == BOTH))

    @cached_property
    def general(self) -> Peek | None:
        """The general set; None where there is none, or it cannot be read."""
        if "general" not in self._planned:
            return None
        files = self._planned["general"].step.files
        try:
            return (
                look_at_set(files["folder"]) if "folder" in files else look_at_statutes(full=False)
            )
        except UserError:
            return None

    def guarded(self) -> int | None:
        """Texts that the guard scores a model on, about; None where it is not known."""
        step = self._planned["pool"].step
        found = self.rows(step)
        if found is None or self.data is None:
            return None
        count, lengths = found
        asked = (step.settings[name] for name in ("guard_share", "epochs", "checkpoints"))
        texts = guard_texts(count * lengths.shape[1], *asked)
        return min(max(FEWEST_TEXTS, texts), self.data.passages.count)

    def weighed(self) -> int | None:
        """Texts on which a merged weight is scored, about; None where it is not known."""
        if self.data is None:
            return None
        texts: int = self._planned["merge-pool"].step.settings["texts"]
        return min(max(FEWEST_TEXTS, texts), self.data.passages.count)

    def _made(self, step: Step) -> Texts | None:
        """Pairs that the generate step makes, at most: short questions on the corpus's texts."""
        generate, data = step.settings["generate"], self.data
        if data is None or generate.pairs is None:
            return None
        shares = sum(getattr(generate, name) > 0 for name in GENERATORS)
        shares += step.settings.get("writer", {}).get("queries", 0)
        limits = [generate.pairs, step.settings["limit"]]
        if not step.files:  # else they are made from documents, which nobody has counted
            limits.append(shares * data.passages.count)
        count = min(each for each in limits if each is not None)
        asked = None if generate.identity else _ASKED
        sample = tuple((text[:asked], text) for (text,) in data.passages.sample)
        if generate.use is not Use.join:
            return Texts(count, sample)
        return Texts(count + data.rows.count, (*data.rows.sample, *sample))

    def lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Tokens of each text, not cut."""
        if self._tokenizer is None:
            ratio = ASSUMED.get(self._model().hub, _TOKENS_PER_CHARACTER)
            counts = [int(len(text) * ratio) + _SPECIAL for text in texts]
        else:
            # A lone surrogate, which ends the data step, would end this.
            sound = [text.encode("utf-8", "replace").decode() for text in texts]
            counts = [len(each.ids) for each in self._tokenizer.encode_batch(sound)]
        return np.array(counts, np.int64)

    def forward(self, texts: Texts, geometry: Geometry) -> float:
        """Operations of encoding one text as the model is served, on average."""
        lengths = np.minimum(self.lengths([row[0] for row in texts.sample]), self.longest)
        return forward_flops(geometry, lengths.tolist()) / max(1, len(lengths))

    @cached_property
    def _tokenizer(self) -> Tokenizer | None:
        path = self._built("tokenizer.json")
        if path is None or not path.is_file():
            return None
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_truncation()
        return tokenizer

    def _model(self) -> Model:
        model: Model = self._planned["base"].step.settings["model"]
        return model

    def _built(self, name: str) -> Path | None:
        """A file of the model that the base step made, once it has."""
        planned = self._planned["base"]
        return planned.folder / "model" / name if planned.cached else None


def _geometry(config: Path) -> Geometry | None:
    try:
        content = read_json(config)
    except ValueError:  # damaged: the base step says so
        return None
    return Geometry.of(content) if isinstance(content, Mapping) else None
