"""Search strategies, all behind one protocol."""
