"""What every decision of a certified criterion keeps to: its time, and that g is defined."""

import functools
from collections.abc import Callable
from dataclasses import replace

from pdsearch.criteria.result import PROVED, UNDECIDED, Demands, Result
from pdsearch.criteria.shape import Shape
from pdsearch.enclosure.clock import OutOfReachError, time_limit

OVERTIME = 1.5
"""How many times its budget of seconds a decision may take, all its searches together."""

Decision = Callable[[Shape, Demands], Result]


def certified(decide: Decision) -> Decision:
    """The decision within its time; nothing is proved of a formula that may be undefined."""

    @functools.wraps(decide)
    def decided(shape: Shape, demands: Demands) -> Result:
        name = decide.__name__
        with time_limit(OVERTIME * shape.budget.seconds):
            try:
                result = decide(shape, demands)
            except OutOfReachError as error:
                return demands.result(name, UNDECIDED, detail=str(error))
            if result.verdict != PROVED:
                return result
            try:
                open_ = shape.undefined
            except OutOfReachError as error:
                open_ = str(error)
        if open_ is None:
            return result
        return replace(demands.result(name, UNDECIDED, detail=open_), value=result.value)

    return decided
