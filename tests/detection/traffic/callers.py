"""Who asks: callers by Zipf's law, in runs, with a largest one of a given share."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .route import Route
from .streams import Stream, stream


@lru_cache(maxsize=16)
def weights(route: Route) -> NDArray[np.float64]:
    """Share of each caller in the requests, the largest first. They sum to one.

    Where the route names a share for the largest, the others divide the rest by Zipf's law, and none of them has more
    than the largest.
    """
    zipf = np.arange(1, route.callers + 1) ** -route.zipf
    if route.largest is None or route.callers == 1:
        return zipf / zipf.sum()
    shares = np.empty(route.callers)
    shares[0] = route.largest
    others = zipf[1:] / zipf[1:].sum() * (1 - route.largest)
    while np.any(others > route.largest * (1 + 1e-9)):
        is_full = others >= route.largest
        remainder = 1 - route.largest * (1 + is_full.sum())
        others = np.where(is_full, route.largest, others / others[~is_full].sum() * remainder)
    shares[1:] = others
    return shares


@lru_cache(maxsize=16)
def offsets(route: Route) -> NDArray[np.float64]:
    """How much each caller's log-odds of a bad answer differ from the route's, for good."""
    generator = stream(route.seed, route.tenant, Stream.CALLERS)
    return route.sigma_callers * generator.standard_normal(route.callers)


def draw(route: Route, uniform: NDArray[np.float64], chance: NDArray[np.float64]) -> NDArray[np.int64]:
    """A caller for each request, from two uniform numbers of each.

    The same caller stays for a run of `route.run` requests on average: bursts come from few clients.
    """
    if not len(uniform):
        return np.empty(0, np.int64)
    edges = np.cumsum(weights(route))
    callers = np.minimum(np.searchsorted(edges, uniform, side="right"), route.callers - 1)
    begins = np.where(chance < 1 / route.run, np.arange(len(callers)), 0)
    return callers[np.maximum.accumulate(begins)]
