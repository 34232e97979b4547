"""Pages with images and verdicts, each a self-contained HTML file."""
