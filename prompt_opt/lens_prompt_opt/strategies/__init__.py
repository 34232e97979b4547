"""Ways to search for a better prompt, all behind one protocol."""
