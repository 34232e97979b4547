"""Benchmarks of Lens on this machine: by stage, end to end, and comparing execution paths.

Weights are random because speed does not depend on them. With the `BenchConfig` `lens`, models have
their real size. Results are written one by one, so an interrupted run can be resumed.
"""
