"""When requests of an open loop arrive."""

import numpy as np
from numpy.typing import NDArray


def arrivals(rng: np.random.Generator, count: int, rate: float, burstiness: float = 1.0) -> NDArray[np.float64]:
    """Times of `count` arrivals in seconds, the first at 0, shape (count,).

    The gaps are gamma distributed with shape `burstiness` and mean 1 / `rate`: 1 is a Poisson process, less comes
    in bursts, more comes evenly.
    """
    gaps = rng.gamma(burstiness, 1.0 / (rate * burstiness), count)
    times: NDArray[np.float64] = np.cumsum(gaps) - gaps[:1]
    return times
