"""Which figures of a run show photographs of hands, and whether a report may hold them."""

# Curves, bars, matrices, points: no picture of a person is in them. Any other name counts as
# photographs, so that a new figure must be written down here before a report shows it for all data.
WITHOUT = frozenset(
    """
    across_aspects bars burst_gap by_method cmc consistency curves det embedded energy groups
    histories layout naming open_set real_conditions recalls removal robustness_curves
    robustness_curves_both robustness_curves_gallery robustness_heat scores severity similarity
    split_sizes words
    """.split()
)


def shown_in(figure: str) -> bool:
    """Whether a figure may show photographs: all do but those that are known to hold none.

    Args:
        figure: file name without suffix, e.g. "cmc", or "severity-demo" of one data set.
    """
    return figure.split("-")[0] not in WITHOUT


def allowed(data: dict | None) -> bool:
    """Whether photographs of a data set may stand in a report.

    Drawn hands are nobody's, so they always may; others only if the data set's params say so. A
    drawn set has no folder of its own: one with a root is read from there.

    Args:
        data: the part `data` of a run's params.yaml; none of a run is read as forbidden.
    """
    data = data or {}
    drawn = data.get("draw") is not None and data.get("root") is None
    return drawn or data.get("photographs") is True


def may_stand(figure: str, *data: dict | None) -> bool:
    """Whether a figure of these data sets may stand in a report."""
    return not shown_in(figure) or (bool(data) and all(map(allowed, data)))
