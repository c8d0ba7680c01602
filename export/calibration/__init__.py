"""INT8 calibration: choose Good images, list them, collect the ranges of the fp32 model's tensors, and say how sure.

>>> chosen = choose(candidates(dataset, 200), 200, size_hw, held_out=dataset.test)
>>> write_list(list_path(Path("calibration_data"), dataset.category), chosen, dataset, root)
>>> listed = read_list(list_path(Path("calibration_data"), dataset.category), dataset, root)
>>> ranges = collect(model, batches(listed.samples, size_hw), tensors)
>>> ranges.amax("percentile"), card(ranges, listed, "percentile")
"""

from __future__ import annotations

from export.calibration.card import card
from export.calibration.choice import Chosen, batches, candidates, choose
from export.calibration.listing import Listed, list_path, read_list, write_list
from export.calibration.methods import METHODS, PERCENTILE, Method, check_method
from export.calibration.ranges import Ranges, collect

__all__ = [
    "METHODS",
    "PERCENTILE",
    "Chosen",
    "Listed",
    "Method",
    "Ranges",
    "batches",
    "candidates",
    "card",
    "check_method",
    "choose",
    "collect",
    "list_path",
    "read_list",
    "write_list",
]
