"""Scores, their uncertainty and their speed; handed an encoder, never choosing one; no torch."""
