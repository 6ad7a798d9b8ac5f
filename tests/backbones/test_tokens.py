import open_clip
import pytest
import torch

from intarsia.backbones.tokens import align, clip_tokens

TOKENIZER = open_clip.get_tokenizer("ViT-B-32")
HARD = [
    "A small RED circle, isn't it?",
    "two  dogs\trun  ",
    "a 🐶 and a 👩‍👩‍👧",
    "日本の猫 cat",
    "x &lt; y &amp;amp; z",
    "‘quoted’ café naïve ＡＢＣ",
    "schÃ¶n broken encoding",
    "İstanbul ΣΊΣΥΦΟΣ ﬁne",
    "",
    "word " * 100,
]


def spans(text, tokens, row=0):
    pairs = zip(tokens.offsets[row].tolist(), tokens.mask[row].tolist(), strict=True)
    return [text[start:end] for (start, end), real in pairs if real]


def test_ids_are_open_clips_own():
    tokens = clip_tokens(TOKENIZER, HARD, length=77, pad_to_length=True)
    assert torch.equal(tokens.ids, TOKENIZER(HARD))


def test_masks_leave_out_start_end_and_padding():
    tokens = clip_tokens(TOKENIZER, ["a red dog", "a dog"], length=77, pad_to_length=False)
    assert tokens.ids.shape == (2, 5)
    assert tokens.mask.tolist() == [
        [False, True, True, True, False],
        [False, True, True, False, False],
    ]
    assert tokens.attention.tolist() == [[True] * 5, [True] * 4 + [False]]
    assert tokens.offsets[~tokens.mask].sum() == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A small  RED circle", ["A", "small", "RED", "circle"]),
        ("it isn't", ["it", "isn", "'t"]),
        ("a 🐶 dog", ["a", "🐶", "dog"]),
        ("日 cat", ["日", "cat"]),
        ("‘big’  dogs", ["‘", "big", "’", "dogs"]),
        ("x &lt; y", ["x", "&lt;", "y"]),
        ("  dog", ["dog"]),
    ],
)
def test_offsets_point_into_the_text_as_written(text, expected):
    tokens = clip_tokens(TOKENIZER, [text], length=77, pad_to_length=True)
    assert spans(text, tokens) == expected


@pytest.mark.parametrize("text", HARD)
def test_offsets_stay_inside_and_in_order(text):
    tokens = clip_tokens(TOKENIZER, [text], length=77, pad_to_length=False)
    found = tokens.offsets[0][tokens.mask[0]]
    assert (found[:, 0] <= found[:, 1]).all() and (found[1:, 0] >= found[:-1, 0]).all()
    assert not len(found) or int(found.max()) <= len(text)


@pytest.mark.parametrize("text", HARD)
def test_align_gives_one_span_a_character(text):
    for clean in ("lower", "canonicalize", "whitespace"):
        cleaned = open_clip.tokenizer.get_clean_fn(clean)(text)
        assert len(align(text, cleaned)) == len(cleaned)


def test_align_through_dropped_punctuation():
    text, cleaned = "A dog, (red) runs!", "a dog red runs"
    found = align(text, cleaned)
    at = cleaned.index("red")
    assert text[found[at][0] : found[at + 2][1]] == "red"
