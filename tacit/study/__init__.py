"""Studies: several trainings under one budget, and one table of what each is worth."""

from tacit.study.arms import ARMS, Arm
from tacit.study.lowshot import Budget, run

__all__ = ["ARMS", "Arm", "Budget", "run"]
