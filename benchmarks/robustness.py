"""Graded conditions of a run, per image, against changing the pixels and one forward pass.

The reference changes the same pixels, reads each hand once, brings every picture to the model's
size and encodes it, in batches of the same size, and stops there. Ours hashes the changed pixels,
ranks, and goes on to intervals of what is lost, for one side: each more ranks the same embeddings
again. That both encode the same is checked first, by the embeddings of two sets.
"""

import numpy as np
import torch
from tqdm.auto import tqdm

from benchmarks import common
from clipfh_lib import files
from clipfh_lib.data import anatomy, corruptions, images, splits, transforms
from clipfh_lib.evaluation import embeddings
from clipfh_lib.models import backbones
from clipfh_lib.schema import DataParams, ModelParams
from clipfh_lib.studies import opened, robustness
from clipfh_lib.study import OfRun, RobustnessParams

TIMES = 1.3
BATCH = embeddings.CPU_BATCH
CONDITIONS, SEVERITIES = ["darker", "perspective", "ring", "noise"], [3]
CHECKED = ("ring", 3)  # drawn where the hand is read


def encoded(encoder: torch.nn.Module, how: backbones.Preprocess, pixels: np.ndarray) -> np.ndarray:
    """Embeddings of pictures at the model's size."""
    return encoder.encode_image(transforms.normalise(pixels, how.mean, how.std)).numpy()


def main() -> None:
    args = common.arguments(__doc__, people=10, images=10, width=400, canvas=256, repeats=2)
    weights = str(backbones.ASSETS / "demo_clip.safetensors")
    model = ModelParams(name="demo_clip", weights=weights)
    encoder, preprocess = backbones.load(model)
    found = opened.Opened(encoder, encoder, preprocess, "pretrained", None)
    of = OfRun(notebook="02_zero_shot", dataset="x", method="zero_shot", recipe="x", folder="x")
    with common.project() as root:
        table = common.photographs(root, args.people, args.images, args.width)
        own = DataParams(catalogue="hands_11k", root=str(root), cut="none")
        split = splits.make(table, own)
        data = splits.Prepared(files.cache(), root, table, split, table.iloc[:0], [], "", False)
        p = RobustnessParams(
            method="robustness", dataset="x", data=own, backbone="demo", recipe="x", of=of,
            model=model, canvas=args.canvas, conditions=CONDITIONS, severities=SEVERITIES,
            device="cpu", loader={"workers": 1},
        )  # fmt: skip
        size = images.Size(args.canvas, args.canvas)
        canvas = np.array(images.decode(root, table["path"], size).pixels)
        names = list(table["image_id"])

        def ours() -> object:
            return robustness.evaluate(found, data, p)

        def change(row: int, condition: str, severity: int, hand: anatomy.Hand) -> np.ndarray:
            pixels = canvas[row]
            if severity:
                pixels = corruptions.corrupt(pixels, condition, severity, 0, names[row], hand)
            return images.fit(pixels, preprocess.size("clip"))

        @torch.inference_mode()
        def reference() -> dict[tuple[str, int], np.ndarray]:
            hands = [anatomy.read(pixels) for pixels in canvas]
            steps = [(condition, severity) for condition in CONDITIONS for severity in SEVERITIES]
            made = {}
            for step in [("", 0), *steps]:
                made[step] = []
                for start in range(0, len(names), BATCH):
                    rows = range(start, min(start + BATCH, len(names)))
                    pixels = np.stack([change(row, *step, hands[row]) for row in rows])
                    made[step].append(encoded(encoder, preprocess, pixels))
            return {step: np.concatenate(parts) for step, parts in made.items()}

        wanted = reference()
        with robustness.bench(found, data, p, table) as on:
            for step, given in ((CHECKED, CHECKED), ((robustness.CLEAN, 0), ("", 0))):
                made, _ = on.embed(robustness.changed(p, *step, {}), tqdm(disable=True))
                np.testing.assert_allclose(made, wanted[given], atol=1e-5)
        assert np.abs(wanted["", 0] - wanted[CHECKED]).max() > 1e-3, "there is something to see"

        times = common.paired(ours, reference, args.repeats)
    count = len(table) * (1 + len(CONDITIONS) * len(SEVERITIES))
    each = [1000 * seconds / count for seconds in times]
    what = f"{count} images, canvas {args.canvas}, queries changed, per image"
    common.report([common.at_most(what, *each, "ms", TIMES)], args.check)


if __name__ == "__main__":
    main()
