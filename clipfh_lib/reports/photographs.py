"""Which figures of a run show photographs of hands, and whether a report may hold them."""

from clipfh_lib import files, params
from clipfh_lib.reports import tables

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


def drawn(run: dict | None) -> bool:
    """Whether all that a run shows is drawn, so that it is nobody's.

    A drawn set has no folder of its own: one with a root is read from there. Who was enrolled from
    a folder or a table is anybody.

    Args:
        run: its params.yaml.
    """
    return not enrolled(run) and _drawn((run or {}).get("data"))


def enrolled(run: dict | None) -> bool:
    """Whether people of a folder or a table of their own were enrolled (12_identify)."""
    enrol = (run or {}).get("enrol") or {}
    return enrol.get("folder") is not None or enrol.get("table") is not None


def allowed(run: dict | None) -> bool:
    """Whether the photographs that a run shows may stand in a report.

    Drawn hands always may, people whom somebody enrolled never: no data set speaks for them. Others
    may if the run's own params and today's file of the data set both say so, so that a permission
    that is taken back there takes effect without a run. One that was given since counts too where
    the run read the very folder that the file speaks of.

    Args:
        run: its params.yaml; of none photographs are forbidden.
    """
    run = run or {}
    if enrolled(run) or drawn(run):
        return not enrolled(run)
    data, today = run.get("data") or {}, _today(str(run.get("dataset")))
    given = data.get("photographs") is True
    if today is None:
        return given
    now = today.get("photographs") is True
    same = all(data.get(name) == today.get(name) for name in ("catalogue", "root"))
    unsaid = "data.photographs" not in (run.get("overrides") or {})
    return (given and (now or _drawn(today))) or (now and same and unsaid)


def remark(run: dict) -> str:
    """What a reader must be told of what a run shows: drawn hands, limited data; else nothing."""
    limit = (run.get("data") or {}).get("limit") or {}
    return tables.remark(
        "demo" if drawn(run) else "", any(value is not None for value in limit.values())
    )


def may_stand(figure: str, *runs: dict | None) -> bool:
    """Whether a figure of these runs may stand in a report."""
    return not shown_in(figure) or (bool(runs) and all(map(allowed, runs)))


def _drawn(data: dict | None) -> bool:
    data = data or {}
    return data.get("draw") is not None and data.get("root") is None


def _today(dataset: str) -> dict | None:
    """What params/datasets/ says of a data set now; none where no file has its name."""
    path = files.project() / "params" / "datasets" / f"{dataset}.yaml"
    return params.read_yaml(path).get("data") or {} if path.is_file() else None
