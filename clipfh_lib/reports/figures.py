"""All figures of results under one name: tables -> matplotlib Figures; nothing is saved.

Each group has a module of its own; sheets of pictures are in `pictures`.
"""

from clipfh_lib.reports.failures import failures
from clipfh_lib.reports.figures_embedded import embedded
from clipfh_lib.reports.figures_pairs import confusion, det, open_set, scores
from clipfh_lib.reports.figures_retrieval import bars, burst_gap, by_method, cmc
from clipfh_lib.reports.figures_severity import severity
from clipfh_lib.reports.figures_training import histories, split_sizes, training_curves

__all__ = [
    "bars", "burst_gap", "by_method", "cmc", "confusion", "det", "embedded", "failures",
    "histories", "open_set", "scores", "severity", "split_sizes", "training_curves",
]  # fmt: skip
