"""PromptSG's parts: an image's own word, a sentence around it, and patches read by the sentence.

Yang et al., A Pedestrian is Worth One Prompt: Towards Language Guidance Person Re-Identification,
CVPR 2024.
"""

from collections.abc import Sequence

import pandas as pd
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from clipfh_lib.data import captions
from clipfh_lib.models import prompts

ASPECTS = {aspect for aspect, _ in captions.kinds()}
SPELLED: dict[int, str] = SimpleTokenizer().decoder  # of each token of the vocabulary


class Inversion(nn.Module):
    """From an image's feature to a word of its own, s*, in the space of the token embeddings.

    The paper's inversion network: three linear layers, 512 wide, with a batch norm last. That norm
    begins with the size of the table's words: a word of size 1 would be some fifty times as long as
    CLIP's, and a frozen text encoder has never read one.

    Args:
        width: of the image features, D.
        out: of the token embeddings, W.
        hidden: of the two inner layers.
        size: standard deviation that the words have at the start.
    """

    def __init__(self, width: int, out: int, hidden: int = 512, size: float = 1.0):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, out),
            nn.BatchNorm1d(out),
        )
        nn.init.constant_(self.layers[-1].weight, size)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) -> (B, W)."""
        return self.layers(features)


class CrossBlock(nn.Module):
    """A transformer block whose queries are one sequence, and keys and values another.

    Norms come before attention and MLP, and a sum after the MLP, as in CLIP's own blocks. What is
    read is not added to the query: sentences that differ in one word are nearly the same for all
    images (cosine 0.99), and in the sum they would be most of the feature.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.norm_query, self.norm_keys = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, queries: Tensor, others: Tensor) -> Tensor:
        """(B, Q, D) and (B, N, D) -> (B, Q, D)."""
        keys = self.norm_keys(others)
        read, _ = self.attention(self.norm_query(queries), keys, keys, need_weights=False)
        return read + self.mlp(self.norm(read))


class Interaction(nn.Module):
    """Patches read by a text: the paper's multimodal interaction module.

    Cross-attention whose query is the text and whose keys and values are all patches, then
    transformer blocks. A query of one token alone would find one key in those blocks, itself, and
    the softmax over one key is 1 whatever it says; so they see what was read and the patches
    together, and what was read is taken out at the end.

    Args:
        width: of texts and patches, D; heads are 64 wide, as CLIP's.
        cross_layers: blocks with the text as query.
        self_layers: blocks after them; the paper finds 2 better than 1 and 0.
        dropout: in attention and MLPs, 0..1.
    """

    def __init__(
        self, width: int, cross_layers: int = 1, self_layers: int = 2, dropout: float = 0.0
    ):
        super().__init__()
        heads = next(n for n in range(max(1, width // 64), 0, -1) if width % n == 0)
        self.cross = nn.ModuleList(CrossBlock(width, heads, dropout) for _ in range(cross_layers))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(self_layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, texts: Tensor, patches: Tensor) -> Tensor:
        """(B, D) and (B, N, D) -> (B, D), the guided feature."""
        read = texts[:, None]
        for block in self.cross:
            read = block(read, patches)
        both = torch.cat([read, patches], dim=1)
        for block in self.blocks:
            both = block(both)
        return self.norm(both[:, 0])


# --- the sentence -------------------------------------------------------------------------------


def sentence(template: str, aspects: Sequence[str]) -> str:
    """A template with {aspect} and {side} filled in for a whole data set; {word} stays.

    Of several aspects each word is said once, with "or" between; where none is known (HD, one's own
    folders) nothing is said. One sentence for all images: at test time nobody has to be told, or to
    know, which side of the hand a photograph shows.
    """
    known = [captions.words(aspect, 0) for aspect in aspects if aspect in ASPECTS]
    said = {name: " or ".join(dict.fromkeys(w[name] for w in known)) for name in ("aspect", "side")}
    return " ".join(template.format(word="{word}", **said).split())


def slot(said: str, length: int) -> tuple[Tensor, int]:
    """Token ids of a sentence, (L,) up to and with its end, and the place of its {word}.

    The word is one token, whatever stands beside it; an x holds its place.

    Args:
        length: of the longest sequence that the text encoder reads.

    Raises:
        InputError: the sentence is too long.
    """
    prompts.tokens([said.format(word="x")], length)
    before, after = (prompts.tokens([part], length)[0] for part in said.split("{word}"))
    (held, end), place = prompts.tokens(["x"])[0, 1:3], int(before.argmax())
    row = torch.cat([before[:place], held[None], after[1 : int(after.argmax())], end[None]])
    return row, place


def composed(encoder: nn.Module, coded: Tensor, place: int, words: Tensor) -> Tensor:
    """Text features of one sentence with another word in it for each image.

    The words stand in the input of the text encoder, which reads them as it reads its own; the
    gradient comes back to them through it, frozen or not.

    Args:
        encoder: of `backbones.load`, with a text encoder.
        coded: (L,) token ids of the sentence.
        place: of the word in it.
        words: (B, W) embeddings.

    Returns:
        (B, D), any norm.
    """
    table = prompts.text_tower(encoder).token_embedding(coded).expand(len(words), -1, -1)
    own = words[:, None].to(table.dtype)
    embedded = torch.cat([table[:, :place], own, table[:, place + 1 :]], dim=1)
    end = torch.full((len(words),), len(coded) - 1, device=words.device)
    return prompts.encode_embedded(encoder, embedded, end)


@torch.no_grad()
def nearest_words(encoder: nn.Module, words: Tensor, count: int = 5) -> pd.DataFrame:
    """The whole words of the vocabulary whose embeddings point most nearly where some others do.

    Args:
        words: (N, W) embeddings, any norm.

    Returns:
        N rows; for n from 1 to `count` the columns `word_n` and `cosine_n`.
    """
    known = {n: w.removesuffix("</w>") for n, w in SPELLED.items() if w.endswith("</w>")}
    rows = [number for number, word in known.items() if word.isalpha() and len(word) > 1]
    table = prompts.text_tower(encoder).token_embedding.weight[rows].cpu()
    cosine = F.normalize(words.float().cpu(), dim=1) @ F.normalize(table.float(), dim=1).T
    best = cosine.topk(count, dim=1)
    found = {}
    for n in range(count):
        found[f"word_{n + 1}"] = [known[rows[place]] for place in best.indices[:, n].tolist()]
        found[f"cosine_{n + 1}"] = best.values[:, n].tolist()
    return pd.DataFrame(found)
