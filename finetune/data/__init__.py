"""The user's data: read, checked and split, every row accounted for. Never imports torch."""
