"""`Lens` and `AsyncLens`: one client for models in this process and on servers."""
