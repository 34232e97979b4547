"""Runs a few requests through the loop and shows the results on a page."""
