"""Stages: maskers, inpainters and pruners dressed for a batch of columns in, a batch of columns out; no Ray."""
