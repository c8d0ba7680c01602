"""3CAD: eight metal parts of consumer electronics; the layout is MVTec's with masks named ``<stem>.png``.

52 of its training images are byte-identical to test images, so it opens only with ``duplicates="drop"``.

Source: https://github.com/EnquanYang2022/3CAD, Yang et al., AAAI 2025.
Licence: none stated by the authors, so research only and no redistribution. edgead ships none of it.
"""

from __future__ import annotations

from edgead.datasets.mvtec import categories, entries

EXPECTED = "<category>/train/good/*.png, test/<good|defect>/*.png, ground_truth/<defect>/*.png"

__all__ = ["EXPECTED", "categories", "entries"]
