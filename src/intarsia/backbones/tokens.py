"""Token masks and character offsets, whatever cleans and cuts the text.

Offsets always point into the text as the caller wrote it. Tokenisers that clean a text first
(open_clip's) give offsets into the cleaned one; :func:`align` leads back.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import torch

from intarsia.types import Span, TokenBatch

_ONE_AT_A_TIME = threading.Lock()  # a Hugging Face tokeniser that is being set up cannot be used


def align(text: str, cleaned: str) -> list[Span]:
    """For each character of ``cleaned`` the span of ``text`` that it comes from.

    Exact where cleaning only lower-cases and joins words by one space; other changes (HTML
    entities, mended encodings, dropped punctuation) are found by comparing the two texts.

    >>> align("A  Cat", "a cat")
    [(0, 1), (1, 3), (3, 4), (4, 5), (5, 6)]
    >>> align("x &lt; y", "x < y")[2]
    (2, 6)
    """
    lowered, spans = _simple_clean(text)
    target = cleaned.lower() if len(cleaned.lower()) == len(cleaned) else cleaned
    if lowered == target:
        return spans
    result: list[Span] = []
    blocks = SequenceMatcher(None, lowered, target, autojunk=False).get_opcodes()
    for _, start, end, clean_start, clean_end in blocks:
        if end - start == clean_end - clean_start:
            result += spans[start:end]
        elif clean_end > clean_start:
            whole = _hull(spans[start:end]) if end > start else _point_after(spans, start)
            result += [whole] * (clean_end - clean_start)
    return result


def _simple_clean(text: str) -> tuple[str, list[Span]]:
    """``" ".join(text.split()).lower()`` with the span of every character of it."""
    characters: list[str] = []
    spans: list[Span] = []
    previous_end = 0
    for word in re.finditer(r"\S+", text):
        if characters:
            characters.append(" ")
            spans.append((previous_end, word.start()))
        lowered = word.group().lower()
        characters.append(lowered)
        spans += _lowered_spans(word.group(), lowered, word.start())
        previous_end = word.end()
    return "".join(characters), spans


def _lowered_spans(word: str, lowered: str, start: int) -> list[Span]:
    if len(lowered) == len(word):
        return [(start + i, start + i + 1) for i in range(len(word))]
    return [(start + i, start + i + 1) for i, c in enumerate(word) for _ in c.lower()]


def _hull(spans: Sequence[Span]) -> Span:
    return spans[0][0], spans[-1][1]


def _point_after(spans: Sequence[Span], index: int) -> Span:
    position = spans[index - 1][1] if index else 0
    return position, position


def fast_tokens(
    tokenizer: Any,
    texts: Sequence[str],
    *,
    length: int,
    pad_to_length: bool,
    clean: Callable[[str], str] | None = None,
) -> TokenBatch:
    """Tokens of a ``tokenizers``-backed Hugging Face tokeniser.

    Args:
        length: longer texts are cut to this many tokens, special ones included.
        pad_to_length: pad to ``length`` rather than to the longest text of the batch.
        clean: what is done to each text beforehand.
    """
    cleaned = [clean(text) if clean else text for text in texts]
    with _ONE_AT_A_TIME:
        encoded = tokenizer(
            cleaned,
            padding="max_length" if pad_to_length else "longest",
            padding_side="right",
            truncation=True,
            max_length=length,
            return_attention_mask=True,
            return_special_tokens_mask=True,
            return_offsets_mapping=True,
        )
    names = ("input_ids", "attention_mask", "special_tokens_mask")
    ids, attended, special = (torch.from_numpy(np.array(encoded[name])) for name in names)
    attention = attended.bool()
    mask = attention & (special == 0)
    offsets = encoded["offset_mapping"]
    for row, text, clean_text in zip(offsets, texts, cleaned, strict=True):
        origin = None if clean_text == text else align(text, clean_text)
        row[:] = [_own_span(span, text, origin) for span in row]
    spans = torch.from_numpy(np.array(offsets)) * mask.unsqueeze(-1)
    cut = torch.tensor([bool(encoding.overflowing) for encoding in encoded.encodings])
    return TokenBatch(ids, attention, mask, spans, cut)


def _own_span(span: Sequence[int], text: str, origin: list[Span] | None) -> Span:
    """The span in the caller's text, without the space that SentencePiece puts before a word."""
    start, end = span
    if origin is not None and end > start:
        start, end = _hull(origin[start:end])
    while start < end and text[start].isspace():
        start += 1
    return start, end


def clip_tokens(
    tokenizer: Any, texts: Sequence[str], *, length: int, pad_to_length: bool
) -> TokenBatch:
    """Tokens of open_clip's ``SimpleTokenizer``: its own ids, with offsets."""
    whole = [_clip_pieces(tokenizer, text) for text in texts]
    pieces = [row[: length - 2] for row in whole]
    width = length if pad_to_length else max(len(row) for row in pieces) + 2
    ids = torch.zeros(len(texts), width, dtype=torch.long)
    attention, mask = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids).bool()
    offsets = torch.zeros(len(texts), width, 2, dtype=torch.long)
    for i, row in enumerate(pieces):
        end = len(row) + 1
        ids[i, 0], ids[i, end] = tokenizer.sot_token_id, tokenizer.eot_token_id
        attention[i, : end + 1] = True
        if row:
            ids[i, 1:end] = torch.tensor([piece for piece, _ in row])
            offsets[i, 1:end] = torch.tensor([span for _, span in row])
            mask[i, 1:end] = True
    cut = torch.tensor([len(row) > length - 2 for row in whole])
    return TokenBatch(ids, attention, mask, offsets, cut)


def _clip_pieces(tokenizer: Any, text: str) -> list[tuple[int, Span]]:
    """Ids and spans of a text's byte-pair pieces, without start and end of text."""
    cleaned = tokenizer.clean_fn(text)
    origin = align(text, cleaned)
    result = []
    for word in tokenizer.pat.finditer(cleaned):
        character = [i for i, c in enumerate(word.group()) for _ in c.encode()]
        at = 0
        encoded = "".join(tokenizer.byte_encoder[byte] for byte in word.group().encode())
        for piece in tokenizer.bpe(encoded).split(" "):
            inside = character[at : at + len(piece.removesuffix("</w>"))]
            at += len(inside)
            start, end = word.start() + inside[0], word.start() + inside[-1] + 1
            result.append((tokenizer.encoder[piece], _hull(origin[start:end])))
    return result
