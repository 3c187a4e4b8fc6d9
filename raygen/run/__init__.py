"""A run: its config, what is checked before it, its steps and their results."""
