"""What learned prompts say: their nearest words, how alike people's texts are, whom images meet."""

from collections.abc import Sequence

import numpy as np
import open_clip
import pandas as pd
import torch
from sklearn.manifold import TSNE
from torch import Tensor, nn

from clipfh_lib.models import prompts

RANKS = (1, 5)
WHO = ["pid", "aspect"]
People = Sequence[tuple[int, str]]


def _who(people: People) -> pd.DataFrame:
    return pd.DataFrame(list(people), columns=WHO)


@torch.no_grad()
def nearest_words(encoder: nn.Module, tokens: Tensor, people: People) -> pd.DataFrame:
    """The word of the vocabulary that lies nearest to each learned token.

    By Euclidean distance, as Zhou et al. (CoOp, IJCV 2022, section 4.5) looked at theirs. A token
    need not mean what its nearest word does; where the distance is about the token's own length it
    is as far from all words.

    Args:
        encoder: the CLIP whose token table it is.
        tokens: (P, M, W).
        people: (P,) pid and aspect.

    Returns:
        Columns `pid, aspect, token` (from 1), `word, distance, length`.
    """
    table = prompts.text_tower(encoder).token_embedding.weight.float().cpu()
    table = table[: prompts.VOCABULARY - 2]  # without the start and the end token
    flat = tokens.detach().float().cpu().flatten(0, 1)
    nearest, rows = zip(
        *(torch.cdist(part, table).min(dim=1) for part in flat.split(256)), strict=True
    )
    spoken, rows = open_clip.tokenizer.SimpleTokenizer(), torch.cat(rows)
    who = _who(people).loc[lambda frame: frame.index.repeat(tokens.shape[1])]
    return who.reset_index(drop=True).assign(
        token=np.tile(np.arange(1, tokens.shape[1] + 1), len(people)),
        word=[spoken.decode([int(row)]).strip() for row in rows],
        distance=torch.cat(nearest).numpy(),
        length=flat.norm(dim=1).numpy(),
    )


def own_text(
    images: np.ndarray, texts: np.ndarray, targets: np.ndarray, people: People
) -> pd.DataFrame:
    """How often an image is nearest to its own person's text, among the texts of all people.

    Of people who trained: who did not has no text, so that this says nothing of new people.

    Args:
        images: (N, D), any norm.
        texts: (P, D) likewise.
        targets: (N,) row of `texts` that is the person's on each image.
        people: (P,) pid and aspect.

    Returns:
        A row for each aspect and, where there are several, one for `all`: `aspect, people, images,
        rank1, rank5`, fractions, and `chance`, the rank-1 of guessing.
    """
    scores = _unit(images) @ _unit(texts).T  # (N, P)
    own = scores[np.arange(len(targets)), targets]
    rank = (scores >= own[:, None]).sum(axis=1)  # of the own text; a tie counts as wrong
    aspects = np.array([aspect for _, aspect in people])
    groups = [(aspect, aspects[targets] == aspect) for aspect in pd.unique(aspects)]
    if len(groups) > 1:
        groups.append(("all", np.ones(len(targets), bool)))
    rows = []
    for aspect, mine in groups:
        row = {"aspect": aspect, "people": len(np.unique(targets[mine])), "images": mine.sum()}
        row |= {f"rank{k}": (rank[mine] <= k).mean() for k in RANKS}
        rows.append({**row, "chance": 1 / len(texts)})
    return pd.DataFrame(rows)


def similarities(texts: np.ndarray, people: People) -> pd.DataFrame:
    """Cosine of each two people's texts.

    Returns:
        Columns `pid, aspect, other_pid, other_aspect, value`; every pair in both orders.
    """
    value, who = _unit(texts) @ _unit(texts).T, _who(people)
    left = who.loc[who.index.repeat(len(who))].reset_index(drop=True)
    right = pd.concat([who] * len(who), ignore_index=True).add_prefix("other_")
    return pd.concat([left, right], axis=1).assign(value=value.ravel())


def layout(
    images: np.ndarray, texts: np.ndarray, targets: np.ndarray, people: People, seed: int = 0
) -> pd.DataFrame:
    """Texts and the mean image of each person in a plane, by t-SNE of their cosines.

    van der Maaten & Hinton, JMLR 2008. CLIP's texts lie in another part of the space than its
    images; the mean of each kind is taken off first, or the plane would show only that.

    Args:
        images: (N, D), any norm.
        texts: (P, D) likewise.
        targets: (N,) row of `texts` that is the person's on each image.
        people: (P,) pid and aspect.
        seed: of the layout.

    Returns:
        Columns `pid, aspect, kind` (`text`, `images`), `x`, `y`; none for fewer than three people.
    """
    unit = _unit(images)
    means = np.stack([unit[targets == row].mean(axis=0) for row in range(len(people))])
    kinds = {"text": _unit(texts), "images": means}
    if len(people) < 3:
        return pd.DataFrame(columns=[*WHO, "kind", "x", "y"])
    points = np.concatenate([_unit(part - part.mean(axis=0)) for part in kinds.values()])
    near = min(15, (len(points) - 1) / 3)
    how = {"metric": "cosine", "init": "pca", "perplexity": near, "random_state": seed}
    place = TSNE(**how).fit_transform(points.astype(np.float64))
    frames = [_who(people).assign(kind=kind) for kind in kinds]
    return pd.concat(frames, ignore_index=True).assign(x=place[:, 0], y=place[:, 1])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
