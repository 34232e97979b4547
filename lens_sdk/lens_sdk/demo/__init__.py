"""A handful of requests through the loop, and a page that shows what came of them."""
