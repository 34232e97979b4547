"""`lens serve`: the SDK over HTTP, for OpenAI's client, `lens_sdk.Lens` and browsers.

Importing this package loads neither torch nor the web framework.
"""
