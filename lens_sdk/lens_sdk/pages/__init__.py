"""Pages of pictures and verdicts, each one file with everything inside."""
