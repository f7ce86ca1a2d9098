"""Words to vectors: tokens of CLIP's own tokeniser, text embeddings, prompts that are learned."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipfh_lib.data import captions
from clipfh_lib.files import InputError
from clipfh_lib.learning import LearnedPrompts
from clipfh_lib.models import backbones

VOCABULARY = 49408  # of CLIP's own tokeniser
SMALL = 0.02  # standard deviation of tokens at the start, as in CLIP-ReID's program


def reads_text(encoder: nn.Module) -> bool:
    """Whether an encoder has a text tower for the tokens of CLIP's own tokeniser."""
    return hasattr(encoder, "encode_text") and getattr(encoder, "vocab_size", 0) == VOCABULARY


def tokens(texts: Sequence[str], length: int = 77) -> Tensor:
    """(T, length) int64 token ids: start, words, end, zeros.

    Raises:
        InputError: a text that does not fit; CLIP would silently cut it.
    """
    coded = open_clip.tokenize(list(texts), context_length=length + 1)
    for text, row in zip(texts, coded, strict=True):
        if row[-1] != 0:
            raise InputError(f"longer than CLIP's {length} tokens: {text[:60]!r}…; shorten it")
    return coded[:, :length]


def lengths(texts: Sequence[str]) -> list[int]:
    """CLIP tokens of each text, start and end counted, however many they are."""
    return [len(open_clip.tokenizer._tokenizer.encode(text)) + 2 for text in texts]


@torch.inference_mode()
def embed(encoder: nn.Module, texts: Sequence[str], device: torch.device) -> Tensor:
    """(T, D) unit-length text embeddings, on the CPU."""
    coded = tokens(texts, encoder.context_length).to(device)
    return F.normalize(encoder.encode_text(coded).float(), dim=1).cpu()


def encode(encoder: nn.Module, coded: Tensor) -> Tensor:
    """(B, L) token ids -> (B, D) text embeddings of an open_clip CLIP, any norm.

    What `encode_text` gives, for less: see `encode_embedded`. With captions of 30 tokens that
    halves a step.
    """
    end = coded.argmax(dim=1)  # the end token has the highest id
    length = int(end.max()) + 1
    return encode_embedded(encoder, text_tower(encoder).token_embedding(coded[:, :length]), end)


def encode_embedded(
    encoder: nn.Module, embedded: Tensor, end: Tensor, before: Sequence[Tensor] = ()
) -> Tensor:
    """Embeddings of tokens, also of such that are no words -> text embeddings, any norm.

    For a tokeniser's tokens bit for bit what `encode_text` gives when the longest text fills the
    sequence. Otherwise to rounding: the text transformer is causal, so what stands after the
    longest text changes nothing and is cut off.

    Args:
        encoder: an open_clip CLIP.
        embedded: (B, L, W), as its `token_embedding` gives them, without positions.
        end: (B,) place of each text's end token, where CLIP reads its feature.
        before: for each block (B, S, W), see `opening`: `embedded` then begins at the S-th token.

    Returns:
        (B, D).
    """
    tower, length = text_tower(encoder), int(end.max()) + 1
    first = before[0].shape[1] if before else 0
    cast = tower.transformer.get_cast_dtype()
    hidden = embedded[:, : length - first].to(cast)
    hidden = hidden + tower.positional_embedding[first:length].to(cast)
    mask = tower.attn_mask[first:length, :length]
    if not before:
        hidden = tower.transformer(hidden, attn_mask=mask)
    for block, known in zip(tower.transformer.resblocks if before else (), before, strict=True):
        here = block.ln_1(hidden)
        there = torch.cat([known, here], dim=1)
        hidden = hidden + block.ls_1(block.attention(here, there, there, mask))
        hidden = hidden + block.ls_2(block.mlp(block.ln_2(hidden)))
    rows = torch.arange(len(end), device=end.device)
    return tower.ln_final(hidden)[rows, end - first] @ tower.text_projection


@torch.no_grad()
def opening(encoder: nn.Module, ids: Tensor) -> list[Tensor]:
    """What attention reads of the words that texts begin with, for `encode_embedded`.

    The text transformer is causal: nothing that follows changes it, so texts with the same first
    words share it.

    Args:
        ids: (R, S) token ids, the start token first.

    Returns:
        For each block (R, S, W), without gradient.
    """
    tower, length = text_tower(encoder), ids.shape[1]
    cast = tower.transformer.get_cast_dtype()
    hidden = tower.token_embedding(ids).to(cast) + tower.positional_embedding[:length].to(cast)
    found = []
    for block in tower.transformer.resblocks:
        found.append(block.ln_1(hidden))
        hidden = block(hidden, attn_mask=tower.attn_mask[:length, :length])
    return found


def text_tower(encoder: nn.Module) -> nn.Module:
    """What holds the text transformer: the CLIP itself, in some of open_clip its part `text`."""
    return getattr(encoder, "text", encoder)


# --- learned ------------------------------------------------------------------------------------


class PersonPrompts(nn.Module):
    """Learnable tokens of each person between fixed words, and the text features they give.

    Li et al., CLIP-ReID, AAAI 2023, section 3.2 (arXiv:2211.13977): "A photo of a [X]1 ... [X]M
    hand." with tokens of each person's own. The text encoder is not part of the module: it reads
    the tokens and stays as it is. A person whose hand sides are trained as classes has tokens for
    each of them.

    Args:
        encoder: a CLIP that `reads_text`.
        how: number of tokens, their start, and templates.
        aspects: (P,) of each person, for {aspect} and {side}.
        seed: of a random start.

    Raises:
        InputError: the backbone reads no text, a template does not fit into its sequences, or names
            an aspect that is not known.
    """

    def __init__(
        self, encoder: nn.Module, how: LearnedPrompts, aspects: Sequence[str], seed: int = 0
    ):
        super().__init__()
        if not reads_text(encoder):
            raise InputError("model.name: this backbone reads no text: prompts need a CLIP")
        self.how, self.aspects = how, list(aspects)
        table = text_tower(encoder).token_embedding.weight
        shape = (len(self.aspects), how.tokens, table.shape[1])
        if how.start == "X":
            start = table[_words("X")[0]].detach().cpu().float().expand(shape).clone()
        else:
            draw = torch.Generator().manual_seed(seed)
            start = torch.randn(shape, generator=draw) * SMALL
        self.tokens = nn.Parameter(start)
        kinds = sorted(set(self.aspects))
        rows = [_layout(t, how.tokens, aspect, encoder) for t in how.templates for aspect in kinds]
        shape = (len(how.templates), len(kinds))
        for name, values in zip(("ids", "begin", "end"), zip(*rows, strict=True), strict=True):
            stacked = torch.stack(values).unflatten(0, shape)  # template, aspect
            self.register_buffer(name, stacked, persistent=False)
        self.shared = int(
            self.begin.min()
        )  # tokens before the first learnable one, the same for all
        kind = torch.tensor([kinds.index(aspect) for aspect in self.aspects])
        self.register_buffer("kind", kind, persistent=False)

    def forward(self, encoder: nn.Module, people: Tensor) -> Tensor:
        """Text features of some people, each encoded once for every template.

        Args:
            encoder: the CLIP; on the device of the tokens.
            people: (K,) rows of the tokens.

        Returns:
            (K, D), any norm; of several templates the mean of the unit vectors, at unit length.
        """
        count, kinds = self.ids.shape[:2]
        turns = torch.arange(count, device=people.device)[:, None]
        layout = (turns * kinds + self.kind[people]).flatten()  # (T * K,)
        ids, begin, end = (part.flatten(0, 1) for part in (self.ids, self.begin, self.end))
        before = [part[layout] for part in opening(encoder, ids[:, : self.shared])]
        embedded = text_tower(encoder).token_embedding(ids[layout, self.shared :])  # (T * K, L, W)
        own = self.tokens[people].repeat(count, 1, 1)
        rows = torch.arange(len(layout), device=people.device)[:, None]
        places = begin[layout, None] - self.shared + torch.arange(own.shape[1], device=rows.device)
        embedded = embedded.index_put((rows, places), own.to(embedded.dtype))
        found = encode_embedded(encoder, embedded, end[layout], before)
        found = found.unflatten(0, (count, len(people)))
        if count == 1:
            return found[0]
        return F.normalize(F.normalize(found.float(), dim=2).mean(dim=0), dim=1)

    @torch.no_grad()
    def features(self, encoder: nn.Module, batch: int = 64) -> Tensor:
        """(P, D) text features of all people, for good."""
        people = torch.arange(len(self.tokens), device=self.tokens.device)
        return torch.cat([self(encoder, part) for part in people.split(batch)]).float()


def _words(text: str) -> list[int]:
    """Token ids of a text, without start and end."""
    row = open_clip.tokenize([text], context_length=len(text.encode()) + 2)[0]
    return row[1 : int(row.argmax())].tolist()


def _layout(template: str, count: int, aspect: str, encoder: nn.Module) -> tuple[Tensor, ...]:
    """Token ids of a template (L,), the place of its first learnable token, that of its end."""
    named = "{aspect}" in template or "{side}" in template
    if named and aspect not in {known for known, _ in captions.kinds()}:
        raise InputError(
            f"prompts.templates: {template!r} names the aspect, which is {aspect!r} here: "
            "leave {aspect} and {side} out"
        )
    fill = captions.words(aspect, 0) if named else {}
    before, after = (_words(part.format(**fill)) for part in template.split("{tokens}"))
    start, end = (int(token) for token in open_clip.tokenize([""])[0, :2])
    held = _words("X") * count  # whose embeddings the tokens stand in for
    row = [start, *before, *held, *after, end]
    length = encoder.context_length
    if len(row) > length:
        raise InputError(
            f"prompts.templates: {template!r} with {count} learned tokens is {len(row)} long, "
            f"{length} fit; shorten it or lower prompts.tokens"
        )
    filled = torch.tensor(row + [0] * (length - len(row)))
    return filled, torch.tensor(1 + len(before)), torch.tensor(len(row) - 1)


class Learned(NamedTuple):
    """Prompts that were learned, as `save` keeps them.

    Attributes:
        tokens: (P, M, W).
        features: (P, D), the text features that they give, any norm.
        people: (P,) of each row `pid` and `aspect`.
        how: templates and the rest.
        about: what else is said of them: `key` of their fit, `split_sha256`, `weights_sha256`.
        sha256: of all that; filled by `save` and `read`.
    """

    tokens: Tensor
    features: Tensor
    people: list[tuple[int, str]]
    how: LearnedPrompts
    about: dict[str, str]
    sha256: str = ""

    def module(self, encoder: nn.Module) -> PersonPrompts:
        """The prompts once more, to go on with."""
        found = PersonPrompts(encoder, self.how, [aspect for _, aspect in self.people])
        found.tokens.data = self.tokens.clone()
        return found


def save(learned: Learned, path: Path) -> Learned:
    """Write prompts as a small safetensors file, atomically, with a hash of it."""
    state = {"tokens": learned.tokens, "features": learned.features}
    metadata = dict(learned.about)
    metadata["people"] = json.dumps([[int(pid), str(aspect)] for pid, aspect in learned.people])
    metadata["prompts"] = learned.how.model_dump_json()
    return learned._replace(sha256=backbones.write_sealed(state, metadata, path))


def read(path: Path) -> Learned:
    """What `save` wrote.

    Raises:
        InputError: no such file, or one that is not, to the bit, what was written.
    """
    try:
        state, metadata = backbones.read_sealed(path)
        people = [(pid, aspect) for pid, aspect in json.loads(metadata.pop("people"))]
        how = LearnedPrompts.model_validate_json(metadata.pop("prompts"))
        sha256 = metadata.pop("sha256")
        return Learned(state["tokens"], state["features"], people, how, metadata, sha256)
    except Exception as error:  # a damaged file can make a reader raise nearly anything
        reason = next(iter(str(error).splitlines()), repr(error))
        raise InputError(f"{path} holds no learned prompts ({reason}); make them again") from None
