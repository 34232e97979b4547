"""Faster ways to compute the same pictures, each of which can be switched on alone.

`accelerate(pipeline, SpeedPlan(...))` is the way in. Nothing here changes the model, the schedule
or the precision; `docs/speed.md` states by how much each path may differ from the plain one.
"""

from lens_core.speed.accelerate import accelerate
from lens_core.speed.plan import EXACT, FAST, PLAIN, SpeedPlan, named_plan

__all__ = [
    "EXACT",
    "FAST",
    "PLAIN",
    "SpeedPlan",
    "accelerate",
    "named_plan",
]
