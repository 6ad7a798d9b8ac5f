import csv
import json
from pathlib import Path

import pytest

from intarsia.data.flickr import flickr8k
from intarsia.data.karpathy import flickr30k
from intarsia.data.order import Part
from intarsia.data.problems import Problems
from intarsia.data.readers import read
from intarsia.errors import ConfigError, DataError
from intarsia.runtime import data_root

CAPTIONS = [
    ("1_a.jpg", 'A dog , red "ball" , and a boy .'),
    ("2_b.jpg", "A girl ."),
    ("1_a.jpg", "Second ."),
    ("3_c.jpg", "Held out ."),
]


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    (tmp_path / "Images").mkdir()
    for name in ("1_a", "2_b", "3_c"):
        (tmp_path / "Images" / f"{name}.jpg").write_bytes(b"jpeg")
    (tmp_path / "Flickr_8k.trainImages.txt").write_text("2_b.jpg\n1_a.jpg\n")
    (tmp_path / "Flickr_8k.devImages.txt").write_text("3_c.jpg\n")
    write_captions(tmp_path, CAPTIONS)
    return tmp_path


def write_captions(root: Path, rows: list[tuple[str, str]]) -> None:
    with (root / "captions.txt").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *rows])


def tolerant() -> Problems:
    return Problems(max_fraction=10)


def test_flickr8k_is_the_official_list_in_the_order_of_ids(kaggle: Path) -> None:
    problems = Problems()
    records = list(flickr8k(kaggle, "train", problems))
    assert [r.id for r in records] == ["1_a", "2_b"]
    assert records[0].captions == ('A dog , red "ball" , and a boy .', "Second .")
    assert records[0].image == kaggle / "Images" / "1_a.jpg"
    assert (problems.num_seen, len(problems)) == (2, 0)


def test_flickr8k_val_is_dev(kaggle: Path) -> None:
    assert list(flickr8k(kaggle, "val", Problems())) == list(flickr8k(kaggle, "dev", Problems()))


def test_flickr8k_counts_every_bad_record_with_its_place(kaggle: Path) -> None:
    (kaggle / "Images" / "2_b.jpg").unlink()
    (kaggle / "Flickr_8k.trainImages.txt").write_text("2_b.jpg\n1_a.jpg\n1_a.jpg\n")
    write_captions(kaggle, [*CAPTIONS, ("nobody.jpg", "Who ?"), ("1_a.jpg", " ")])
    problems = tolerant()
    records = list(flickr8k(kaggle, "train", problems))
    assert [(r.id, len(r.captions)) for r in records] == [("1_a", 2)]
    images = kaggle / "Images"
    assert {(p.source, p.field) for p in problems} == {
        (f"{kaggle}/captions.txt:6", "image"),
        (str(images / "2_b.jpg"), "image"),
        (str(images / "1_a.jpg"), "captions[2]"),
        (str(images / "1_a.jpg"), "id"),
    }


def test_flickr8k_image_without_captions_is_counted(kaggle: Path) -> None:
    write_captions(kaggle, CAPTIONS[1:2])
    problems = tolerant()
    assert [r.id for r in flickr8k(kaggle, "train", problems)] == ["2_b"]
    assert [p.source for p in problems] == [str(kaggle / "Images" / "1_a.jpg")]


def test_flickr8k_an_unquoted_comma_is_counted(kaggle: Path) -> None:
    with (kaggle / "captions.txt").open("a") as file:
        file.write("2_b.jpg,one, two\n")
    problems = tolerant()
    list(flickr8k(kaggle, "train", problems))
    assert [(p.source, p.field) for p in problems] == [(f"{kaggle}/captions.txt:6", "row")]


def test_flickr8k_missing_or_foreign_files_are_fatal(kaggle: Path) -> None:
    with pytest.raises(DataError, match=r"Flickr_8k\.testImages\.txt: cannot be read"):
        list(flickr8k(kaggle, "test", Problems()))
    (kaggle / "captions.txt").write_text("file,text\n1_a.jpg,hello\n")
    with pytest.raises(DataError, match=r"captions\.txt: no column 'image'"):
        list(flickr8k(kaggle, "train", Problems()))
    (kaggle / "captions.txt").write_bytes(b"image,caption\n1_a.jpg,caf\xe9\n")
    with pytest.raises(DataError, match=r"captions\.txt:2: not UTF-8 text: .* 0xe9 .* iconv"):
        list(flickr8k(kaggle, "train", Problems()))
    (kaggle / "Images").rename(kaggle / "elsewhere")
    with pytest.raises(DataError, match="no folder of pictures: looked for Images"):
        list(flickr8k(kaggle, "train", Problems()))


def test_unknown_splits(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'tset': choose from dev, test, train, val"):
        list(flickr8k(tmp_path, "tset", Problems()))
    with pytest.raises(ConfigError, match="'dev': choose from test, train, val"):
        list(flickr30k(tmp_path, "dev", Problems()))


def karpathy(root: Path, folder: str, images: object) -> None:
    (root / folder).mkdir(exist_ok=True)
    content = {"images": images, "dataset": "flickr30k"}
    (root / "dataset_flickr30k.json").write_text(json.dumps(content))


def entry(name: str, split: str, *captions: str | None) -> dict[str, object]:
    sentences = [{"tokens": [], "raw": text, "imgid": 0, "sentid": 0} for text in captions]
    return {"sentids": [], "imgid": 0, "sentences": sentences, "split": split, "filename": name}


@pytest.mark.parametrize("folder", ["flickr30k-images", "images"])
def test_flickr30k(tmp_path: Path, folder: str) -> None:
    entries = [
        entry("10.jpg", "train", "One.", "Two."),
        entry("11.jpg", "val", "Other."),
        entry("12.jpg", "train", None),
        entry("13.jpg", "train", "Lost."),
    ]
    karpathy(tmp_path, folder, entries)
    for name in ("10", "11", "12"):
        (tmp_path / folder / f"{name}.jpg").write_bytes(b"jpeg")
    problems = tolerant()
    records = list(flickr30k(tmp_path, "train", problems))
    assert [(r.id, r.captions) for r in records] == [("10", ("One.", "Two."))]
    assert {(Path(p.source).name, p.field) for p in problems} == {
        ("12.jpg", "captions[0]"),
        ("12.jpg", "captions"),
        ("13.jpg", "image"),
    }


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({}, "field 'images' must be a list, is dict"),
        ([{"filename": "1.jpg", "sentences": []}], r"json: images\[0\]: split: is missing"),
        (
            [{"filename": "1.jpg", "split": "val", "sentences": [{}]}],
            r"json: images\[0\]: raw: is missing",
        ),
        (["1.jpg"], r"json: images\[0\]: entry: is of another format"),
    ],
)
def test_flickr30k_of_another_format_is_fatal(tmp_path: Path, images: object, message: str) -> None:
    karpathy(tmp_path, "images", images)
    with pytest.raises(DataError, match=message) as caught:
        list(flickr30k(tmp_path, "val", Problems()))
    assert "dataset_flickr30k.json" in str(caught.value)


def test_the_real_flickr8k() -> None:
    root = data_root() / "flickr8k"
    if not root.is_dir():
        pytest.skip(f"the real Flickr8k is not at {root}")
    problems = Problems()
    sizes = {}
    for split in ("train", "dev"):
        records = list(flickr8k(root, split, problems))
        sizes[split] = (len(records), {len(record.captions) for record in records})
    assert sizes == {"train": (6000, {5}), "dev": (1000, {5})}
    assert len(problems) == 0


def test_flickr8k_parts_are_by_id_whatever_the_list(kaggle: Path) -> None:
    (kaggle / "Images" / "10_d.jpg").write_bytes(b"jpeg")
    write_captions(kaggle, [*CAPTIONS, ("10_d.jpg", "Last .")])
    for listed in ("2_b 10_d 1_a", "10_d 1_a 2_b"):
        (kaggle / "Flickr_8k.trainImages.txt").write_text(
            "".join(f"{name}.jpg\n" for name in listed.split()), encoding="utf-8"
        )
        assert [r.id for r in flickr8k(kaggle, "train", Problems(), Part(1))] == ["1_a", "2_b"]


def test_flickr30k_parts_are_by_id(tmp_path: Path) -> None:
    names = ["100.jpg", "20.jpg", "3.jpg"]
    karpathy(tmp_path, "images", [entry(name, "train", "One.") for name in names])
    for name in names:
        (tmp_path / "images" / name).write_bytes(b"jpeg")
    assert [r.id for r in flickr30k(tmp_path, "train", Problems(), Part(0, 2))] == ["3", "20"]


def test_flickr30k_one_bad_entry_costs_itself(tmp_path: Path) -> None:
    karpathy(tmp_path, "images", [entry("1.jpg", "val", "One."), {"filename": "2.jpg"}])
    (tmp_path / "images" / "1.jpg").write_bytes(b"jpeg")
    problems = tolerant()
    assert [r.id for r in flickr30k(tmp_path, "val", problems)] == ["1"]
    assert [p.source.partition(": ")[2] for p in problems] == ["images[1]"]


def test_the_real_lists_are_in_the_order_of_ids() -> None:
    root = data_root() / "flickr8k"
    if not root.is_dir():
        pytest.skip(f"the real Flickr8k is not at {root}")
    listed = (root / "Flickr_8k.trainImages.txt").read_text(encoding="utf-8").split()
    part = read("flickr8k", root, "train[-500:]", Problems(0))
    assert [record.id for record in part] == [Path(name).stem for name in listed[-500:]]
