"""Training over buckets: the mixed-resolution stage, and whatever else reads the bucket loader."""
