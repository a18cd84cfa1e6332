"""How every artifact of a run is used: the section of its model card."""

from collections.abc import Iterator, Sequence

from finetune.report.facts import Facts
from finetune.script import KEEP

_QUERY, _PASSAGE = "如何申请退款？", "……"
# What a precision is for, and what it needs beside onnxruntime.
_FORMATS = {
    "fp32": "the reference",
    "fp16": "for GPUs (`pip install onnxruntime-gpu`)",
    "int8-dynamic": "the fastest on most CPUs, a quarter of the size",
    "int8-static": "INT8 whose vectors do not depend on their batch",
    "openvino-int8": "INT8 for OpenVINO (`pip install openvino`)",
}

_NO_BUNDLE = "There is no folder `bundle/`: every ONNX model failed its gate."


def section(facts: Facts, published: Sequence[str]) -> str:
    """Write it in Markdown: sentence-transformers, ONNX without torch, and peft where it is.

    Args:
        facts: Of the run.
        published: The precisions that the bundle holds.
    """
    onnx = _onnx(facts, published) if published else _NO_BUNDLE
    parts = [_torch(facts), onnx, *([_peft(facts)] if facts.adapter else [])]
    parts.append("\n".join(_texts(facts)))
    return "## Use\n\n" + "\n\n".join(parts)


def code(text: str) -> str:
    """Return text as inline code."""
    return "`" + text.replace("`", "'").replace("\n", " ") + "`"


def _torch(facts: Facts) -> str:
    package = (facts.training or {}).get("requires")
    loads = f"; it loads only where the package {code(package)} is installed" if package else ""
    trust = ", trust_remote_code=True" if package else ""  # for a module that is not the library's
    imported = made = converting = ""
    query, passage = f'"{_QUERY}"', f'"{_PASSAGE}"'
    if facts.script != KEEP:  # which the library knows nothing of
        imported = "from opencc import OpenCC\n"
        made = f'convert = OpenCC("{facts.script}").convert\n'
        converting = "; every text is converted first"
        query, passage = f"convert({query})", f"convert({passage})"
    return f"""With sentence-transformers, from the folder `model/`{loads}{converting}:

```python
{imported}from sentence_transformers import SentenceTransformer

{made}model = SentenceTransformer("model"{trust})
query = model.encode({query}, prompt_name="query", normalize_embeddings=True)
passages = model.encode([{passage}], prompt_name="passage", normalize_embeddings=True)
scores = passages @ query
```"""


def _onnx(facts: Facts, published: Sequence[str]) -> str:
    fast = "int8-dynamic" if "int8-dynamic" in published else published[0]
    cut = f"  # {facts.dim} numbers a vector; dim= asks for others" if facts.dim else ""
    formats = "\n".join(f"- `{name}`: {_FORMATS.get(name, 'ONNX')}" for name in published)
    return f"""Without torch, from the folder `bundle/`, in one of these precisions:

{formats}

```python
from pathlib import Path
from finetune.inference import OnnxEncoder, top_k

encoder = OnnxEncoder.load(Path("bundle"), "{fast}"){cut}
queries = encoder.encode(["{_QUERY}"], "query")
passages = encoder.encode(["{_PASSAGE}"], "passage")
scores, indices = top_k(queries, passages, 10)
```"""


def _peft(facts: Facts) -> str:
    return f"""As an adapter on the base, with peft, from `adapter/` (`model/` has it merged):

```python
from peft import PeftModel
from sentence_transformers import SentenceTransformer

adapted = SentenceTransformer("{facts.base_model}")
adapted[0].model = PeftModel.from_pretrained(adapted[0].model, "adapter")
```"""


def _texts(facts: Facts) -> Iterator[str]:
    yield f"Texts longer than {facts.model.max_length} tokens are cut. Prompts put before a text:\n"
    for name, text in facts.model.prompts.items():
        yield f"- {code(name)}: {code(text) if text else 'none'}"
