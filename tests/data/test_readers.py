import logging
from pathlib import Path

import pytest
from PIL import Image

from intarsia.data.problems import Problems
from intarsia.data.readers import READERS, read
from intarsia.data.table import write_table
from intarsia.errors import ConfigError, DataError


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    path = tmp_path / "captions_dev.csv"
    path.write_text("image,caption\na.png,a square\n")
    return path


def test_unknown_name_fails_at_once_with_the_choices() -> None:
    with pytest.raises(
        ConfigError, match="unknown data set 'cocoo': choose from coco, coco-karpathy, file"
    ):
        read("cocoo")


@pytest.mark.parametrize("name", ["file", "webdataset", "table", "image_folder"])
def test_own_files_need_a_path(name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' needs the path"):
        read(name)


@pytest.mark.parametrize("name", ["flickr8k", "flickr30k", "coco", "imagenet"])
def test_known_data_sets_are_looked_for_in_the_data_root(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTARSIA_DATA", str(tmp_path))
    with pytest.raises(DataError, match=str(tmp_path / name)):
        list(read(name))


def test_the_split_may_stand_in_the_path(captions: Path) -> None:
    (record,) = read("file", captions.parent / "captions_{split}.csv", "dev")
    assert record.captions == ("a square",)


def test_a_file_without_splits_says_so(captions: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for split in ("val", "test[:1]"):
        assert len(read("file", captions, split)) == 1
    told = [(record.levelname, record.message) for record in caplog.records]
    assert told == [
        ("WARNING", f"{captions} has no splits: 'val' is all of it"),
        ("INFO", f"{captions} has no splits: 'test' is all of it"),
    ]
    caplog.clear()
    read("file", captions.parent / "captions_{split}.csv", "dev")
    assert not caplog.records


def test_a_table_reads_back_what_a_file_gave(captions: Path, tmp_path: Path) -> None:
    write_table(tmp_path / "t.lance", read("file", captions), Problems())
    problems = Problems()
    (record,) = read("table", tmp_path / "t.lance", problems=problems)
    assert (record.id, record.captions) == ("a.png", ("a square",))
    assert problems.num_seen == 1


def test_scenes_are_among_the_readers() -> None:
    problems = Problems()
    first = read("scenes", split="val", problems=problems)[0]
    assert first.captions and first.regions and problems.num_seen == 1000


def test_bad_records_are_told_in_one_warning(
    captions: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with captions.open("a", encoding="utf-8") as file:
        file.write("gone.png,a circle\n")
    problems = Problems(max_fraction=0.5)
    with caplog.at_level(logging.WARNING):
        assert len(list(read("file", captions, problems=problems))) == 1
    assert [r.message for r in caplog.records] == ["1 of 2 records are bad (50%): 1 image"]
    with pytest.raises(DataError, match=r"gone\.png"):
        list(read("file", captions))


def test_every_reader_has_its_name() -> None:
    assert set(READERS) == {
        "flickr8k",
        "flickr8k-karpathy",
        "flickr30k",
        "flickr30k-csv",
        "flickr30k_entities",
        "visual_genome",
        "refcoco",
        "refcoco+",
        "refcocog",
        "coco",
        "coco-karpathy",
        "file",
        "webdataset",
        "table",
        "image_folder",
        "imagenet",
        "scenes",
        "scenes_places",
        "scenes_plain",
    }


def test_a_slice_of_scenes_draws_only_those() -> None:
    problems = Problems()
    records = list(read("scenes", split="val[990:]", problems=problems))
    assert [r.id for r in records] == [f"scenes/val/0/{n}" for n in range(990, 1000)]
    assert problems.num_seen == 10
    share = [r.id for r in read("scenes", split="val[99%:]")]
    assert 0 < len(share) < 30


def test_an_id_used_twice_in_a_table_is_told(captions: Path, tmp_path: Path) -> None:
    record = read("file", captions)[0]
    write_table(tmp_path / "t.lance", [record, record], Problems())
    problems = Problems(0.5)
    assert len(list(read("table", tmp_path / "t.lance", problems=problems))) == 1
    assert "1 of 2 records are bad (50%): 1 id" in problems.summary()
