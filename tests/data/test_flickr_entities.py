from pathlib import Path

import pytest

from intarsia.data.flickr_entities import flickr30k_entities
from intarsia.data.problems import Problems
from intarsia.data.readers import read
from intarsia.errors import ConfigError, DataError
from intarsia.types import Phrase, Region

XML = """<annotation>
 <filename>1000092795.jpg</filename>
 <size><width>333</width><height>500</height><depth>3</depth></size>
 <object><name>1</name>
  <bndbox><xmin>1</xmin><ymin>11</ymin><xmax>100</xmax><ymax>200</ymax></bndbox></object>
 <object><name>1</name>
  <bndbox><xmin>201</xmin><ymin>11</ymin><xmax>333</xmax><ymax>500</ymax></bndbox></object>
 <object><name>2</name><name>3</name>
  <bndbox><xmin>31</xmin><ymin>41</ymin><xmax>50</xmax><ymax>60</ymax></bndbox></object>
 <object><name>4</name><scene>1</scene><nobndbox>0</nobndbox></object>
 <object><name>5</name><scene>0</scene><nobndbox>1</nobndbox></object>
</annotation>"""
SENTENCES = """[/EN#1/people Two young guys] with [/EN#2/bodyparts/other shaggy hair] help [/EN#0/notvisual each other] in [/EN#4/scene the yard] .
[/EN#1/people Two] look at [/EN#3/bodyparts their hands] .
"""  # noqa: E501


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("Annotations", "Sentences", "flickr30k-images"):
        (tmp_path / folder).mkdir()
    (tmp_path / "val.txt").write_text("1000092795\n")
    (tmp_path / "Annotations" / "1000092795.xml").write_text(XML)
    (tmp_path / "Sentences" / "1000092795.txt").write_text(SENTENCES)
    (tmp_path / "flickr30k-images" / "1000092795.jpg").write_bytes(b"jpeg")
    return tmp_path


def faults(root: Path) -> set[tuple[str, str, str]]:
    problems = Problems(max_fraction=10)
    list(flickr30k_entities(root, "val", problems))
    return {(Path(p.source.split(" object")[0]).name, p.field, p.reason) for p in problems}


def change(root: Path, folder: str, old: str, new: str) -> None:
    (path,) = (root / folder).iterdir()
    path.write_text(path.read_text().replace(old, new))


def test_phrases_speak_of_all_boxes_of_their_chain(root: Path) -> None:
    problems = Problems()
    (record,) = flickr30k_entities(root, "val", problems)
    assert record.captions == (
        "Two young guys with shaggy hair help each other in the yard .",
        "Two look at their hands .",
    )
    assert record.regions == (
        Region((0, 10, 100, 200), "people"),
        Region((200, 10, 333, 500), "people"),
        Region((30, 40, 50, 60), "bodyparts/other"),
    )
    assert [(record.phrase_text(p), p.caption, p.regions) for p in record.phrases] == [
        ("Two young guys", 0, (0, 1)),
        ("shaggy hair", 0, (2,)),
        ("the yard", 0, ()),
        ("Two", 1, (0, 1)),
        ("their hands", 1, (2,)),
    ]
    assert record.phrases[3] == Phrase(1, (0, 3), (0, 1))
    assert record.image == root / "flickr30k-images" / "1000092795.jpg"
    assert (record.id, len(problems), problems.num_seen) == ("1000092795", 0, 1)


def test_empty_lines_do_not_shift_the_captions(root: Path) -> None:
    change(root, "Sentences", "\n[/EN#1", "\n \n[/EN#1")
    (record,) = flickr30k_entities(root, "val", Problems())
    assert [record.phrase_text(p) for p in record.phrases if p.caption == 1] == [
        "Two",
        "their hands",
    ]


def test_what_sticks_out_is_cut_and_a_box_outside_is_told(root: Path) -> None:
    change(root, "Annotations", "<xmax>333<", "<xmax>340<")
    change(root, "Annotations", "<ymin>41</ymin>", "<ymin>61</ymin>")
    problems = Problems(max_fraction=1)
    (record,) = flickr30k_entities(root, "val", problems)
    assert [region.box for region in record.regions] == [(0, 10, 100, 200), (200, 10, 333, 500)]
    assert record.phrases[1].regions == ()
    assert [p.field for p in problems] == ["bndbox"]
    (problem,) = problems
    assert problem.source.endswith("1000092795.xml: object 3")
    assert "(30.0, 60.0, 50.0, 60.0) holds no pixel of the 333 x 500 picture" in problem.reason


def test_an_unknown_chain_and_broken_markup_are_told_with_their_line(root: Path) -> None:
    change(root, "Sentences", "/EN#3/bodyparts", "/EN#77/bodyparts")
    change(root, "Sentences", "the yard]", "the yard")
    found = {(name, field) for name, field, _ in faults(root)}
    assert found == {("1000092795.txt:2", "chain"), ("1000092795.txt:1", "phrase")}


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("</annotation>", "", "1000092795.xml: not XML"),
        ("<width>333</width>", "", "lacks the field 'size/width'"),
        ("<xmin>31</xmin>", "", "lacks the field 'xmin'"),
        ("<xmin>31</xmin>", "<xmin>a</xmin>", "of another format"),
    ],
)
def test_a_broken_annotation_is_a_problem_of_its_picture(
    root: Path, old: str, new: str, reason: str
) -> None:
    change(root, "Annotations", old, new)
    ((name, field, found),) = faults(root)
    assert (name, field) == ("1000092795", "annotations")
    assert reason in found


def test_missing_annotations_of_all_pictures_are_fatal(root: Path) -> None:
    (root / "Sentences" / "1000092795.txt").unlink()
    with pytest.raises(DataError, match=r"1000092795\.txt: cannot be read"):
        list(flickr30k_entities(root, "val", Problems()))


def test_an_unknown_split_names_the_lists_there_are(root: Path) -> None:
    with pytest.raises(ConfigError, match="'dev': choose from val"):
        list(flickr30k_entities(root, "dev", Problems()))


def test_it_is_among_the_readers(root: Path) -> None:
    assert read("flickr30k_entities", root, "val")[0].phrases


def test_records_come_in_the_order_of_ids_and_bad_boxes_are_a_share_of_boxes(root: Path) -> None:
    for folder, suffix in (
        ("Annotations", "xml"),
        ("Sentences", "txt"),
        ("flickr30k-images", "jpg"),
    ):
        old = root / folder / f"1000092795.{suffix}"
        (root / folder / f"36979.{suffix}").write_bytes(old.read_bytes())
    (root / "val.txt").write_text("1000092795\n36979\n", encoding="utf-8")
    (root / "._val.txt").write_bytes(b"hidden")
    (root / "Annotations" / "36979.xml").write_text(
        XML.replace("<ymin>41</ymin>", "<ymin>61</ymin>"), encoding="utf-8"
    )
    problems = Problems(0.5)
    assert [r.id for r in read("flickr30k_entities", root, "val", problems)] == [
        "36979",
        "1000092795",
    ]
    assert "1 of 6 boxes are bad" in problems.summary()
    assert [r.id for r in read("flickr30k_entities", root, "val[1:]", Problems(0))] == [
        "1000092795"
    ]
    with pytest.raises(ConfigError, match="choose from val$"):
        list(read("flickr30k_entities", root, "dev"))
