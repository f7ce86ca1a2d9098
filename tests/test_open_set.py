import itertools

import numpy as np
import pandas as pd
import pytest
from simulated import people as two_aspects

from clipfh_lib.evaluation import intervals, metrics, open_set, rates, search, verification

TRIALS, CROWD = 3, 1000  # distractors' ids begin there


def crowd(test=14, away=12, val=7, images=6, noise=1.2, seed=0):
    """Embeddings (N, 16), table and split as HD has them: one gallery, distractors in it."""
    draw = np.random.default_rng(seed)
    pids = [*range(1, 1 + val + test), *range(CROWD, CROWD + away)]
    rows = [(f"hd_{pid:04d}_{image}", pid, "all") for pid in pids for image in range(images)]
    table = pd.DataFrame(rows, columns=["image_id", "pid", "aspect"])
    array = np.repeat(draw.standard_normal((len(pids), 16)), images, axis=0)
    array = (array + noise * draw.standard_normal(array.shape)).astype(np.float32)
    others = table[table["pid"] >= CROWD]
    tested = table[table["pid"].between(val + 1, CROWD - 1)]
    parts = [table[table["pid"] <= val].assign(role="val", distractor=False)]
    for trial in range(TRIALS):
        here = {"test_aspect": "all", "trial": trial}
        gallery = tested.groupby("pid").sample(1, random_state=trial)
        query = tested[~tested.index.isin(gallery.index)]
        parts += [
            query.assign(**here, role="query", distractor=False),
            gallery.assign(**here, role="gallery", gallery="default", distractor=False),
            others.assign(**here, role="gallery", gallery="default", distractor=True),
        ]
    return array, table, pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def drawn():
    return crowd()


@pytest.fixture(scope="module")
def results(drawn):
    return open_set.evaluate(*drawn, "trained", resamples=200)


def value(results, metric):
    rows = results.metrics[results.metrics["metric"] == metric]
    assert len(rows) == 1
    return rows.iloc[0]


def reason(results, metric):
    return results.notes.set_index("metric")["reason"].get(metric, "")


def searches(drawn, trial, distance):
    """Own score (None where a stranger stands before) and highest score, by plain loops."""
    array, table, split = drawn
    array = array.astype(np.float64)
    at = {image: row for row, image in enumerate(table["image_id"])}

    def score(a, b):
        a, b = array[at[a]], array[at[b]]
        if distance == "euclidean":
            return -np.sqrt(((a - b) ** 2).sum())
        return a @ b / np.sqrt((a @ a) * (b @ b))

    here = split[split["trial"] == trial]
    enrolled = here[(here["role"] == "gallery") & (here["pid"] < CROWD)]
    mated, non_mated = [], []
    for query in here[here["role"] == "query"].itertuples():
        found = [(score(query.image_id, g.image_id), g.pid) for g in enrolled.itertuples()]
        best, who = max(found)
        mated.append(best if who == query.pid else None)
    for probe in here[here["pid"] >= CROWD].itertuples():
        non_mated.append(max(score(probe.image_id, g) for g in enrolled["image_id"]))
    return mated, non_mated


# --- the rates -------------------------------------------------------------------------------


def test_rates_of_four_searches_by_hand():
    """On a circle: Anna is enrolled at 0 degrees, Bert at 90; ten searches are in vain."""
    images = [("anna", 1, 0), ("bert", 2, 90)]
    images += [("a10", 1, 10), ("a60", 1, 60), ("a-40", 1, -40), ("b80", 2, 80)]
    images += [(f"v{degrees}", 9, -degrees) for degrees in (5, 20, *range(41, 49))]
    table = pd.DataFrame(images, columns=["image_id", "pid", "degrees"])
    turn = np.deg2rad(table["degrees"])
    array = np.stack([np.cos(turn), np.sin(turn)], axis=1).astype(np.float32)
    role = np.where(table["degrees"].isin([10, 60, -40, 80]), "query", "gallery")
    split = table.assign(role=role, trial=0, test_aspect="all", aspect="all", gallery="default")
    split = split.assign(distractor=split["pid"] == 9)
    found = open_set.evaluate(array, table, split, "w", resamples=20)
    # One alarm in ten is allowed, at 5 degrees: the threshold lies just above 20 degrees. There
    # a10 and b80 are found; a60 is nearer to Bert; -40 is first, but too far away.
    assert value(found, "fnir@1e-1")["value"] == 0.5
    assert value(found, "fnir@1e-2")["value"] == 1  # just above 5 degrees
    assert (value(found, "fnir@1e-1")[["queries", "people"]] == [4, 2]).all()
    lowest = found.curves.iloc[(found.curves["fpir"] - 1).abs().argmin()]
    assert lowest["fnir"] == 0.25  # however low the threshold, a60 is not found


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_rates_equal_plain_loops_over_searches(drawn, distance):
    found = open_set.evaluate(*drawn, "trained", distance, resamples=20)
    for name, fpir in (("1e-1", 0.1), ("1e-2", 0.01)):
        fnirs = []
        for trial in range(TRIALS):
            mated, non_mated = searches(drawn, trial, distance)
            allowed = int(fpir * len(non_mated))
            bar = sorted(non_mated, reverse=True)[allowed]  # the threshold lies just above it
            fnirs.append(np.mean([score is None or score <= bar for score in mated]))
        assert value(found, f"fnir@{name}")["value"] == pytest.approx(np.mean(fnirs), abs=1e-9)
        assert value(found, f"fnir@{name}")["sd"] == pytest.approx(np.std(fnirs, ddof=1), abs=1e-9)
        by_trial = found.trials[found.trials["metric"] == f"fnir@{name}"]["value"]
        assert list(by_trial) == pytest.approx(fnirs, abs=1e-9)
    assert 0.2 < value(found, "fnir@1e-1")["value"] < value(found, "fnir@1e-2")["value"] < 1


def test_the_curve_never_falls_below_the_searches_that_miss_rank_1(drawn, results):
    mated = sum((searches(drawn, trial, "cosine")[0] for trial in range(TRIALS)), [])
    missed = np.mean([score is None for score in mated])
    curve = results.curves
    assert missed > 0.05 and curve["fnir"].min() == pytest.approx(missed, abs=1e-9)
    assert curve["fpir"].is_monotonic_decreasing and curve["fnir"].is_monotonic_increasing
    assert (curve["gallery"] == "enrolled").all() and 30 < len(curve) <= 300
    at = curve.iloc[(curve["fpir"] - 0.1).abs().argmin()]
    assert at["fnir"] == pytest.approx(value(results, "fnir@1e-1")["value"], abs=0.05)


def test_a_stranger_as_near_as_the_own_image_makes_a_search_miss():
    array, table, split = crowd(noise=0.5)
    here = split[split["trial"] == 0]
    enrolled = here[(here["role"] == "gallery") & ~here["distractor"]]
    first, second = (table.index[table["image_id"] == i][0] for i in enrolled["image_id"][:2])
    twins = array.copy()
    twins[second] = twins[first] * np.float32(3)  # the same direction, rounded otherwise
    one = split[split["trial"].isna() | (split["trial"] == 0)]
    before, after = (open_set.evaluate(a, table, one, "w", resamples=20) for a in (array, twins))
    lowest = [found.curves["fnir"].min() * 70 for found in (before, after)]  # 14 people x 5
    own = searches((array, table, one), 0, "cosine")[0]
    assert lowest[0] == pytest.approx(sum(score is None for score in own))
    missed = [score is None for score in searches((twins, table, one), 0, "cosine")[0]]
    missed[:10] = [True] * 10  # of both
    assert lowest[1] == pytest.approx(sum(missed)) and lowest[1] > lowest[0] + 5


@pytest.mark.parametrize("behind, missed", [(3e-7, 1), (1e-6, 0)])
def test_a_stranger_nearer_than_a_tie_makes_a_search_miss(behind, missed):
    """Cosines that differ by less than rounding does are equal, as in `search`."""
    turn = np.arccos(1 - behind)
    array = np.array([[1, 0], [1, 0], [np.cos(turn), np.sin(turn)], [0, 1]], np.float32)
    table = pd.DataFrame({"image_id": list("qgsd"), "pid": [1, 1, 2, 9], "aspect": "all"})
    split = table.assign(role=["query", *["gallery"] * 3], distractor=table["pid"] == 9)
    split = split.assign(trial=0, test_aspect="all", gallery="default")
    found = open_set.evaluate(array, table, split, "w", resamples=20)
    assert value(found, "fnir@1e-1")["value"] == missed


def test_searches_in_blocks_are_the_same(drawn, results, monkeypatch):
    monkeypatch.setattr(search, "QUERY_BLOCK", 7)
    found = open_set.evaluate(*drawn, "trained", resamples=200)
    pd.testing.assert_frame_equal(found.metrics, results.metrics, atol=1e-6)


def test_columns_and_what_a_rate_was_counted_on(results):
    long = ["test_aspect", "weights", "gallery", "subset", "direction"]
    assert list(results.trials) == [*long, "trial", "metric", "value", "queries", "people"]
    back = ["value", "sd", "low", "high", "queries", "people"]
    assert list(results.metrics) == [*long, "metric", *back]
    names = [f"{r}@{f}" for r in ("fnir", "val_fnir", "val_fpir") for f in ("1e-1", "1e-2")]
    assert list(results.metrics["metric"]) == names
    assert (value(results, "val_fnir@1e-1")[["queries", "people"]] == [14 * 5, 14]).all()
    assert (value(results, "val_fpir@1e-1")[["queries", "people"]] == [12 * 6, 12]).all()
    rows = results.metrics[results.metrics["metric"].isin(["fnir@1e-1", "val_fnir@1e-1"])]
    assert (rows["low"] < rows["value"]).all() and (rows["value"] < rows["high"]).all()


# --- thresholds of val people ------------------------------------------------------------------


def probes(people=4, images=3, seed=1):
    draw = np.random.default_rng(seed)
    pids = np.repeat(np.arange(people), images)
    scores = draw.standard_normal((len(pids), len(pids))).astype(np.float32)
    scores[pids[:, None] == pids] = -np.inf
    return open_set.Probes(scores, np.arange(people) * images, ""), pids


def test_the_expected_fpir_equals_that_of_all_galleries_there_are():
    val, pids = probes()
    for threshold in (-0.5, 0.4, 1.5):
        rates_found = []
        for probe, pid in enumerate(pids):
            others = [np.flatnonzero(pids == other) for other in range(4) if other != pid]
            galleries = [list(rows) for rows in itertools.product(*others)]  # 27
            found = [val.scores[probe, rows].max() >= threshold for rows in galleries]
            rates_found.append(np.mean(found))
        expected = np.mean(rates_found)
        assert 0.05 < expected < 0.98
        assert open_set.expected_fpir(val, 3, threshold) == pytest.approx(expected, abs=1e-9)


def test_twice_as_many_enrolled_are_twice_as_many_chances_of_a_false_alarm():
    val, _ = probes()
    scores = np.full((1, 12), -np.inf, np.float32)
    scores[0, 3:] = val.scores[0, 3:]
    one = open_set.Probes(scores, val.first, "")
    alarm = open_set.expected_fpir(one, 3, 0.4)
    assert open_set.expected_fpir(one, 6, 0.4) == pytest.approx(1 - (1 - alarm) ** 2)
    assert 0.1 < alarm < 0.9


def test_the_threshold_is_the_lowest_float_that_keeps_to_the_fpir():
    val, _ = probes(people=8, images=5)
    steps = np.linspace(-3, 3, 40)
    expected = [open_set.expected_fpir(val, 20, step) for step in steps]
    assert (np.diff(expected) <= 0).all() and expected[0] > 0.99 and expected[-1] < 0.3
    for fpir in (0.5, 0.1, 0.01):
        threshold = open_set.threshold_at(val, 20, fpir)
        assert np.float32(threshold) == threshold
        lower = np.nextafter(np.float32(threshold), np.float32(-np.inf))
        assert open_set.expected_fpir(val, 20, threshold) <= fpir
        assert open_set.expected_fpir(val, 20, lower) > fpir


def test_val_people_set_the_threshold(drawn, results):
    array, table, split = drawn
    unit = array / np.linalg.norm(array, axis=1, keepdims=True)
    val = np.flatnonzero(table["pid"] <= 7)  # 7 people, 6 images each
    scores, pids = unit[val] @ unit[val].T, table["pid"].to_numpy()[val]

    def expected(threshold):
        alarms = []
        for row, pid in zip(scores, pids, strict=True):
            shares = [(row[pids == o] >= threshold).mean() for o in range(1, 8) if o != pid]
            alarms.append(1 - np.prod([(1 - s) ** (14 / 6) for s in shares]))
        return np.mean(alarms)

    below = max(s for s in np.unique(scores[pids[:, None] != pids]) if expected(s) > 0.1)
    misses, alarms = [], []
    for trial in range(TRIALS):
        mated, non_mated = searches(drawn, trial, "cosine")
        misses.append(np.mean([score is None or score <= below for score in mated]))
        alarms.append(np.mean(np.array(non_mated) > below))
    assert value(results, "val_fnir@1e-1")["value"] == pytest.approx(np.mean(misses), abs=1e-9)
    alarm = value(results, "val_fpir@1e-1")
    assert alarm["value"] == pytest.approx(np.mean(alarms), abs=1e-9)
    assert 0 < alarm["low"] < alarm["value"] < alarm["high"] < 0.6


def test_a_miss_of_rank_1_is_a_miss_below_every_threshold(drawn):
    """Val people far away from one another set a threshold below all scores of the test."""
    array, table, split = drawn
    val = np.flatnonzero(table["pid"] <= 7)
    array = array + np.float32(3)
    array[val] = np.eye(16)[table["pid"].to_numpy()[val]] - 0.5 / 16
    found = open_set.evaluate(array, table, split, "w", resamples=20)
    mated = [searches((array, table, split), trial, "cosine")[0] for trial in range(TRIALS)]
    missed = np.mean([score is None for scores in mated for score in scores])
    assert value(found, "val_fpir@1e-1")["value"] == 1
    assert value(found, "val_fnir@1e-1")["value"] == pytest.approx(missed, abs=1e-9)
    assert missed > 0.2


def nobody(split):
    return split[split["role"] != "val"]


def published(split):
    """One val image of each train person."""
    known = split["role"] == "val"
    return split.assign(role=split["role"].mask(known & (split.index % 6 > 0), "train"))


def rest(split):
    """A second image of each person in the gallery."""
    query = split["role"] == "query"
    more = query & ~split[query].duplicated(["trial", "pid"]).reindex(split.index, fill_value=True)
    moved = split.assign(role=split["role"].mask(more, "gallery"))
    return moved.assign(gallery=moved["gallery"].mask(more, "default"))


@pytest.mark.parametrize(
    "change, why",
    [
        (nobody, "there are no val people of this aspect"),
        (published, "val people also train (data.val: published)"),
        (rest, "people have several images enrolled (data.gallery: rest)"),
    ],
)
def test_where_val_people_can_set_no_threshold_the_rates_are_empty_and_say_why(drawn, change, why):
    array, table, split = drawn
    found = open_set.evaluate(array, table, change(split), "w", resamples=20)
    for metric in ("val_fnir@1e-1", "val_fpir@1e-2"):
        empty = value(found, metric)[["value", "sd", "low", "high"]].astype(float)
        assert empty.isna().all() and reason(found, metric) == why
    assert value(found, "fnir@1e-1")["value"] > 0.1


def test_val_images_without_an_embedding_set_no_threshold(drawn):
    array, table, split = drawn
    kept = ~(table["pid"] == 1).to_numpy()
    found = open_set.evaluate(array[kept], table[kept], split, "w", resamples=20)
    assert reason(found, "val_fnir@1e-1") == "val images have no embedding"


def test_neighbouring_val_images_are_not_searched_among_each_other(drawn):
    array, table, split = drawn
    numbered = table.assign(file_number=range(0, 4 * len(table), 4))
    val = open_set.probes(array, numbered, split, "all", "cosine")
    every = open_set.probes(array, table, split, "all", "cosine")
    ours = val.scores == -np.inf
    number = np.arange(0, 4 * 42, 4)
    own = np.arange(42)[:, None] // 6 == np.arange(42) // 6
    np.testing.assert_array_equal(ours, own | (np.abs(number[:, None] - number) <= 10))
    assert ours.sum() > (every.scores == -np.inf).sum()
    np.testing.assert_array_equal(val.scores[~ours], every.scores[~ours])


# --- what a number rests on ----------------------------------------------------------------


def test_a_rate_on_too_few_searches_is_given_with_a_note(results):
    """72 searches of 12 people in vain: too few for 10 % (300) and for 1 % (3,000)."""
    assert value(results, "fnir@1e-2")["value"] > 0
    assert reason(results, "fnir@1e-2") == (
        "the threshold rests on 72 non-mated searches of 12 people, the rule of 30 asks for 3000"
    )
    few = "the threshold rests on 42 searches of 7 val people, the rule of 30 asks for 300"
    assert reason(results, "val_fpir@1e-1").startswith(few)
    alarms = results.trials[results.trials["metric"] == "val_fpir@1e-1"]["value"] * 72
    assert reason(results, "val_fpir@1e-1").endswith(
        f"; {alarms.min():.0f} errors in a trial, the rule of 30 asks for 30"
    )
    assert 0 < alarms.min() < 30


def test_a_rate_on_many_searches_with_many_errors_has_no_note():
    found = open_set.evaluate(*crowd(away=50, noise=2.0), "w", resamples=20)
    assert reason(found, "fnir@1e-1") == ""  # 300 searches in vain
    assert "3000" in reason(found, "fnir@1e-2")
    assert "errors" not in reason(found, "fnir@1e-2")


def test_no_error_at_all_has_the_bound_of_the_rule_of_three(drawn):
    _, table, split = drawn
    person = table["pid"].rank(method="dense").astype(int).to_numpy() - 1
    found = open_set.evaluate(np.eye(person.max() + 1)[person], table, split, "w", resamples=50)
    for metric, people in (("fnir@1e-2", 14), ("val_fpir@1e-2", 12)):
        row, bound = value(found, metric), 1 - 0.05 ** (1 / people)
        assert (row["value"], row["low"]) == (0, 0) and row["high"] == pytest.approx(bound)
        said = f"no error of {people} people, so at most {100 * bound:.1f} % by the rule of 3"
        assert reason(found, metric).endswith(said)


def test_a_split_without_people_to_search_for_in_vain_has_empty_tables_and_a_note(results):
    array, table, split = two_aspects()
    none = open_set.evaluate(array, table, split, "pixels")
    assert [list(a) for a in none] == [list(b) for b in results]
    assert [len(part) for part in none] == [0, 0, 1, 0]
    assert none.notes["reason"].iloc[0] == (
        "gallery default has no people without a query to search for in vain"
    )
    for ours, empty in zip(results, none, strict=True):
        kinds = pd.concat([empty, ours]).dtypes  # an empty table must not make texts of numbers
        numbers = ours.select_dtypes("number").columns
        assert list(kinds[numbers]) == list(ours.dtypes[numbers])


def test_people_without_a_query_are_distractors_only_where_the_split_says(drawn):
    array, table, split = drawn
    assert set(verification.distractors(split)) == {("all", "default", t) for t in range(TRIALS)}
    enrolled = split.assign(distractor=split["distractor"] & (split["pid"] < CROWD + 6))
    found = open_set.evaluate(array, table, enrolled, "w", resamples=20)
    assert (value(found, "val_fpir@1e-1")[["queries", "people"]] == [36, 6]).all()


# --- intervals ---------------------------------------------------------------------------------


def test_intervals_resample_the_people_of_mated_and_non_mated_searches_apart():
    draw = np.random.default_rng(0)
    who, others = np.repeat(np.arange(25), 12), np.repeat(np.arange(25), 16)
    skill, likeness = draw.normal(2, 0.8, 25), draw.normal(0, 0.8, 25)
    mated = (skill[who] + draw.standard_normal(300)).astype(np.float32)
    mated[draw.random(300) < 0.2] = -np.inf
    alarms = (likeness[others] + draw.standard_normal(400)).astype(np.float32)
    cell = rates.Cell(mated, who, alarms, others)
    columns, _ = rates.measured([cell], 25, {"1e-1": 0.1}, 400, seed=4, others=25)
    tars = []
    for own, away in zip(
        intervals.person_weights(25, 400, 4).astype(int),
        intervals.person_weights(25, 400, 5).astype(int),
        strict=True,
    ):
        wrong = np.repeat(alarms, away[others])
        tars.append((np.repeat(mated, own[who]) >= metrics.threshold_at(wrong, 0.1)).mean())
    low, high = intervals.percentiles(np.array(tars)[:, None], 25)
    column = columns["tar@1e-1"]
    assert column.values[0] == (mated >= metrics.threshold_at(alarms, 0.1)).mean()
    assert (column.low, column.high) == pytest.approx((low[0], high[0]), abs=0.004)
    # narrower where the threshold is not drawn along
    fixed = rates.at_thresholds(
        [cell], 25, {"x": metrics.threshold_at(alarms, 0.1)}, 400, seed=4, others=25
    )["val_tar@x"]
    assert high[0] - low[0] > 1.1 * (fixed.high - fixed.low) > 0.1


def test_no_threshold_reaches_a_score_of_minus_infinity():
    scores = np.array([-np.inf, 0.2, 0.8, -np.inf], np.float32)
    wrong = np.linspace(0, 1, 50, dtype=np.float32)
    cell = rates.Cell(scores, np.array([0, 0, 1, 1]), wrong, np.arange(50) % 5)
    columns, curve = rates.measured([cell], 2, {"0.5": 0.5}, 50, 0, others=5)
    assert columns["tar@0.5"].values[0] == 0.25
    assert (curve["frr"][1:] >= 0.5).all() and curve["frr"][-1] == 1
    assert np.isfinite(curve["threshold"]).all()
