"""``dataset_NAME.json`` as Karpathy's archive has them: fields and splits of the real files."""

import json
from pathlib import Path
from typing import Any

import pytest

from intarsia.cli import main
from intarsia.data.problems import Problems
from intarsia.data.readers import place_of, read
from intarsia.errors import ConfigError, DataError
from intarsia.evaluation.result import read_result
from intarsia.suite.sources import Source


def entry(split: str, filename: str, *captions: str, **more: Any) -> dict[str, Any]:
    """With the fields of the real files, tokens among them."""
    sentences = [
        {"tokens": text.lower().split(), "raw": text, "imgid": 0, "sentid": i}
        for i, text in enumerate(captions)
    ]
    ids = {"sentids": list(range(len(captions))), "imgid": 0}
    return {**ids, "split": split, "filename": filename, "sentences": sentences, **more}


def coco_entry(split: str, year: str, key: int, *captions: str) -> dict[str, Any]:
    name = f"COCO_{year}_{key:012}.jpg"
    return entry(split, name, *captions, filepath=year, cocoid=key)


def write(root: Path, name: str, images: list[dict[str, Any]]) -> Path:
    root.mkdir(exist_ok=True)
    path = root / f"dataset_{name}.json"
    path.write_text(json.dumps({"images": images, "dataset": name}), encoding="utf-8")
    return path


COCO = [
    coco_entry("test", "val2014", 391895, *(f"A man on road {i}." for i in range(6))),
    coco_entry("test", "val2014", 522, "A girl.", "A girl ."),
    coco_entry("restval", "val2014", 184613, "A child."),
    coco_entry("val", "val2014", 60623, "A kitchen."),
    coco_entry("train", "train2014", 9, "A train."),
]


@pytest.fixture(params=["", "images"])
def coco(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    root = tmp_path / "coco"
    write(root, "coco", COCO)
    for image in COCO:
        path = root / request.param / image["filepath"] / image["filename"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"jpeg")
    return root


@pytest.mark.parametrize(
    ("split", "ids"),
    [
        ("test", ["522", "391895"]),
        ("restval", ["184613"]),
        ("val", ["60623"]),
        ("train", ["9"]),
        ("train+restval", ["9", "184613"]),
        ("test[1:]", ["391895"]),
    ],
)
def test_coco_has_four_splits_and_all_captions(coco: Path, split: str, ids: list[str]) -> None:
    records = read("coco-karpathy", coco, split, Problems(0))
    assert [record.id for record in records] == ids
    if "391895" in ids:
        assert len(records[-1].captions) == 6
        (folder,) = (path for path in coco.rglob("val2014"))
        assert records[-1].image == folder / "COCO_val2014_000000391895.jpg"


def test_coco_lies_where_coco_lies(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTARSIA_DATA", str(coco.parent))
    assert place_of("coco-karpathy") == coco
    assert Source.parse("coco-karpathy", coco.parent).path == coco
    assert len(read("coco-karpathy", split="test", problems=Problems(0))) == 2


def test_bad_entries_are_told_by_their_place(coco: Path) -> None:
    path = write(
        coco,
        "coco",
        [
            *COCO,
            coco_entry("test", "test2014", 7, "Who ?"),
            entry("test", "../../x.jpg", "Who ?", filepath="val2014", cocoid=8),
            {"split": "test", "filename": "y.jpg"},
        ],
    )
    problems = Problems(1)
    assert len(read("coco-karpathy", coco, "test", problems)) == 2
    assert [(p.source, p.field) for p in problems] == [
        (f"{path}: images[5]", "filepath"),
        (f"{path}: images[6]", "filename"),
        (f"{path}: images[7]", "sentences"),
    ]
    with pytest.raises(ConfigError, match="'tset': choose from restval, test, train"):
        read("coco-karpathy", coco, "tset")


@pytest.mark.parametrize("folder", ["Images", "Flicker8k_Dataset"])
def test_flickr8k(tmp_path: Path, folder: str) -> None:
    name = "2513260012_03d33305cf.jpg"
    write(
        tmp_path, "flickr8k", [entry("train", name, "A dog .", "Dogs ."), entry("val", "1_a.jpg")]
    )
    (tmp_path / folder).mkdir()
    (tmp_path / folder / name).write_bytes(b"jpeg")
    (record,) = read("flickr8k-karpathy", tmp_path, "train", Problems(0))
    assert (record.id, record.captions) == (name[:-4], ("A dog .", "Dogs ."))
    assert record.image == tmp_path / folder / name
    with pytest.raises(DataError, match="no folder of pictures: looked for Images"):
        read("flickr8k-karpathy", tmp_path / "..", "train")


@pytest.mark.parametrize(
    ("data", "given", "name", "counts"),
    [
        ("coco-karpathy", "", "retrieval (all captions)", (8, 0)),
        ("coco-karpathy", "--captions 5", "retrieval (5 captions)", (7, 1)),
        ("file", "", "retrieval (5 captions)", (7, 1)),
        ("file", "--captions all", "retrieval (all captions)", (8, 0)),
        ("file", "--captions 1", "retrieval (1 caption)", (2, 6)),
    ],
)
def test_how_many_captions_count_is_in_the_name_and_what_was_cut_in_the_result(
    coco: Path, tmp_path: Path, data: str, given: str, name: str, counts: tuple[int, int]
) -> None:
    from PIL import Image

    rows = ["image,caption"]
    for i, image in enumerate(COCO[:2]):
        (path,) = coco.rglob(image["filename"])
        Image.new("RGB", (40, 30), (90 * i, 200, 40)).save(path)
        rows += [f"{path},{said['raw']}" for said in image["sentences"]]
    (tmp_path / "captions.csv").write_text("\n".join(rows))
    root = coco if data == "coco-karpathy" else tmp_path / "captions.csv"
    result = tmp_path / "result.json"
    main(
        f"evaluate retrieval --model scenes-clip --device cpu --data {data} --root {root} "
        f"--split test --json {result} {given}".split()
    )
    found = read_result(result)
    assert found["protocol"] == name
    assert (found["counted"]["captions"], found["counted"]["captions_left_out"]) == counts
    assert found["metrics"]["t2i_r1"]["n"] == counts[0]
