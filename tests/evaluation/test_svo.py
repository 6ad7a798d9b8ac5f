from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip("spacy", reason="needs the extra 'text'")
pytest.importorskip("lemminflect", reason="needs the extra 'text'")

from intarsia.components.text import TextParser
from intarsia.data.problems import Problems
from intarsia.errors import DataError
from intarsia.evaluation.compositional import COMPOSITIONAL
from intarsia.evaluation.compositional_cases import Case
from intarsia.evaluation.compositional_svo import read_svo, svo_outcomes, with_negative_triplet
from intarsia.evaluation.metrics import summarise

PARSER = TextParser()

HEADER = (
    "sentence,pos_triplet,neg_triplet,pos_url,neg_url,pos_image_id,neg_image_id,"
    "subj_neg,verb_neg,obj_neg"
)
ROWS = [
    'A man rides a horse,"man,ride,horse","man,lead,horse",u,v,11,21,False,True,False',
    'A woman sitting in a chair.,"woman,sit,chair","person,sit,chair",u,v,12,22,True,False,False',
    'Children eat apples,"child,eat,apple","child,eat,cake",u,v,13,23,False,False,True',
]


def write(root: Path, *rows: str, header: str = HEADER) -> Path:
    (root / "svo_probes.csv").write_text("\n".join([header, *rows]) + "\n")
    return root / "svo_probes.csv"


@pytest.mark.parametrize(
    ("sentence", "positive", "negative", "expected"),
    [
        ("A man rides a horse", "man,ride,horse", "man,lead,horse", "A man leads a horse"),
        ("The girl is running", "girl,run,sea", "girl,sit,sea", "The girl is sitting"),
        ("A cat sat on a bed", "cat,sit,bed", "cat,sleep,bed", "A cat slept on a bed"),
        ("A dog on a sofa", "dog,lie,sofa", "animal,lie,sofa", "An animal on a sofa"),
        ("Women carry bags", "woman,carry,bag", "child,carry,bag", "Children carry bags"),
        ("An owl in a tree", "owl,sit,tree", "bird,sit,tree", "A bird in a tree"),
        ("A man hikes", "man,hike,hill", "man,climb,hill", "A man climbs"),
        ("A lady hikes", "woman,hike,hill", "man,hike,hill", None),
        # the word that the triplet names, by the parse
        ("A man walks down the walk", "man,walk,path", "man,run,path", "A man runs down the walk"),
        ("A man on a walk", "man,walk,path", "man,run,path", None),
        ("A dog walks a dog", "dog,walk,dog", "dog,walk,cat", "A dog walks a cat"),
        ("A dog chases a dog", "dog,chase,dog", "cat,chase,dog", "A cat chases a dog"),
        (
            "The girl paints with paint",
            "girl,paint,wall",
            "girl,draw,wall",
            "The girl draws with paint",
        ),
        ("A woman rides in a ride", "woman,sit,ride", "woman,sit,boat", "A woman rides in a boat"),
        # forms
        ("Dogs run on grass", "dog,run,grass", "sheep,run,grass", "Sheep run on grass"),
        ("A sheep grazes", "sheep,graze,field", "dog,graze,field", "A dog grazes"),
        ("A flock of sheep graze", "sheep,graze,field", "dog,graze,field", "A flock of dogs graze"),
        ("The game ended", "game,end,field", "game,begin,field", "The game began"),
        ("The girl has written it", "girl,write,it", "girl,begin,it", "The girl has begun it"),
        ("Men sit on a bench", "man,sit,bench", "person,sit,bench", "People sit on a bench"),
        ("People sit on a bench", "person,sit,bench", "child,sit,bench", "Children sit on a bench"),
        ("A boy is lying down", "boy,lie,bed", "boy,swim,bed", "A boy is swimming down"),
        ("A man drinks a cup of tea", "man,drink,tea", "man,hold,tea", "A man holds a cup of tea"),
        ("Three geese in water", "goose,swim,water", "person,swim,water", "Three people in water"),
    ],
)
def test_the_new_word_takes_the_form_of_the_old(sentence, positive, negative, expected):
    (words,) = PARSER.words([sentence])
    found = with_negative_triplet(sentence, words, positive.split(","), negative.split(","))
    assert found == expected


def test_rows_become_cases_by_role(tmp_path):
    (tmp_path / "12.png").touch()
    path = write(tmp_path, *ROWS)
    verb, subject, target = read_svo(tmp_path, tmp_path, Problems())
    texts = ("A man rides a horse", "A man leads a horse")
    assert verb == Case(f"{path}:2", tmp_path / "11.jpg", texts, "verb")
    assert (subject.kind, subject.texts[1]) == ("subject", "A person sitting in a chair.")
    assert subject.image == tmp_path / "12.png"
    assert (target.kind, target.texts[1]) == ("object", "Children eat cakes")


def test_what_the_protocol_leaves_out_is_counted(tmp_path):
    write(
        tmp_path,
        *ROWS,
        ROWS[0],
        'A man rides,"man,ride,horse","boy,lead,horse",u,v,1,2,True,True,False',
        'Somebody rides,"man,ride,horse","boy,ride,horse",u,v,1,2,True,False,False',
    )
    problems = Problems()
    assert len(read_svo(tmp_path, tmp_path, problems)) == 3
    assert len(problems) == 0
    for reason in ("exactly one negative role", "repeats another's", "its triplet names"):
        assert f"1 skipped: a {'sentence' if 'names' in reason else 'row'}" in problems.summary()
        assert reason in problems.summary()


def test_missing_pictures_are_counted_and_listed(tmp_path, model):
    Image.new("RGB", (32, 32), "red").save(tmp_path / "11.png")
    path = write(tmp_path, *ROWS)
    svo, problems = COMPOSITIONAL["svo"], Problems(max_fraction=0.7)
    found = svo.evaluate(model, svo.read(tmp_path, tmp_path, problems), problems)
    assert {name: metric.n for name, metric in found.metrics.items()} == {"verb": 1, "all": 1}
    assert [(p.source, p.field) for p in problems] == [
        (f"{path}:3", "image"),
        (f"{path}:4", "image"),
    ]
    assert problems.summary() == "2 of 3 records are bad (66.7%): 2 image"
    with pytest.raises(DataError, match=r"2 of 3 records are bad .* raise --max-bad-fraction"):
        svo.evaluate(model, svo.read(tmp_path, tmp_path, Problems()), Problems())


def test_roles_and_all_with_ties_wrong():
    kinds = ["subject", "verb", "verb", "object"]
    cases = [Case("", Path(str(i)), ("t", "f"), kind) for i, kind in enumerate(kinds)]
    scores = torch.tensor([[1.0, 0], [1, 1], [1, 0], [0, 1]])
    metrics = summarise(svo_outcomes(cases, scores))
    values = {name: metric.value for name, metric in metrics.items()}
    assert values == {"subject": 100, "verb": 50, "object": 0, "all": 50}


def test_a_missing_column_is_fatal_and_named(tmp_path):
    write(tmp_path, header=HEADER.replace("verb_neg", "verb"))
    with pytest.raises(DataError, match=r"svo_probes\.csv: no column 'verb_neg' in the header"):
        read_svo(tmp_path, tmp_path, Problems())


def test_bad_cells_are_listed_with_their_line(tmp_path):
    bad = [
        'A man rides,"man,ride","man,lead,horse",u,v,1,2,False,True,False',
        'A man rides,"man,ride,horse","man,lead,horse",u,v,1,2,False,maybe,False',
        ',"man,ride,horse","man,lead,horse",u,v,1,2,False,True',
    ]
    path = write(tmp_path, *ROWS, *bad)
    problems = Problems(max_fraction=1)
    assert len(read_svo(tmp_path, tmp_path, problems)) == 3
    assert [(p.source, p.field) for p in problems] == [
        (f"{path}:7", "row"),
        (f"{path}:5", "pos_triplet, neg_triplet"),
        (f"{path}:6", "subj_neg, verb_neg, obj_neg"),
    ]
