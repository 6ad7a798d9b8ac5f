"""The checker here knows only what a reader of the record knows: words, boxes and labels."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import numpy as np
import pytest

from intarsia.data.scene_graph import COLOURS, SHAPES
from intarsia.data.scenes import HELD_OUT, SPLITS, SceneSet, scenes, vocabulary
from intarsia.errors import ConfigError
from intarsia.types import Record

KINDS = {
    "attribute_swap",
    "role_swap",
    "place_swap",
    "replace_subject",
    "replace_relation",
    "replace_object",
    "replace_attribute",
}
ADJECTIVES = "|".join(["small", "large", "solid", "striped", *COLOURS])
NAME = re.compile(rf"\b(?:an?) ((?:(?:{ADJECTIVES}) )+(?:{'|'.join(SHAPES)}))\b")
RELATIONS = {
    "left": r"(?:(?:to|on) the )?left of",
    "right": r"(?:(?:to|on) the )?right of",
    "above": r"above(?! it)|higher up than",
    "below": r"(?:below|beneath|under)(?! it)|lower down than",
    "inside": r"(?:inside|within)(?! it)|enclosed by",
    "overlapping": r"(?:partly )?overlapping(?! it)",
}
ITS = {
    "left": r"(?:to|on) its left",
    "right": r"(?:to|on) its right",
    "above": r"above it",
    "below": r"(?:below|underneath|beneath) it",
    "inside": r"(?:inside|within) it",
    "overlapping": r"overlapping it",
}
PLACES = {  # allowed thirds of the width, of the height
    r"(?:in|at) the (?:top|upper) left(?: corner)?": ("0", "0"),
    r"(?:in|at) the (?:top|upper) right(?: corner)?": ("2", "0"),
    r"(?:in|at) the (?:bottom|lower) left(?: corner)?": ("0", "2"),
    r"(?:in|at) the (?:bottom|lower) right(?: corner)?": ("2", "2"),
    r"at the top in the middle|at the top centre": ("1", "0"),
    r"at the bottom in the middle|at the bottom centre": ("1", "2"),
    r"(?:halfway down|in the middle of) the left side": ("0", "1"),
    r"(?:halfway down|in the middle of) the right side": ("2", "1"),
    r"in the (?:centre|middle)(?: of the picture)?": ("1", "1"),
    r"on the left(?: side(?: of the picture)?)?": ("0", "012"),
    r"on the right(?: side(?: of the picture)?)?": ("2", "012"),
    r"at the top(?: of the picture)?|towards the top": ("012", "0"),
    r"at the bottom(?: of the picture)?|towards the bottom": ("012", "2"),
}


@cache
def some(split: str, num: int) -> list[Record]:
    return list(scenes(split, num))


def everything(num: int = 300) -> list[Record]:
    return some("train", num) + some("compositional", num)


Claim = tuple[str, tuple[str, str] | None, list[int]]  # relation or "at", place, noun phrases


def parse(text: str) -> tuple[list[str], list[Claim]]:
    """The noun phrases of a sentence and what it claims of them."""
    names = NAME.findall(text)
    count = iter(range(len(names)))
    text = NAME.sub(lambda _: f"N{next(count)}", text)
    for style, table in (("rel", RELATIONS), ("its", ITS)):
        for name, words in table.items():
            text = re.sub(rf"\b(?:{words})(?=[ ,]|$)", f"<{style} {name}>", text)
    for where, (words, _) in enumerate(PLACES.items()):
        text = re.sub(rf"\b(?:{words})(?=[ ,]|$)", f"<at {where}>", text)
    claims: list[Claim] = []
    for match in re.finditer(r"<(rel|its|at) (\w+)>", text):
        style, name = match.groups()
        before = [int(n) for n in re.findall(r"N(\d)", text[: match.start()])]
        after = [int(n) for n in re.findall(r"N(\d)", text[match.end() :])]
        fronted = re.match(r" (?:N\d )?there is", text[match.end() :])
        if style == "at":
            where = list(PLACES.values())[int(name)]
            claims.append(("at", where, [after[0] if fronted else before[-1]]))
        elif style == "its":
            claims.append((name, None, [before[-1], before[-2]]))
        elif fronted:
            claims.append((name, None, [after[1], after[0]]))
        else:
            shared = text[: match.start()].endswith(" and ")
            claims.append((name, None, [before[0] if shared else before[-1], after[0]]))
    rest = re.sub(r"<[^>]*>|N\d", "", text)
    assert set(re.findall(r"\w+", rest)) <= set(
        "a picture of there is can be seen with and also".split()
    )
    return names, claims


def find(name: str, record: Record) -> list[int]:
    words = set(name.split())
    return [
        i
        for i, region in enumerate(record.regions)
        if words - {"solid"} <= set(region.label.split())
        and not ("solid" in words and "striped" in region.label)
    ]


def centre(record: Record, index: int) -> tuple[float, float]:
    x0, y0, x1, y1 = record.regions[index].box
    return (x0 + x1) / 2, (y0 + y1) / 2


def relation_holds(record: Record, name: str, a: int, b: int, margin: float) -> bool:
    ax0, ay0, ax1, ay1 = record.regions[a].box
    bx0, by0, bx1, by1 = record.regions[b].box
    within = bx0 <= ax0 and by0 <= ay0 and ax1 <= bx1 and ay1 <= by1
    meet = ax0 <= bx1 and bx0 <= ax1 and ay0 <= by1 and by0 <= ay1
    (ax, ay), (bx, by) = centre(record, a), centre(record, b)
    dx, dy = bx - ax, by - ay
    if name == "inside":
        return within
    if name == "overlapping":
        return meet and not within
    if within or (ax0 <= bx0 and ay0 <= by0 and bx1 <= ax1 and by1 <= ay1):
        return False
    along, across = {
        "left": (dx, dy),
        "right": (-dx, dy),
        "above": (dy, dx),
        "below": (-dy, dx),
    }[name]
    return along > margin * 112 and (not margin or along >= 1.5 * abs(across))


def place_holds(record: Record, where: tuple[str, str], index: int, margin: float) -> bool:
    """``margin`` shrinks the place; a negative one lets it grow."""
    for thirds, position in zip(where, centre(record, index), strict=True):
        if thirds != "012":
            third = int(thirds)
            low = third / 3 + margin if third > 0 else 0.0
            high = (third + 1) / 3 - margin if third < 2 else 1.0
            if not low <= position / 112 <= high:
                return False
    return True


def is_true(text: str, record: Record, *, margin: float, place_margin: float) -> bool:
    names, claims = parse(text)
    found = [find(name, record) for name in names]
    if any(len(matches) != 1 for matches in found):
        return False
    for name, where, mentions in claims:
        things = [found[m][0] for m in mentions]
        if where is not None:
            holds = place_holds(record, where, things[0], place_margin)
        else:
            holds = relation_holds(record, name, things[0], things[1], margin)
        if not holds:
            return False
    return True


def test_every_caption_is_true_with_a_margin() -> None:
    for record in everything():
        for caption in record.captions:
            assert is_true(caption, record, margin=0.1199, place_margin=0.0499), (
                record.id,
                caption,
                record.regions,
            )


def test_every_negative_is_false_even_when_read_generously() -> None:
    for record in everything():
        for negative in record.negatives:
            assert not is_true(negative.text, record, margin=0.0, place_margin=-0.049), (
                record.id,
                negative,
                record.regions,
            )


def test_captions_claim_every_relation_and_place() -> None:
    claims = [claim for r in everything() for c in r.captions for claim in parse(c)[1]]
    assert {name for name, _, _ in claims} == {"at", *RELATIONS}
    assert {where for _, where, _ in claims if where} == set(PLACES.values())


def test_captions_are_four_different_short_plain_sentences() -> None:
    for record in everything():
        assert len(set(record.captions)) == 4
        for text in (*record.captions, *(n.text for n in record.negatives)):
            assert len(text.split()) <= 28
            assert text == text.lower() and not text.endswith(".") and "  " not in text
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text), text


def test_half_of_the_captions_name_an_absolute_place() -> None:
    for record in everything():
        placed = [any(where for _, where, _ in parse(c)[1]) for c in record.captions]
        assert sum(placed) == 2


@pytest.mark.parametrize(("captions", "placed"), [("places", True), ("plain", False)])
def test_captions_may_all_name_places_or_none(captions: str, placed: bool) -> None:
    both = zip(SceneSet("train", 30), SceneSet("train", 30, captions=captions), strict=True)
    for whole, record in both:
        assert len(record.captions) == 2 and set(record.captions) < set(whole.captions)
        assert all(any(w for _, w, _ in parse(c)[1]) is placed for c in record.captions)
        assert np.array_equal(record.image, whole.image) and record.regions == whole.regions
        for phrase in record.phrases:
            assert record.phrase_text(phrase) in record.captions[phrase.caption]
        assert {n.caption for n in record.negatives} <= {0, 1}
    with pytest.raises(ConfigError, match="unknown captions of scenes 'few': choose from all"):
        SceneSet(captions="few")


def test_some_captions_hold_three_objects() -> None:
    sizes = Counter(len(parse(c)[0]) for r in everything() for c in r.captions)
    assert min(sizes[1], sizes[2], sizes[3], sizes[4]) > 10


def test_phrases_are_the_noun_phrases_and_point_at_their_regions() -> None:
    for record in everything():
        for index, caption in enumerate(record.captions):
            phrases = [p for p in record.phrases if p.caption == index]
            assert [p.span for p in phrases] == [m.span(1) for m in NAME.finditer(caption)]
            for phrase in phrases:
                assert [*phrase.regions] == find(record.phrase_text(phrase), record)


def bare(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+", text) if word not in ("a", "an")]


def test_negatives_change_only_what_their_kind_says() -> None:
    for record in everything():
        kinds = [negative.kind for negative in record.negatives]
        assert len(kinds) == len(set(kinds))
        for negative in record.negatives:
            true, false = record.captions[negative.caption], negative.text
            (names, claims), (wrong_names, wrong_claims) = parse(true), parse(false)
            if negative.kind.endswith("_swap"):
                assert Counter(bare(true)) == Counter(bare(false)) and bare(true) != bare(false)
            if negative.kind == "role_swap":
                assert wrong_names == names[::-1] and wrong_claims == claims
            elif negative.kind == "place_swap":
                assert wrong_names == names
                assert [c[1] for c in wrong_claims] == [c[1] for c in claims[::-1]]
            elif negative.kind == "replace_relation":
                assert wrong_names == names and wrong_claims[0][0] != claims[0][0]
                assert wrong_claims[0][2] == claims[0][2]
            elif negative.kind != "attribute_swap":
                assert wrong_claims == claims
                changed = [(a, b) for a, b in zip(bare(true), bare(false), strict=True) if a != b]
                valid = COLOURS if negative.kind == "replace_attribute" else SHAPES
                assert len(changed) == 1 and {*changed[0]} <= {*valid}
            if negative.kind in ("role_swap", "replace_relation"):
                assert not any(where for _, where, _ in claims)


def test_subject_and_object_are_told_apart() -> None:
    for record in everything(100):
        for negative in record.negatives:
            if negative.kind in ("replace_subject", "replace_object"):
                names, claims = parse(record.captions[negative.caption])
                wrong, _ = parse(negative.text)
                changed = [i for i, name in enumerate(names) if name != wrong[i]]
                assert changed == [claims[0][2][negative.kind == "replace_object"]]


def test_each_kind_of_negative_is_common() -> None:
    records = some("test", 200)
    counts = Counter(negative.kind for record in records for negative in record.negatives)
    assert set(counts) == KINDS
    assert min(counts.values()) > 0.4 * len(records)


def test_record_is_a_function_of_seed_split_and_index() -> None:
    whole = list(scenes("val", 12, seed=3))
    for index in (7, 0, 11, -1):
        record = SceneSet("val", 500 if index >= 0 else 12, seed=3)[index]
        np.testing.assert_array_equal(record.image, whole[index].image)
        assert record.captions == whole[index].captions
        assert record.regions == whole[index].regions
        assert record.phrases == whole[index].phrases
        assert record.negatives == whole[index].negatives
    others = [scenes("val", 12, seed=4), scenes("test", 12, seed=3)]
    for other in others:
        assert not any(a.captions == b.captions for a, b in zip(whole, other, strict=True))


def test_set_has_a_length_and_ends() -> None:
    assert {split: len(SceneSet(split)) for split in SPLITS} == SPLITS
    assert len(list(SceneSet("test", 3).records())) == 3
    with pytest.raises(IndexError):
        SceneSet("test", 3)[3]


def test_unknown_split_names_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match="'dev'.*compositional, test, train, val"):
        SceneSet("dev")


def test_pictures_hold_two_to_five_different_objects() -> None:
    for record in everything():
        assert record.image.shape == (112, 112, 3) and record.image.dtype == np.uint8
        looks = [tuple(r.label.replace("striped ", "").split()[1:]) for r in record.regions]
        assert 2 <= len(looks) <= 5 and len(set(looks)) == len(looks)


def test_held_out_pairs_are_shown_and_named_by_compositional_only() -> None:
    assert len(set(HELD_OUT)) == 6
    pattern = re.compile("|".join(rf"\b{c} (?:striped |solid )?{s}\b" for c, s in HELD_OUT))
    for split in ("train", "val", "test"):
        for record in some(split, 150):
            texts = [*record.captions, *(n.text for n in record.negatives)]
            assert not any(map(pattern.search, texts))
            assert not any(pattern.search(region.label) for region in record.regions)
    for record in some("compositional", 150):
        assert any(pattern.search(region.label) for region in record.regions)
        assert all(map(pattern.search, record.captions))


def test_held_out_colours_and_shapes_are_each_seen_in_training() -> None:
    words = {
        word for record in some("train", 100) for r in record.regions for word in r.label.split()
    }
    assert {word for pair in HELD_OUT for word in pair} <= words


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def test_boxes_are_tight_and_nothing_lies_outside_them() -> None:
    checked = 0
    for record in everything():
        image = np.asarray(record.image)
        painted = (image != image[0, 0]).any(-1)
        if painted[0].any():
            continue  # a noisy ground
        covered = np.zeros_like(painted)
        for region in record.regions:
            x0, y0, x1, y1 = map(int, region.box)
            covered[y0:y1, x0:x1] = True
            alone = not any(
                relation_holds(record, "overlapping", i, j, 0)
                for i, one in enumerate(record.regions)
                if one is region
                for j in range(len(record.regions))
                if i != j
            )
            if alone:
                inside = painted[y0:y1, x0:x1]
                assert box_of(inside) == (0, 0, x1 - x0, y1 - y0), (record.id, region)
                checked += 1
        assert not (painted & ~covered).any()
    assert checked > 300


def test_boxes_meet_only_where_objects_touch() -> None:
    kinds: Counter[str] = Counter()
    for record in everything():
        meeting = []
        for a in range(len(record.regions)):
            for b in range(a):
                for kind, pair in (("inside", (a, b)), ("inside", (b, a)), ("overlapping", (a, b))):
                    if relation_holds(record, kind, *pair, 0):
                        meeting.append(kind)
        assert len(meeting) <= 1
        kinds.update(meeting)
    assert min(kinds["inside"], kinds["overlapping"]) > 30


def test_vocabulary_is_exactly_what_is_said() -> None:
    texts = [t for r in everything() for t in (*r.captions, *(n.text for n in r.negatives))]
    said = {token for text in texts for token in re.findall(r"\w+|[^\w\s]", text)}
    assert list(vocabulary()) == sorted(said)
