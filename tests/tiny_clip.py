"""A CLIP of a few thousand weights, which reads CLIP's own tokens and learns in seconds."""

import json

import open_clip

from clipfh_lib.models import backbones
from clipfh_lib.schema import ModelParams


def config(folder, name="tiny_clip", layers=2, size=48, **vision):
    """Let open_clip know a small ViT by a name; gives the name."""
    own = {"image_size": size, "layers": layers, "width": 64, "head_width": 16, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    found = {"embed_dim": 32, "quick_gelu": True, "vision_cfg": own | vision, "text_cfg": text}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(found))
    open_clip.add_model_config(path)
    return name


def load(folder, seed=0, **keys):
    """A tiny CLIP with random weights and its preprocessing."""
    return backbones.load(ModelParams(name=config(folder, **keys), weights="none"), seed)
