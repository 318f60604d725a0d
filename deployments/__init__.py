"""The timetable: which flow runs when, in `prefect.yaml`, and how a server comes to follow it."""
