"""Compose a run from its overrides, check it, run it: ``python train.py recipes=contrastive``."""

import sys

from finetune.cli import train

if __name__ == "__main__":
    sys.exit(train(sys.argv[1:]))
