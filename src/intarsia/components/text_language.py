"""Whether a caption is English at all: the parser makes something of every language."""

from __future__ import annotations

import re

ENGLISH = frozenset(
    "a an the this that these those of in on at with and or but is are was were be being been to by"
    " his her its their from for into over under near through while as up down off out next front"
    " behind beside who which there has have not no it he she they".split()
)
FOREIGN = (
    frozenset(
        # German, Dutch, the Scandinavian languages
        "der das ein eine einen einem einer eines und ist sind im auf mit vor dem den des zwei über"
        " unter neben zum zur von sich ihre seine nicht hinter"
        " het een twee op met voor van naast zijn"
        " ett på med och två av det som og et er ved två jag ikke inte"
        # French, Spanish, Italian, Portuguese, Catalan, Romanian
        " le la les un une des du et est sont dans sur avec devant deux qui au aux ses dans"
        " el los las una unos unas en con del dos sobre por está están junto al que su"
        " il lo gli uno che nel nella nell sul sulla sull di della dei dell sono è"
        " um uma dois em na da das ao à são"
        " și pe cu este într sunt"
        # Polish, Czech, Turkish, Indonesian, Finnish, Hungarian
        " się jest przez oraz dwie dwa na je ve bir iki ile üzerinde"
        " yang dengan sebuah seorang dan pada ja egy és az".split()
    )
    - ENGLISH
)
WORD = re.compile(r"[^\W\d_]+")


def is_english(text: str) -> bool:
    """Whether a text may be English, judged by the small words that every language needs.

    Another language has two small words or more, and more than there are English ones; or, where
    there is no English one, one in four words or beside a letter that English lacks. So has a text
    most of whose letters are not Latin. Words without a small one ("chien brun") cannot be told.

    >>> [is_english(text) for text in ("red car", "zwei Hunde auf der Wiese", "собака бежит")]
    [True, False, False]
    >>> is_english("a man in a café in Plaza de la Constitución")
    True
    """
    words = WORD.findall(text.lower())
    letters = "".join(words)
    if letters.isascii() and not FOREIGN.intersection(words):
        return True
    latin = sum(letter < "\u0250" for letter in letters)
    if 2 * latin < len(letters):
        return False
    foreign = sum(word in FOREIGN for word in words)
    english = sum(word in ENGLISH for word in words)
    if foreign >= 2:
        return foreign <= english
    return not foreign or english > 0 or (len(words) < 4 and letters.isascii())
