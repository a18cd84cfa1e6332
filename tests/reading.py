"""What is read of a file of pairs, as lists."""

from finetune.data.load import load_pairs


def read_pairs(*source, **more):
    """The pairs, and the rows that were dropped."""
    loaded = load_pairs(*source, **more)
    return list(loaded.pairs), list(loaded.dropped)
