"""Tasks that draw their own sequences, each a small file; they know nothing of models, batches or runs."""

from eyas.experiments.tasks.kinds import KINDS, LANGUAGE_MODELLING, load_task
from eyas.experiments.tasks.task import Graded, Task

__all__ = ["KINDS", "LANGUAGE_MODELLING", "Graded", "Task", "load_task"]
