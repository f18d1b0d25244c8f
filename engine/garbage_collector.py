"""The garbage collector while a process starts and after it.

Modules and models are objects that stay. Looking through all of them again and again while they are made takes about
a tenth of the processor time of a start, and finds nothing.
"""

from __future__ import annotations

import gc


def pause() -> None:
    """Turn the collector off. Call it before the imports of a process that serves; ``resume`` follows."""
    gc.disable()


def resume() -> None:
    """Turn the collector on for what is made from here on: what exists now lives as long as the process."""
    gc.collect()
    gc.freeze()
    gc.enable()
