"""Verbs: one step of a run each, as a Prefect task over the same step in `sojourn.run.journey`."""
