"""The door: the `sojourn` command, one file per verb."""
