"""Put scores, their uncertainty and the gates together: report.json, report.html, README.md.

No torch. `build` writes the files of a run; `terminal` shows the same to somebody at a prompt.
"""

from finetune.report.facts import Facts
from finetune.report.table import show, terminal
from finetune.report.writer import build

__all__ = ["Facts", "build", "show", "terminal"]
