from pathlib import Path, PurePosixPath
from unicodedata import normalize

import pytest

from intarsia.data.paths import is_hidden, leaves, located, plain_name

COMPOSED, TAKEN_APART = (normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))


@pytest.mark.parametrize("on_disk, asked", [(COMPOSED, TAKEN_APART), (TAKEN_APART, COMPOSED)])
def test_a_name_is_found_in_whichever_code_points(tmp_path: Path, on_disk: str, asked: str) -> None:
    (tmp_path / on_disk).mkdir()
    path = tmp_path / on_disk / f"{on_disk}.jpg"
    path.write_bytes(b"")
    found = located(tmp_path / asked / f"{asked}.jpg")
    assert found is not None and found.samefile(path)
    assert located(path) is path
    assert located(tmp_path / asked / f"{asked}.png") is None
    assert located(tmp_path / "gone.jpg") is None


def test_one_file_has_one_name() -> None:
    assert {plain_name(name) for name in ("0.png", "./0.png", ".//a/../0.png")} == {"0.png"}
    assert plain_name(TAKEN_APART) == plain_name(COMPOSED) == COMPOSED


def test_paths_that_leave_and_hidden_ones() -> None:
    assert leaves("a/../../b.png") and not leaves("a/../b.png") and not leaves("..b.png")
    assert [is_hidden(PurePosixPath(name)) for name in ("./a/b.jpg", "../a.jpg")] == [False] * 2
    assert [is_hidden(PurePosixPath(name)) for name in ("a/._b.jpg", ".c/b.jpg")] == [True] * 2
