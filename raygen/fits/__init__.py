"""Fits: of classifiers and of tokens, on one worker or many."""
