"""Ablations: the same training several times with one thing changed, and a table of the scores."""
