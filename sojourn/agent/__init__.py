"""What runs on a rented machine.

`agent.py` is one file of standard library, because it is sent to machines that have
nothing but a Python. Nothing here is imported by it, and it imports nothing of ours:
the records it reads and writes are those of `sojourn.records`, as plain JSON.
"""

from __future__ import annotations

from pathlib import Path

AGENT = Path(__file__).with_name("agent.py")
