"""Python's collector of circles, set for a server."""

from __future__ import annotations

import gc
from typing import Final

__all__ = ["tune_gc"]

THRESHOLDS: Final = (20_000, 1, 25)
"""New objects after which the young ones are looked through; and so many looks after which older ones are.

A thousand turns in flight make and drop about 15,000 objects in a wave: with fewer each wave is looked through in vain.
Every third look goes on to those that survived the last two: with the usual 10 that is as much work in all, in pauses
that are three times as long. `benchmarks/pauses.py` compares them.
"""


def tune_gc() -> tuple[int, int, int]:
    """Set Python's collector for a server that is about to serve. psession leaves it alone unless this is called.

    Call it when everything is imported and set up, and before the first client. It collects once, takes all that there
    is by then out of what is ever looked through again (`gc.freeze`), and has the collector look after 20,000 new
    objects instead of 700 (2,000 since Python 3.13). psession leaves no circles behind, so there is little to find;
    what each look costs grows with the sessions that are open.

    Measured with both ends in one process, in processor time, on Python 3.11: while 40,000 sessions were opened the
    longest pause was 30 ms instead of 300, and all of them 0.4 s of 2.4 instead of 1.9 of 3.9; for 20,000 requests over
    1,000 connections at once 30 ms instead of 400, and 0.04 s of 2.9 instead of 2.6 of 5.3. On 3.13 the pauses are the
    same with it, and about half as many as on 3.11 without. With few sessions and requests it makes little difference.

    The price is memory that circles of your own hold longer. Those that die young stay until 20,000 objects more were
    made than dropped: where each holds 10 kB, 190 MB instead of 5. Those that die old stay for up to 1.5 million
    objects instead of 90,000: where each takes 100 bytes, 74 MB instead of 11. Those of before the call that die after
    it stay for ever.

    Returns:
        The thresholds of before: ``gc.set_threshold(*before)`` and ``gc.unfreeze()`` undo it.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
    return before
