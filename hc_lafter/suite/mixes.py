"""How well systems tell a mix of emotions: their distributions at the temperature that suits mixes.

A temperature fitted to labels (`hc_lafter.analysis.metrics.temperature`) suits the first choice, and calibration. The
label that most people chose is surer than people are, so that it makes every distribution too sharp.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.special import softmax

from hc_lafter.analysis.metrics import TEMPERATURES, softmax64


def temperature(val_logits, val_shares) -> float:
    """T > 0 at which softmax(logits / T) has the least mean cross-entropy with shares of VALIDATION images.

    For shares that are one-hot it is `hc_lafter.analysis.metrics.temperature` (Guo et al., ICML 2017, section 4.2), and
    searched alike, in `TEMPERATURES`.

    Args:
        val_logits: [B, C]. val_shares: [B, C], rows sum to one.

    Raises:
        ValueError: logits that are not finite, or shares of another shape or that do not sum to one.
    """
    z, shares = (np.asarray(values, dtype=np.float64) for values in (val_logits, val_shares))
    if z.shape != shares.shape or not np.allclose(shares.sum(axis=1), 1, atol=1e-3):
        raise ValueError(f"shares {list(shares.shape)} of logits {list(z.shape)}: give a distribution for each row.")
    if not np.isfinite(z).all():
        raise ValueError("the logits hold values that are not finite: look at the run that they come from.")
    z = z - z.max(axis=1, keepdims=True)
    aimed = (shares * z).sum(axis=1).mean()

    def slope(log_t: float) -> float:
        """Of the mean log likelihood in 1 / T, in which it is concave: positive where a smaller T is likelier."""
        return aimed - (softmax(z / np.exp(log_t), axis=1) * z).sum(axis=1).mean()

    low, high = np.log(TEMPERATURES)
    ends = {low: slope(low) >= 0, high: slope(high) <= 0}
    best = next((end for end, is_best in ends.items() if is_best), None)
    return float(np.exp(brentq(slope, low, high, xtol=1e-12) if best is None else best))


def tempered(logits, val_logits, val_shares) -> np.ndarray:
    """[..., B, C] float64 distributions, at the `temperature` of each run's own validation images.

    Args:
        logits: [B, C], or [S, B, C] with a row per run.
        val_logits: [V, C] or [S, V, C]. val_shares: [V, C].
    """
    if np.ndim(logits) == 2:
        return softmax64(np.asarray(logits) / temperature(val_logits, val_shares))
    return np.stack([tempered(z, v, val_shares) for z, v in zip(logits, val_logits, strict=True)])
