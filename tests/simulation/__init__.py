"""A deterministic simulator of everything around a run: time, stores, clouds, machines, and what goes wrong.

What is decided is decided by the product's own code: the steps of `sojourn.run.journey`, the
orchestrator, ledger and lease machine, the reaper, the provider of EC2, the agent. What is
simulated is what that code stands on, and it is small: `world` (time and processes),
`faults`, `store`, `amazon` and `local` (where machines come from), `machine` (what they
are). `trial` puts them together and says afterwards whether the promises were kept.
"""
