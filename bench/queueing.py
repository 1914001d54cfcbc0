"""A queueing model of a service: arrivals at random, `servers` places, and a wait when all are taken.

The formulas are those of A. O. Allen, Probability, Statistics, and Queueing Theory (1990), chapter 5.
"""

from math import ceil, sqrt


def erlang_c(servers: int, load: float) -> float:
    """The probability that an arrival has to wait; `load` is the mean number of places in use."""
    if load >= servers:
        return 1
    blocked = 1.0  # Erlang B, by its recursion, which does not overflow
    for number in range(1, servers + 1):
        blocked = load * blocked / (number + load * blocked)
    return servers * blocked / (servers - load * (1 - blocked))


def mean_wait(servers: int, rate: float, seconds: float, variation: float) -> float:
    """The mean wait in seconds, by the approximation of Allen and Cunneen.

    `rate` arrivals a second, each for `seconds` on average; `variation` is the standard deviation of
    these seconds over their mean: 0 if all take the same time, 1 if they are exponential.
    """
    load = rate * seconds
    return erlang_c(servers, load) * seconds / (servers - load) * (1 + variation**2) / 2


def servers_for(load: float, waiting: float) -> int:
    """The fewest places with which at most that share of arrivals has to wait."""
    low, high = ceil(load), ceil(load + 6 * sqrt(load) + 6)
    while low < high:
        middle = (low + high) // 2
        if erlang_c(middle, load) <= waiting:
            high = middle
        else:
            low = middle + 1
    return low
