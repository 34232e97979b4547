"""Every file layout that Lens weights are met in: looking into them, loading, converting.

Importing this package loads no torch, so that files can be looked into quickly.
"""
