"""An epoch of CLIP-ReID's first stage, whose image features are kept, against encoding each epoch.

Ours is a whole fit of one epoch on the features of as many images as the training half of an aspect
of 11k Hands has. The reference does the same and encodes all images: its images are measured on
a few and multiplied, so it is no time that passed.
"""

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import common
from clipfh_lib import params, runs
from clipfh_lib.learning import ClipReidPromptsParams
from clipfh_lib.methods import clip_reid, training
from clipfh_lib.models import backbones

TIMES = 20
BACKBONE = "vit_b16"
SEVERAL = 8  # images that are encoded at once


def expected(stage: clip_reid.PromptStage, images: Tensor, targets: list[int]) -> float:
    """Both losses of a batch, person by person and image by image, from encoded images."""
    people = sorted(set(targets))
    texts = stage(torch.tensor(people)).double()
    images = images.double()
    if stage.p.loss_text_normalise:
        images, texts = (nn.functional.normalize(each, dim=1) for each in (images, texts))
    scores = (images @ texts.T / stage.p.loss_text_temperature).tolist()
    own = [people.index(target) for target in targets]
    to_text, to_image = [], []
    for row, right in zip(scores, own, strict=True):
        # every image of a batch has its person's text, which stands in the batch once per image
        all_texts = np.logaddexp.reduce([row[place] for place in own])
        to_text.append(all_texts - row[right])
    for right in own:
        column = [row[right] for row in scores]
        mine = [column[image] for image, place in enumerate(own) if place == right]
        to_image.append(np.logaddexp.reduce(column) - np.mean(mine))
    return float(np.mean(to_text) + np.mean(to_image))


def encoded(encoder: nn.Module, pixels: Tensor) -> Tensor:
    """Features of some images, as the frozen encoder gives them."""
    with torch.inference_mode():
        return encoder.encode_image(pixels)


def main() -> None:
    sizes = {"people": 72, "images": 890, "repeats": 2}
    args = common.arguments(__doc__, **sizes)
    p = params.read("clip_reid_prompts", "demo", BACKBONE, "default", 0, {"model.weights": "none"})
    p = p.model_copy(update={"fit": p.fit.model_copy(update={"epochs": 1})})
    with common.project() as root:
        encoder, preprocess = backbones.load(p.model)
        draw = torch.Generator().manual_seed(0)
        shape = (SEVERAL, 3, preprocess.height, preprocess.width)
        pixels = torch.randn(shape, generator=draw)
        some = encoded(encoder, pixels).clone()
        features = some[torch.arange(args.images) % SEVERAL].numpy()
        targets = np.arange(args.images) % args.people
        check(encoder, p, features, targets, some)
        image, _ = common.paired(lambda: encoded(encoder, pixels), lambda: None, args.repeats)
        image /= SEVERAL

        def epoch(number: int = 0) -> None:
            stage = clip_reid.PromptStage(encoder, p, features, targets, ["dorsal_r"] * args.people)
            run = runs.start("04_clip_reid_prompts", p, root / f"outputs_{number}")
            batches = clip_reid.batches(args.images, p)
            training.fit(stage, batches, run, {"at": number}, p.fit, "cpu")

        numbers = iter(range(args.repeats + 1))
        ours, _ = common.paired(lambda: epoch(next(numbers)), lambda: None, args.repeats)
    what = f"{args.images} images of {args.people} people, {BACKBONE}, {1 / image:.3g} images/s"
    common.report([common.faster(what, ours, ours + args.images * image, "s", TIMES)], args.check)


def check(
    encoder: nn.Module,
    p: ClipReidPromptsParams,
    features: np.ndarray,
    targets: np.ndarray,
    images: Tensor,
) -> None:
    """The loss of a step is that of its formulas on images that are encoded for it."""
    stage = clip_reid.PromptStage(encoder, p, features, targets, ["dorsal_r"] * (targets.max() + 1))
    stage.log = stage.log_dict = lambda *_, **__: None  # there is no trainer yet
    rows = torch.arange(len(images))
    targets = [number // 2 for number in range(len(images))]  # two images of each
    stage.targets[rows] = torch.tensor(targets)
    ours = stage.training_step(clip_reid.Rows(rows), 0).item()
    with torch.no_grad():
        wanted = expected(stage, images, targets)
    np.testing.assert_allclose(ours, wanted, rtol=1e-4)
    assert wanted > 0.1, "there is something to agree on"


if __name__ == "__main__":
    main()
