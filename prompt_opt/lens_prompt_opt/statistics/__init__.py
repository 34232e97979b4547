"""The statistics of a study: sequential tests, error sharing, intervals, variance components."""
