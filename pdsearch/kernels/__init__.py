"""The fast backward passes, and the choice between them and the formula.

A candidate's g becomes a table once (`table.py`, `rounded.py`). The compiled kernels (`fused.cpp`
on the CPU, `triton_kernels.py` on GPUs) read any table, so a new shape needs no compilation. Where
no table is accurate enough, or no kernel supports the device, torch's operators evaluate a float32
text of the formula (`operators.py`); where there is none, the formula itself is evaluated in
float64.
"""

from pdsearch.kernels.build import load as available
from pdsearch.kernels.plans import TABLE_FROM, Plan, check_save, passing, plan

__all__ = ["TABLE_FROM", "Plan", "available", "check_save", "passing", "plan"]
