"""Nouns: saved configuration for the Prefect UI; thin, over the plain objects of `sojourn`."""
