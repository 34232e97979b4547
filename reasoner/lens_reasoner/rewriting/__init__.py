"""What code makes sure of when a language model writes a prompt."""
