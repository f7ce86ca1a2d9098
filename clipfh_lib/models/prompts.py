"""Words to vectors: tokens of CLIP's own tokeniser, text embeddings."""

from collections.abc import Sequence

import open_clip
import torch
from torch import Tensor, nn

from clipfh_lib.files import InputError

VOCABULARY = 49408  # of CLIP's own tokeniser


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


@torch.inference_mode()
def embed(encoder: nn.Module, texts: Sequence[str], device: torch.device) -> Tensor:
    """(T, D) unit-length text embeddings, on the CPU."""
    coded = tokens(texts, encoder.context_length).to(device)
    return nn.functional.normalize(encoder.encode_text(coded).float(), dim=1).cpu()


def encode(encoder: nn.Module, coded: Tensor) -> Tensor:
    """(B, L) token ids -> (B, D) text embeddings of an open_clip CLIP, any norm.

    What `encode_text` gives, for less: the text transformer is causal, so what stands after the
    longest text changes nothing and is cut off. With captions of 30 tokens that halves a step.
    """
    end = coded.argmax(dim=1)  # the end token has the highest id
    length = int(end.max()) + 1
    cast = encoder.transformer.get_cast_dtype()
    hidden = encoder.token_embedding(coded[:, :length]).to(cast)
    hidden = hidden + encoder.positional_embedding[:length].to(cast)
    hidden = encoder.transformer(hidden, attn_mask=encoder.attn_mask[:length, :length])
    rows = torch.arange(len(coded), device=coded.device)
    return encoder.ln_final(hidden)[rows, end] @ encoder.text_projection
