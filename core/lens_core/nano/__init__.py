"""A procedural picture world with exact truth, for models small enough to ship."""
