"""Costs and times in words."""

from __future__ import annotations


def cost(usd: float | None) -> str:
    """Dollars; nothing where nothing was paid."""
    return "cost unknown" if usd is None else f"${usd:.4f}" if usd else ""


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
