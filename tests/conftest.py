"""Property tests judge values and not the clock: machines that test may be busy with other work.

They try the same examples everywhere; `HYPOTHESIS_PROFILE=search` looks for others.
"""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "same-everywhere", settings.get_profile("any-machine"), derandomize=True, database=None
)
settings.register_profile("search", settings.get_profile("any-machine"), max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same-everywhere"))
