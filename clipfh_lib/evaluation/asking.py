"""A sentence to the images of a saved run that are nearest to it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from clipfh_lib import files, params, runs
from clipfh_lib.data import catalogues
from clipfh_lib.evaluation import embeddings, search, text_image
from clipfh_lib.files import InputError
from clipfh_lib.models import backbones, prompts
from clipfh_lib.schema import Common


@dataclass(frozen=True)
class Gallery:
    """Images of a run, ready to be asked for.

    Attributes:
        encoder: the run's CLIP, on the CPU in eval mode.
        images: (N, D) float32, at unit length.
        table: their rows: `image_id`, `path`, `caption` (empty where the run kept no prompts).
        root: folder the paths start from.
    """

    encoder: nn.Module
    images: np.ndarray
    table: pd.DataFrame
    root: Path

    def ask(self, sentence: str, top: int = 5) -> pd.DataFrame:
        """The images that are nearest to a sentence, nearest first.

        Args:
            sentence: in the words that the model was trained on.
            top: how many, or all if there are fewer.

        Returns:
            `sentence, rank, image_id, path, similarity, caption`; similarity is the cosine.

        Raises:
            InputError: an empty sentence, or one longer than the encoder reads.
        """
        said = " ".join(sentence.split())
        if not said:
            raise InputError("the sentence is empty: say what the picture shows")
        similarity = self.images @ text_image.texts_of(self.encoder, [said])[0]
        nearest = np.argsort(-similarity, kind="stable")[:top]
        found = self.table.iloc[nearest].reset_index(drop=True)
        found.insert(0, "sentence", said)
        found.insert(1, "rank", np.arange(1, len(found) + 1))
        found.insert(4, "similarity", similarity[nearest])
        return found


def open(folder: str | Path) -> Gallery:
    """The images of a complete run that kept embeddings, and the CLIP that made them.

    Weights that the run trained come from its folder, others from where the run had them.

    Raises:
        InputError: the run is not complete, kept no embeddings, has no CLIP or compares features
            that no text has; or its images are gone.
    """
    folder = files.resolve(folder)
    array, table = embeddings.read(folder)
    kept, content = runs.manifest(folder)["files"], params.read_yaml(folder / "params.yaml")
    p = params.validate(params.METHODS[content["method"]], content, {})
    if (other := _of_heads(p)) is not None:
        raise InputError(
            f"{folder.name}: {other}, so what it compares is not the encoder's own feature, which "
            "texts are near to: ask a run that leaves feature, feature_after_neck and projection"
        )
    model = p.model
    if "checkpoints/best.safetensors" in kept:
        model = model.model_copy(update={"weights": str(folder)})
    encoder, _ = backbones.load(model, p.seed)
    if not prompts.reads_text(encoder):
        raise InputError(f"{folder.name}: {p.model.name} reads no text: ask a run of a CLIP")
    if (width := prompts.text_tower(encoder).text_projection.shape[1]) != array.shape[1]:
        raise InputError(
            f"{folder.name}: its embeddings have {array.shape[1]} numbers, texts {width}: ask a "
            "run whose feature is the projected one"
        )
    said = pd.DataFrame(columns=["image_id", "prompt"], dtype="str")
    if "prompts.csv" in kept:
        said = files.read_csv(runs.kept(folder, "prompts.csv"), dict.fromkeys(said.columns, "str"))
    said = said.drop_duplicates("image_id").set_index("image_id")["prompt"]
    caption = said.reindex(table["image_id"], fill_value="").to_numpy()
    table = table[["image_id", "path"]].assign(caption=caption)
    root = catalogues.ensure(p.data, p.loader.workers)
    return Gallery(encoder, search.prepared(array, "cosine"), table, root)


def _of_heads(p: Common) -> str | None:
    """The field by which a run compares another feature than its encoder's own, or none."""
    own = {"feature": ["projected"], "feature_after_neck": False, "projection": None}
    for field, plain in own.items():
        if (value := getattr(p, field, plain)) != plain:
            return f"{field} is {value}"
    return None
