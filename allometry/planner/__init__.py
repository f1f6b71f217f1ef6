"""Planning: from a budget and a law to the next run, and to the runs that would make the plan surer.
Without torch.
"""

from allometry.planner.design import Design, next_runs
from allometry.planner.planning import Plan, plan

__all__ = ["Design", "Plan", "next_runs", "plan"]
