"""Textual inversion: a token is learned for each class, whose prompt then names it."""
