"""Several API servers behind one port (``--api-server-count``): for when HTTP and tokenisation are the limit.

The process that the user started is the **coordinator**: it owns the models' cores, the admission queue and the
counters, and speaks no HTTP itself. N child processes, the **API servers**, read bodies, tokenise, and write answers.
The coordinator only passes messages on, so it stays quick however long a body is. All API servers are alike: any of
them may die, be replaced, or hang without taking the engine along.

* The listening socket is opened once and inherited. A connection goes to whichever API server accepts it first, so a
  server that is busy or stopped gets fewer, and no connection waits in the queue of a process that has died.
* The coordinator decides about each call (``AdmitRequest``) and about readiness (``StatusRequest``). So limits and fair
  shares hold over all API servers as in one process, and probes get the same answer from every one.
* Counters are kept where things happen and are summed when somebody scrapes.

``messages.py`` has the messages between the two sides. ``process.py``, ``coordinator_client.py`` and ``remote.py`` are
the API server's side; ``coordinator.py``, ``handle.py``, ``broker.py``, ``adapter_news.py`` and ``totals.py`` are the
coordinator's. ``listener.py`` shares out the connections.
"""
