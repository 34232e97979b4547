"""`lens serve`: the SDK behind HTTP, for OpenAI's client, for `lens_sdk.Lens` and for a browser.

Importing this package loads neither torch nor the web framework.
"""
