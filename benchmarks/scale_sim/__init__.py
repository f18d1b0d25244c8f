"""A discrete-event model of router and replicas: fitted to measured steps, validated here, then used for many devices.

* ``traffic.py``: calls and when they come.
* ``replica.py``: one replica as the scheduler sees it: a heap of calls, steps within a token budget, a pipeline of
  steps planned ahead, a prefix store. Its clock is the cost model of step times.
* ``simulate.py``: routers in front of replicas. Where a call goes is decided by
  ``engine.core.replicas.choose_replica``, the code that serves.
* ``real.py``: the same calls through the real client, cores and workers: for fitting, validating and for ratios.
* ``scale.py``: 8 to 10,000 devices.
* ``executors.py``: what each executor adds to a step.

``python -m benchmarks.scale_sim validate|ratios|executors|scale`` runs a part and saves its result.
"""
