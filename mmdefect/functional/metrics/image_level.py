"""Is there a defect in the image at all: metrics of one score per image."""

from __future__ import annotations

import numpy as np

from mmdefect.functional.metrics.ranking import auroc, average_precision, best_f1
from mmdefect.functional.metrics.scores import probability


def image_ranking(scores: np.ndarray, defective: np.ndarray) -> dict[str, float]:
    """Return ``AUROC``, ``AP``, ``F1max`` in [0, 1] and the probability ``threshold`` of the latter, exactly.

    Args:
        scores: ``(I,)`` float log-odds, one an image; the largest of its pixels, say.
        defective: ``(I,)`` bool.

    Returns:
        NaN where there is no defective image (AUROC: or no clean one).
    """
    values, group = np.unique(-np.asarray(scores, np.float64), return_inverse=True)
    defective = np.asarray(defective, bool)
    positive, negative = (np.bincount(group, weights, len(values)) for weights in (defective, ~defective))
    f1, best = best_f1(positive, negative)
    return dict(
        AUROC=auroc(positive, negative),
        AP=average_precision(positive, negative),
        F1max=f1,
        threshold=float('nan') if best < 0 else float(probability(-values[best])),
    )
