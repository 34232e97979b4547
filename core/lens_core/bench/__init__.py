"""How fast Lens runs here: stage by stage, end to end, and one path against another.

Weights are random, because speed does not depend on them; sizes are the real ones with
`BenchConfig` `lens`. Results are written one by one, so that a run that was stopped goes on.
"""
