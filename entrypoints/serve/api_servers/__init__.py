"""Several API processes behind one port (``--api-server-count``): for when HTTP and tokenisation are the limit.

The process that was started (**main** here) owns what there is one of: the models' cores, the queue, the counts. It
speaks no HTTP then. That is done by N children, the **fronts**: each reads bodies, tokenises, and writes answers. Main
only passes messages on, so it stays quick however long a body is, and all API processes are alike: any of them may die,
be replaced, or hang without taking the engine along.

* The listening socket is opened once and inherited. A connection goes to whichever front takes it first, so one that is
  busy or stopped gets fewer, and none wait in the queue of a process that has died.
* Main decides for all, a call at a time: may it come in (``Enter``), is the server ready (``StatusRequest``). So limits
  and fair shares hold over all fronts as in one process, and probes say the same wherever they end up.
* Counters are kept where things happen and are summed when somebody scrapes.

``messages.py`` is what they say to each other; ``process.py`` and ``relay.py`` are a front's side, ``desk.py``,
``fleet.py`` and ``totals.py`` are main's.
"""
