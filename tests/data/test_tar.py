import json
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from intarsia.data.images import load_image
from intarsia.data.order import Part
from intarsia.data.problems import Problems
from intarsia.data.tar import webdataset
from intarsia.errors import DataError
from intarsia.types import FilePart


def picture(kind: str = "JPEG") -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


def shard(path: Path, *samples: dict[str, Any]) -> Path:
    with wds.TarWriter(str(path)) as writer:
        for sample in samples:
            writer.write(sample)
    return path


def tolerant() -> Problems:
    return Problems(max_fraction=10)


def test_shards_written_by_webdataset(tmp_path: Path) -> None:
    with wds.ShardWriter(f"{tmp_path}/part-%03d.tar", maxcount=2, verbose=0) as writer:
        writer.write({"__key__": "a", "jpg": picture(), "txt": "one"})
        writer.write({"__key__": "b", "png": picture("PNG"), "json": {"caption": "two"}})
        writer.write(
            {"__key__": "sub/c", "webp": picture("WEBP"), "json": {"captions": ["x", "y"]}}
        )
        writer.write({"__key__": "d", "jpeg": picture(), "txt": "z", "json": {"caption": "z"}})
    expected = [
        ("part-000/a", ("one",)),
        ("part-000/b", ("two",)),
        ("part-001/d", ("z",)),
        ("part-001/sub/c", ("x", "y")),
    ]
    for pattern in ("part-{000..001}.tar", "part-*.tar"):
        problems = Problems()
        records = list(webdataset(f"{tmp_path}/{pattern}", problems))
        assert [(r.id, r.captions) for r in records] == expected
        assert all(isinstance(r.image, FilePart) for r in records)
        assert all(load_image(r.image).size == (32, 32) for r in records)
        assert (problems.num_seen, len(problems)) == (4, 0)


def test_compressed_shards_and_leading_dots(tmp_path: Path) -> None:
    path = tmp_path / "dots.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in (("./a.v1.JPG", b"no"), ("./b.JPG", picture()), ("./b.txt", b"cap")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, BytesIO(content))
    problems = tolerant()
    (record,) = webdataset(path, problems)
    assert (record.id, record.captions) == ("dots.tar/b", ("cap",))
    assert [(p.source, p.field) for p in problems] == [(f"{path}/a", "image")]


def test_bad_samples_are_counted_with_shard_and_key(tmp_path: Path) -> None:
    path = shard(
        tmp_path / "s.tar",
        {"__key__": "text-only", "txt": "no picture"},
        {"__key__": "wordless", "jpg": picture()},
        {"__key__": "empty", "jpg": picture(), "txt": " "},
        {"__key__": "null", "jpg": picture(), "json": {"caption": None}},
        {"__key__": "list", "jpg": picture(), "json": b"[1]"},
        {"__key__": "good", "jpg": picture(), "txt": "fine"},
        {"__key__": "latin", "jpg": picture(), "txt": b"caf\xe9"},
        {"__key__": "good", "jpg": picture(), "txt": "twice"},
    )
    problems = tolerant()
    assert [r.captions for r in webdataset(path, problems)] == [("fine",)]
    assert problems.num_seen == 8
    assert {(p.source, p.field) for p in problems} == {
        (f"{path}/text-only", "image"),
        ("s/wordless", "captions"),
        ("s/empty", "captions[0]"),
        ("s/empty", "captions"),
        ("s/null", "captions"),
        ("s/list", "captions"),
        (f"{path}/list", "caption"),
        (f"{path}/latin", "caption"),
        ("s/latin", "captions"),
        ("s/good", "id"),
    }


@pytest.mark.parametrize("block", [5, 5.2, 6, 10.3])
def test_a_shard_cut_short_gives_what_it_has_and_is_counted(tmp_path: Path, block: float) -> None:
    samples = [{"__key__": str(i), "txt": "x", "jpg": picture()} for i in range(4)]
    path = shard(tmp_path / "cut.tar", *samples)
    path.write_bytes(path.read_bytes()[: int(block * 512)])
    problems = tolerant()
    assert len(list(webdataset(path, problems))) < 4
    assert (str(path), "shard") in {(p.source, p.field) for p in problems}


def test_a_corrupt_header_does_not_pass_for_the_end(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", *({"__key__": str(i), "txt": "x"} for i in range(4)))
    with tarfile.open(path) as archive:
        third = archive.getmembers()[2].offset
    data = bytearray(path.read_bytes())
    data[third : third + 100] = b"?" * 100
    path.write_bytes(data)
    problems = tolerant()
    list(webdataset(path, problems))
    assert (str(path), "shard") in {(p.source, p.field) for p in problems}


def test_missing_or_foreign_shards_are_fatal(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.tar: not a readable tar file"):
        list(webdataset(tmp_path / "gone.tar", Problems()))
    with pytest.raises(DataError, match=r"none-\*\.tar: matches no file"):
        list(webdataset(tmp_path / "none-*.tar", Problems()))
    (tmp_path / "text.tar").write_text(json.dumps({"not": "a tar"}) * 100)
    with pytest.raises(DataError, match=r"text\.tar: not a readable tar file"):
        list(webdataset(tmp_path / "text.tar", Problems()))


@pytest.mark.parametrize("name", ["photos [new]", "what?", "star*", "{0..1}"])
def test_what_exists_is_taken_as_it_is_written(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / "photos n").mkdir()
    for number in range(2):
        sample = {"__key__": "a", "jpg": picture(), "txt": "x"}
        shard(tmp_path / name / f"s-{number}.tar", sample)
        shard(tmp_path / "photos n" / f"other-{number}.tar", sample)
    folder = tmp_path / name
    for pattern, count in (("s-0.tar", 1), ("s-*.tar", 2), ("s-{0..1}.tar", 2), ("s-[1].tar", 1)):
        assert len(list(webdataset(f"{folder}/{pattern}", Problems(0)))) == count
    shard(folder / "s-[1].tar", {"__key__": "b", "jpg": picture(), "txt": "literal"})
    (record,) = webdataset(folder / "s-[1].tar", Problems(0))
    assert record.captions == ("literal",)


def test_hidden_members_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "mac.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("./._a.jpg", "._a.txt", ".cache/b.jpg", "a.jpg", "a.txt"):
            content = picture() if name == "a.jpg" else b"text"
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, BytesIO(content))
    (record,) = webdataset(path, Problems(0))
    assert (record.id, record.captions) == ("mac/a", ("text",))


def test_samples_against_the_rules_of_the_format_are_told(tmp_path: Path) -> None:
    """One key for several pictures; all pictures first, then all captions."""
    dots = {"__key__": "trip", "1.0.jpg": picture(), "1.0.txt": "a", "1.1.jpg": picture()}
    path = shard(tmp_path / "dots.tar", dots)
    problems = tolerant()
    assert list(webdataset(path, problems)) == []
    assert [p.source for p in problems] == [f"{path}/trip"]
    members = [{"__key__": key, "jpg": picture()} for key in "ab"]
    members += [{"__key__": key, "txt": key} for key in "ab"]
    path = shard(tmp_path / "order.tar", *members)
    problems = tolerant()
    assert list(webdataset(path, problems)) == []
    assert [p.source for p in problems] == [f"{path}/a", f"{path}/b", "order/a", "order/b"]


def test_parts_of_a_stream(tmp_path: Path) -> None:
    samples = [{"__key__": str(n), "jpg": picture(), "txt": "x"} for n in (9, 30, 4, 100)]
    first, second = samples[:2], samples[2:]
    shard(tmp_path / "s-9.tar", *first)
    shard(tmp_path / "s-10.tar", *second)
    pattern = f"{tmp_path}/s-*.tar"
    whole = [r.id for r in webdataset(pattern, Problems(0))]
    assert whole == ["s-10/100", "s-10/4", "s-9/30", "s-9/9"]
    assert [r.id for r in webdataset(pattern, Problems(0), Part(-1))] == whole[-1:]
    halves = [Part(None, 50, is_share=True), Part(50, None, is_share=True)]
    one, two = ({r.id for r in webdataset(pattern, Problems(0), part)} for part in halves)
    assert one | two == set(whole) and not one & two


def noise(number: int) -> bytes:
    """Another picture of another length for each number."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 256, (8 + number, 9, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def archive(path: Path, pictures: dict[str, bytes], mode: Any = "w", kind: int = 2) -> Path:
    with tarfile.open(path, mode, format=kind) as file:
        for name, content in pictures.items():
            for suffix, data in ((".png", content), (".txt", b"x")):
                member = tarfile.TarInfo(name + suffix)
                member.size = len(data)
                file.addfile(member, BytesIO(data))
    return path


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_picture_in_a_shard_is_the_bytes_of_its_member(tmp_path: Path, kind: int) -> None:
    names = ["a", "b/c", "d" * 99 + "/" + "e" * 90, "\u00e9\U0001f436", "f"]
    path = archive(tmp_path / "s.tar", {n: noise(i) for i, n in enumerate(names)}, kind=kind)
    parts = {record.id: record.image for record in webdataset(path, Problems(0))}
    assert sorted(parts) == sorted(f"s/{name}" for name in names)
    with tarfile.open(path) as file:
        for index, name in enumerate(names):
            member = file.extractfile(f"{name}.png")
            part = parts[f"s/{name}"]
            assert isinstance(part, FilePart) and member is not None
            assert part.read() == member.read() == noise(index)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_wherever_a_shard_is_cut_what_is_given_is_whole(tmp_path: Path, mode: str) -> None:
    """And what is lost is told, or the shard is none."""
    pictures = {str(number): noise(number) for number in range(4)}
    path = archive(tmp_path / "s.tar", pictures, mode)
    data = path.read_bytes()
    counts = set()
    for end in range(0, len(data), 199):
        path.write_bytes(data[:end])
        problems = tolerant()
        try:
            found = list(webdataset(path, problems))
        except DataError as error:
            assert f"{path}: not a readable tar file" in str(error)
            continue
        for record in found:
            content = record.image.read() if mode == "w" else record.image  # type: ignore[union-attr]
            assert content == pictures[record.id.removeprefix("s/")]
        is_told = (str(path), "shard") in {(p.source, p.field) for p in problems}
        assert is_told or len(found) == 4
        counts.add(len(found))
    assert max(counts) >= 3


def test_a_shard_that_is_cut_or_lost_after_it_was_read_is_named(tmp_path: Path) -> None:
    path = archive(tmp_path / "s.tar", {str(number): noise(number) for number in range(3)})
    first, second, third = (record.image for record in webdataset(path, Problems(0)))
    assert isinstance(second, FilePart)
    data = path.read_bytes()
    for end in (second.start, second.start + 20, second.start + second.length - 30):
        path.write_bytes(data[:end])
        assert load_image(first).size == (9, 8)
        for image in (second, third):
            with pytest.raises(DataError, match=r"s\.tar at byte \d+: cannot be decoded") as caught:
                load_image(image)
            assert str(image) in str(caught.value)
    path.unlink()
    with pytest.raises(DataError, match=rf"s\.tar at byte {second.start}: no such file"):
        load_image(second)
