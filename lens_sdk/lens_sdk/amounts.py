"""Formats costs and times for people."""

from __future__ import annotations


def cost(usd: float | None) -> str:
    """Format US dollars; empty if the cost is zero."""
    return "cost unknown" if usd is None else f"${usd:.4f}" if usd else ""


def clock(seconds: float) -> str:
    """Format seconds as minutes and seconds, with hours if there are any."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
