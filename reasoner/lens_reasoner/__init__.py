"""Rewrite, generate, judge and revise, for any image generator."""
