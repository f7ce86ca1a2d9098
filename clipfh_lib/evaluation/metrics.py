"""Ranks and scores to metrics; numpy alone.

Ranks give rank-k, recall@k, NDCG, average precision and mINP; scores ROC, EER and thresholds.
"""

import numpy as np


def rank_k(ranks: np.ndarray, k: int | np.ndarray) -> np.ndarray:
    """Whether a right image stands among the first k: (Q,) or, for (R,) values of k, (Q, R).

    NaN where a query has no right image; so with all functions of ranks below.
    """
    first = ranks[:, 0] if np.ndim(k) == 0 else ranks[:, :1]
    return np.where(first > 0, first <= k, np.nan)


def recall_k(ranks: np.ndarray, k: int | np.ndarray) -> np.ndarray:
    """Share of a query's right images among the first k: (Q,) or, for (R,) values of k, (Q, R).

    Manning et al., Introduction to Information Retrieval, 2008, eq. 8.2; torchmetrics'
    `RetrievalRecall`. A query with more than k right images cannot reach 1. Of such with one it is
    `rank_k`, which others call hit@k, and which captioning papers print as recall@k.
    """
    right = (ranks > 0).sum(axis=1)
    each = [((ranks > 0) & (ranks <= most)).sum(axis=1) for most in np.ravel(k)]
    share = np.stack(each, axis=-1) / np.maximum(right, 1)[:, None]
    share = np.where(right[:, None] > 0, share, np.nan)
    return share[:, 0] if np.ndim(k) == 0 else share


def ndcg_k(ranks: np.ndarray, k: int) -> np.ndarray:
    """Discounted gain of the first k over that of a perfect ranking: (Q,).

    A right image gains 1 / log2(1 + rank) (Jarvelin & Kekalainen, Cumulated Gain-Based Evaluation
    of IR Techniques, ACM TOIS 20(4), 2002; scikit-learn's `ndcg_score` and torchmetrics'
    `RetrievalNormalizedDCG` of binary relevance).
    """
    nth, real = _nth(ranks)
    gain = np.where(real & (ranks <= k), 1 / np.log2(1 + np.maximum(ranks, 1)), 0).sum(axis=1)
    ideal = np.where(real & (nth <= k), 1 / np.log2(1 + nth), 0).sum(axis=1)
    return np.where(ideal > 0, gain / np.maximum(ideal, 1), np.nan)


def average_precision(ranks: np.ndarray) -> np.ndarray:
    """Mean over a query's right images of the precision at their ranks, k / rank_k: (Q,).

    The common definition (Manning et al., Introduction to Information Retrieval, 2008, eq. 8.8;
    scikit-learn's `average_precision_score` when nothing ties).
    """
    nth, real = _nth(ranks)
    return _mean(nth / np.maximum(ranks, 1), real)


def average_precision_trapezoid(ranks: np.ndarray) -> np.ndarray:
    """Average precision by the trapezoid rule, as published hand papers compute it: (Q,).

    Each right image adds the mean of the precision at its rank, k / rank_k, and of that just
    before it, (k - 1) / (rank_k - 1), or 1 at rank 1 (Philbin et al., CVPR 2007; MBA-Net,
    CLIP-HandID). With one right image it is (rank-1 + reciprocal rank) / 2.
    """
    nth, real = _nth(ranks)
    after = nth / np.maximum(ranks, 1)
    before = np.where(ranks == 1, 1.0, (nth - 1) / np.maximum(ranks - 1, 1))
    return _mean((before + after) / 2, real)


def inverse_negative_penalty(ranks: np.ndarray) -> np.ndarray:
    """Number of right images over the rank of the last: (Q,); its mean is mINP.

    Ye et al., Deep Learning for Person Re-Identification, TPAMI 2022, eq. 4 (arXiv:2001.04193).
    """
    right = (ranks > 0).sum(axis=1)
    return np.where(right > 0, right / np.maximum(ranks.max(axis=1, initial=0), 1), np.nan)


def error_rates(genuine: np.ndarray, impostor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the ROC, from accepting everything to accepting nothing.

    The corners are those at the genuine scores; between two of them the curve runs straight. The
    same curve as scikit-learn's `det_curve` over all scores, without sorting them together.

    Args:
        genuine: (n,) scores of two images of one person; larger is closer.
        impostor: (m,) scores of two people.

    Returns:
        FAR (falling) and FRR (rising), each (2n + 1,), 0..1.
    """
    own, others = np.sort(genuine), np.sort(impostor)

    def below(scores: np.ndarray) -> np.ndarray:  # share below, and not above, each own score
        places = [np.searchsorted(scores, own, side) for side in ("left", "right")]
        return np.r_[0.0, np.stack(places, axis=1).ravel() / len(scores)]

    return 1 - below(others), below(own)


def equal_error_rate(genuine: np.ndarray, impostor: np.ndarray) -> float:
    """Where FAR and FRR cross, interpolated between the corners of the ROC; 0..1.

    NaN where one of the two kinds of pairs is missing.
    """
    if not len(genuine) or not len(impostor):
        return float("nan")
    far, frr = error_rates(genuine, impostor)
    return float(crossing(far[None], frr[None])[0])


def crossing(far: np.ndarray, frr: np.ndarray) -> np.ndarray:
    """Interpolate where the rows of FAR (B, E), falling from 1, and FRR (B, E), rising, meet."""
    after = np.argmax(frr >= far, axis=1)  # never 0: there FAR is 1 and FRR 0
    row = np.arange(len(far))
    gap = (frr - far)[row, after]
    gap_before = (far - frr)[row, after - 1]
    share = gap_before / (gap + gap_before)
    return frr[row, after - 1] + share * (frr[row, after] - frr[row, after - 1])


def threshold_at(impostor: np.ndarray, far: float) -> float:
    """Smallest float32 threshold that accepts (score >= threshold) at most the share `far`."""
    allowed = int(far * len(impostor) + 1e-9)  # 0.1 x 30 shall be 3
    if allowed >= len(impostor):
        return -np.inf
    highest = np.partition(impostor, len(impostor) - 1 - allowed)[len(impostor) - 1 - allowed]
    return float(np.nextafter(np.float32(highest), np.float32(np.inf)))


def _nth(ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(1, ranks.shape[1] + 1), ranks > 0


def _mean(values: np.ndarray, real: np.ndarray) -> np.ndarray:
    count = real.sum(axis=1)
    return np.where(count > 0, (values * real).sum(axis=1) / np.maximum(count, 1), np.nan)
