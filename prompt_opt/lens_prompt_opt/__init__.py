"""Improve a reasoner's system prompt over many requests, without training."""

__all__: list[str] = []
