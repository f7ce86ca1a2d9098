"""Whether maps explain: what removing their places does, and what changes them."""

from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch
from scipy import stats

from clipfh_lib.data import transforms
from clipfh_lib.evaluation import embeddings, intervals
from clipfh_lib.studies import explaining, maps
from clipfh_lib.studies.opened import Opened
from clipfh_lib.study import AttentionParams, LimitParams, RemovalParams

WAYS = ("deletion", "insertion")
COLUMNS = (
    "map check value low high random difference difference_low difference_high p pairs people flat"
).split()


class Checked(NamedTuple):
    """Rows of `tested` for all maps, and mean curves of deletion and insertion."""

    table: pd.DataFrame
    curves: pd.DataFrame


def checks(
    heat: dict[str, np.ndarray],
    network: Opened,
    pixels: np.ndarray,
    place: pd.DataFrame,
    array: np.ndarray,
    people: np.ndarray,
    p: AttentionParams,
) -> Checked:
    """All checks of the maps of the first sides of pairs.

    Args:
        heat: by method, (N, H, W): of the images `query`, held against `found`.
        network: whose maps they are.
        pixels: (M, H, W, 3) uint8.
        place: of each pair the rows of `pixels` that are its `query`, `found`, and `other`, an
            image of somebody else.
        array: (M, F) embeddings of all pixels, see `explaining.unflipped`.
        people: (N,) pids.
        p: the study's.
    """
    query, found, other = (place[name].to_numpy() for name in ("query", "found", "other"))
    how, grid = (p.embed.batch, p.device), maps.place(network).grid
    fresh, resamples = explaining.randomised(network, p), p.evaluation.resamples
    measured = {}
    for name, one in heat.items():
        measured[name] = removal(network, pixels[query], array[found], one, p.removal, *how)
        measured[name][:, explaining.flat(one)] = np.nan
    drawn = []
    for seed in range(p.removal.random):
        one = random_maps(len(query), grid, pixels.shape[1:3], seed)
        drawn.append(removal(network, pixels[query], array[found], one, p.removal, *how))
    by_chance = np.mean(drawn, axis=0)
    rows, lines = [], [curves("random", by_chance)]
    for name, one in heat.items():
        lines.append(curves(name, measured[name]))
        for check, ours, random in zip(WAYS, area(measured[name]), area(by_chance), strict=True):
            rows.append(tested(name, check, ours, people, resamples, random))
        for check, net, against in (
            ("random_weights", fresh, found),
            ("other_gallery", network, other),
        ):
            held = explaining.of_pairs(name, net, pixels[query], pixels[against], *how)[0]
            rows.append(tested(name, check, correlation(one, held), people, resamples))
    return Checked(pd.concat(rows, ignore_index=True), pd.concat(lines, ignore_index=True))


def energy(
    heat: dict[str, np.ndarray], masks: np.ndarray, people: np.ndarray, resamples: int
) -> pd.DataFrame:
    """Share of the maps' energy that lies on the hand, beside the hand's share of the picture.

    Args:
        heat: by name, (N, H, W).
        masks: (N, H, W) bool: the hand; images without one are left out and counted.
        people: (N,) pids.
        resamples: of people.

    Returns:
        `map, share, low, high, area, difference, difference_low, difference_high, p, images,
        people, flat`; the difference is share minus area.
    """
    on = masks.mean(axis=(1, 2))
    rows = [
        tested(name, "", inside(one, masks), people, resamples, on) for name, one in heat.items()
    ]
    names = {"value": "share", "random": "area", "pairs": "images"}
    return pd.concat(rows, ignore_index=True).rename(columns=names).drop(columns="check")


def removal(
    network: Opened,
    pixels: np.ndarray,
    targets: np.ndarray,
    heat: np.ndarray,
    how: RemovalParams,
    batch: int = 64,
    where: str = "auto",
    seed: int = 0,
) -> np.ndarray:
    """Similarity to a target while the places of a map are removed, and while they are brought in.

    Deletion and insertion of Petsiuk et al., RISE, BMVC 2018 (arXiv:1806.07421), section 4.3, the
    highest places first. Places of equal height go in a random order.

    Args:
        pixels: (N, H, W, 3) uint8 at the size of the network's input.
        targets: (N, F) embeddings that the images are held against.
        heat: (N, H, W), one map for each image.
        how: number of steps, and what stands in place of what is removed.
        batch: images at a time.
        where: `auto`, `cpu`, `cuda` or `mps`.
        seed: of the order of equal places.

    Returns:
        (2, N, S + 1) cosines, deletion and then insertion, by the share that is removed or there:
        0, 1 / S, ... 1.
    """
    device = embeddings.device(where)
    several = min(batch, embeddings.CPU_BATCH) if device.type == "cpu" else batch
    draw = np.random.default_rng(seed)
    shares = np.arange(how.steps + 1) / how.steps
    unit = torch.nn.functional.normalize(torch.from_numpy(targets).float(), dim=1)
    found, mean_std = [], network.preprocess[3:]
    with explaining.on(network, device), torch.inference_mode():
        for image, vector, one in zip(pixels, unit, heat, strict=True):
            order = np.lexsort((draw.random(one.size), -one.ravel()))
            rank = np.empty(one.size)
            rank[order] = (np.arange(one.size) + 0.5) / one.size
            gone = rank.reshape(1, *one.shape, 1) < shares[:, None, None, None]
            blank = filled(image, how.fill)
            both = np.concatenate([np.where(gone, blank, image), np.where(gone, image, blank)])
            parts = np.array_split(both, -(-len(both) // several))
            inputs = (transforms.normalise(part, *mean_std, device) for part in parts)
            made = torch.cat([network.embedder.encode_image(part).float() for part in inputs])
            found.append((embeddings.unit(made) @ vector.to(device)).cpu().numpy())
    return np.stack(found).reshape(len(pixels), 2, -1).transpose(1, 0, 2)


def filled(image: np.ndarray, fill: str) -> np.ndarray:
    """What an image (H, W, 3) uint8 is replaced by: its `mean` colour, `white`, or its `blur`."""
    if fill == "blur":
        return cv2.GaussianBlur(image, (0, 0), max(image.shape[:2]) / 20)
    colour = 255 if fill == "white" else image.mean(axis=(0, 1)).round()
    return np.full_like(image, colour)


def area(curves: np.ndarray) -> np.ndarray:
    """(..., S + 1) at even steps from 0 to 1 -> (...), the area below, by trapezoids."""
    return np.trapezoid(curves, dx=1 / (curves.shape[-1] - 1), axis=-1)


def random_maps(count: int, grid: tuple[int, int], size: tuple[int, int], seed: int) -> np.ndarray:
    """(N, H, W) maps of random heights, as coarse as those they are held against.

    Args:
        grid: rows and columns in which the heights are drawn.
        size: H and W, to which they are enlarged as the maps are.
        seed: of the draw.
    """
    drawn = np.random.default_rng(seed).random((count, *grid))
    return maps.enlarged(drawn, *size)


def correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of maps, place by place; (N, H, W) twice -> (N,).

    As Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018 (arXiv:1810.03292), section 4.
    NaN where one of the two is the same everywhere.
    """
    ranks = [stats.rankdata(each.reshape(len(each), -1), axis=1) for each in (first, second)]
    one, two = (each - each.mean(axis=1, keepdims=True) for each in ranks)
    spread = np.sqrt((one * one).sum(axis=1) * (two * two).sum(axis=1))
    return np.where(spread > 0, (one * two).sum(axis=1) / np.where(spread > 0, spread, 1), np.nan)


def inside(heat: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Share of each map's energy that lies in its mask: (N, H, W), (N, H, W) bool -> (N,).

    NaN where there is no energy, or no mask.
    """
    total, there = heat.sum(axis=(1, 2)), masks.any(axis=(1, 2))
    part = (heat * masks).sum(axis=(1, 2))
    return np.where((total > 0) & there, part / np.where(total > 0, total, 1), np.nan)


def tested(
    name: str,
    check: str,
    values: np.ndarray,
    people: np.ndarray,
    resamples: int,
    against: np.ndarray | None = None,
) -> pd.DataFrame:
    """One row: the mean over pairs with its 95 % interval over people, beside what it is held to.

    Args:
        name: of the map.
        check: what was measured.
        values: (N,), NaN where a map was flat; such pairs are left out and counted.
        people: (N,) pids.
        resamples: of people.
        against: (N,) what random maps give, or what the area of the mask would.

    Returns:
        COLUMNS; the difference is value minus random, paired over people as `intervals.compare`.
    """
    there = ~np.isnan(values)
    row = dict.fromkeys(COLUMNS, np.nan) | {"map": name, "check": check}
    row |= {"pairs": int(there.sum()), "flat": int((~there).sum())}
    codes, names = pd.factorize(people[there])
    row["people"] = len(names)
    if there.any():
        shape, trial = (len(names), 1), np.zeros(len(codes), int)
        sums, counts = intervals.person_sums(values[there][:, None], codes, trial, shape)
        ends = intervals.interval(sums, counts, resamples)
        row |= {"value": values[there].mean(), "low": ends.low[0], "high": ends.high[0]}
        if len(names) > 1 and np.ptp(values[there]) == 0:  # by construction: no rate of 0 or 1
            row |= {"low": row["value"], "high": row["value"]}
        if against is not None:
            other, _ = intervals.person_sums(against[there][:, None], codes, trial, shape)
            made = intervals.compare(sums, other, counts, resamples)
            row |= {"random": against[there].mean(), "difference": made.difference[0]}
            row |= {"difference_low": made.low[0], "difference_high": made.high[0]}
            row["p"] = made.p[0]
    return pd.DataFrame([row])


def verdicts(table: pd.DataFrame, limits: LimitParams) -> pd.DataFrame:
    """What the checks of each map come to, in words: `map`, `says`.

    Args:
        table: rows of `tested`, checks deletion, insertion, random_weights, other_gallery.
        limits: of the two correlations.
    """
    found = []
    for name, part in table.groupby("map", sort=False):
        rows = part.set_index("check")
        says = []
        alike = rows["value"].get("other_gallery", np.nan)
        if name in maps.ATTENTION or alike >= limits.same:
            says.append("ignores its target: no explanation of a similarity")
        elif alike >= limits.nearly:
            says.append("hardly changes with its target")
        if rows["value"].get("random_weights", np.nan) >= limits.alike:
            says.append("changes little with random weights")
        if "deletion" in rows.index:
            worse = not rows["difference_high"]["deletion"] < 0
            says += ["deletion: no better than random maps"] * worse
            worse = not rows["difference_low"]["insertion"] > 0
            says += ["insertion: no better than random maps"] * worse
        found.append({"map": name, "says": "; ".join(says) or "passes all checks"})
    return pd.DataFrame(found)


def curves(name: str, found: np.ndarray) -> pd.DataFrame:
    """Mean of `removal`, (2, N, S + 1), over maps that are not flat: `map, check, share, value`."""
    shares = np.arange(found.shape[-1]) / (found.shape[-1] - 1)
    there = ~np.isnan(found).any(axis=(0, 2))
    means = found[:, there].mean(axis=1) if there.any() else np.full((2, len(shares)), np.nan)
    kinds = zip(WAYS, means, strict=True)
    parts = [{"map": name, "check": kind, "share": shares, "value": mean} for kind, mean in kinds]
    return pd.concat([pd.DataFrame(part) for part in parts], ignore_index=True)
