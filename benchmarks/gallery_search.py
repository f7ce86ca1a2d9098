"""Search in a million embeddings: ours against the bare matrix-vector product, faiss against exact.

The gallery is of people who lie anywhere on the sphere, each with ten noisy copies whose cosine is
0.7, and a query is one more copy: nothing but the copies themselves helps an index, whose lists
follow the shape of the data, so real embeddings are easier. Last, from an image file to the answer
with the demo CLIP, once it is loaded; `--people` does not matter for that.
"""

import time
from pathlib import Path

import faiss
import numpy as np
import torch

from benchmarks import common
from clipfh_lib.models import backbones
from clipfh_lib.schema import EmbedParams, ModelParams
from clipfh_lib.studies import gallery, identify, index, thresholds, vectors

DIMENSIONS, COPIES, TOP, NOISE = (
    512,
    10,
    10,
    0.65,
)  # noise: cosine of two copies 1 / (1 + 0.65 ** 2)
TIMES, MILLISECONDS, MISSED, SECONDS = 1.3, 15, 0.05, 0.3
BLOCK = 1000  # people drawn at a time


def drawn(people: int, queries: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gallery (N, D), where each person begins (P,), and queries (Q, D); all of length one."""
    draw, other = np.random.default_rng(0), np.random.default_rng(1)
    found = np.empty((people * COPIES, DIMENSIONS), np.float32)
    asked, places = [], np.linspace(0, people - 1, queries).astype(int)
    for start in range(0, people, BLOCK):
        count = min(BLOCK, people - start)
        own = draw.standard_normal((count, 1, DIMENSIONS), np.float32)
        copies = own + NOISE * draw.standard_normal((count, COPIES, DIMENSIONS), np.float32)
        rows = slice(start * COPIES, (start + count) * COPIES)
        found[rows] = _unit(copies.reshape(-1, DIMENSIONS))
        here = places[(places >= start) & (places < start + count)] - start
        asked.append(own[here, 0])
    asked = np.concatenate(asked)
    asked = _unit(asked + NOISE * other.standard_normal(asked.shape, np.float32))
    return found, np.arange(0, len(found), COPIES), asked


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def check(exact: index.Exact, queries: np.ndarray, found: index.Nearest) -> None:
    """The exact search is a plain sort in float64; its nearest person has the nearest image."""
    for row in range(0, len(queries), max(len(queries) // 3, 1)):
        scores = np.concatenate(
            [
                exact.vectors[start : start + 10_000].astype(np.float64) @ queries[row]
                for start in range(0, len(exact.vectors), 10_000)
            ]
        )
        np.testing.assert_allclose(found.similarity[row], np.sort(scores)[::-1][:TOP], atol=1e-5)
        np.testing.assert_allclose(scores[found.rows[row]], found.similarity[row], atol=1e-5)
    best = exact.people(queries[:3], 1)
    assert (best.rows[:, 0] == found.rows[:3, 0]).all()


def approximate(
    exact: index.Exact, queries: np.ndarray, found: index.Nearest
) -> tuple[float, float]:
    """Median milliseconds of a processor for faiss, and the share of the exact ten it misses."""
    start = time.perf_counter()
    made = index.build(exact.vectors, exact.first, "faiss")
    seconds, held = time.perf_counter() - start, faiss.serialize_index(made.index).nbytes
    whole = exact.vectors.nbytes / 1e6
    print(
        f"faiss: {made.index.nlist} lists, {made.index.nprobe} looked into, built in "
        f"{seconds:.0f} s, {held / 1e6:.0f} MB beside the embeddings' {whole:.0f} MB"
    )
    taken, right = [], 0
    for query, rows, similarity in zip(queries, found.rows, found.similarity, strict=True):
        start = time.process_time()
        answer = made.images(query[None], TOP)
        taken.append(time.process_time() - start)
        common_rows, ours, theirs = np.intersect1d(answer.rows[0], rows, return_indices=True)
        right += len(common_rows)
        np.testing.assert_allclose(answer.similarity[0, ours], similarity[theirs], atol=1e-5)
    return 1000 * float(np.median(taken)), 1 - right / found.rows.size


def from_file(root: Path) -> float:
    """Median seconds from an image file to the answer, with the demo CLIP and a few people."""
    table = common.photographs(root, 2, 2, 160)
    table = table.assign(person=table["pid"].astype(str), image=table["path"])
    people = gallery.People(table[["person", "image", "path"]], root, table.iloc[:0])
    weights = str(backbones.ASSETS / "demo_clip.safetensors")
    encoder, preprocess = backbones.load(ModelParams(name="demo_clip", weights=weights))
    model = vectors.Model(encoder, preprocess, EmbedParams(), "clip", torch.device("cpu"))
    limit = thresholds.Threshold(0.1, reason="nobody asks for one here")
    made = gallery.enrol(people, model, {}, limit).gallery
    found = identify.of(made, model)
    last = table["path"].iloc[-1]
    answer = found.identify(root, [last], 1).found
    assert answer["image"].tolist() == [last]
    return identify.seconds(found, root, last, 9)


def main() -> None:
    args = common.arguments(__doc__, people=100_000, queries=50, repeats=5)
    found, first, queries = drawn(args.people, args.queries)
    exact = index.Exact(found, first)
    right = exact.images(queries, TOP)
    check(exact, queries, right)
    one = queries[:1]
    times = common.paired(lambda: exact.images(one, TOP), lambda: found @ one[0], args.repeats)
    what = f"top {TOP} of {len(found):,} x {DIMENSIONS}"
    milliseconds, missed = approximate(exact, queries, right)
    with common.project() as root:
        seconds = from_file(root)
    rows = [
        common.at_most(f"{what}, exact", *times, "s", TIMES),
        common.at_most(f"{what}, faiss, p50", milliseconds, MILLISECONDS, "ms"),
        common.at_most("share of the exact ten that faiss misses", missed, MISSED, ""),
        common.at_most("image file to answer, demo CLIP", seconds, SECONDS, "s"),
    ]
    common.report(rows, args.check)


if __name__ == "__main__":
    main()
