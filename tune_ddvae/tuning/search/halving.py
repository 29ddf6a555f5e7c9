"""Asynchronous successive halving as pure functions of recorded rung values (Li et al., 2020).

Ray's own scheduler keeps its rungs in memory and forgets them on restore; here a decision follows
from the record alone, so it can be made again at any time with the same outcome.
"""

from collections.abc import Sequence

import numpy as np


def goes_on(value: float | None, earlier: Sequence[float | None], reduction_factor: int) -> bool:
    """Whether a trial passes a rung.

    Args:
        value: Its metric there, larger is better; None where it is absent: it then ranks last.
        earlier: The same of the trials that reached the rung before, in any order.
        reduction_factor: One in so many goes on.

    Returns:
        True for the first to arrive, and for who is not below the (1 - 1 / factor) quantile of
        those before, as Ray's AsyncHyperBandScheduler has it.
    """
    finite = [v for v in earlier if v is not None]
    if not finite:
        return True
    if value is None:
        return False
    lowest = min(finite)
    ranked = [lowest if v is None else v for v in earlier]
    return bool(value >= np.quantile(ranked, 1 - 1 / reduction_factor))
