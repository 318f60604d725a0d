"""The language of Sojourn: records, lease machine, mailbox, ledger, providers and agent.

Nothing here imports Prefect or a cloud's SDK: what must work when Prefect is dead
(teardown, reap, attach) and what the simulator drives lives in this package.
"""

__version__ = "0.1.0"
