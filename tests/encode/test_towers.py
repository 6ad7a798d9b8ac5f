"""Towers take pictures in parts as large as the device can."""

import logging

import numpy as np
import pytest
import torch

from intarsia.encode.towers import Towers

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture
def pixels():
    """21 pictures: more than two parts on a CPU."""
    noise = np.random.default_rng(0).integers(0, 256, (21, 3, 112, 112), dtype=np.uint8)
    return torch.from_numpy(noise)


def limit(monkeypatch, backbone, most=3):
    """A device whose memory holds so many pictures; returns the sizes that it is asked for."""
    states, asked = backbone.image_states, []

    def within_memory(pixels, **options):
        asked.append(len(pixels))
        if len(pixels) > most:
            raise torch.OutOfMemoryError("out of memory")
        return states(pixels, **options)

    monkeypatch.setattr(backbone, "image_states", within_memory)
    return asked


@torch.no_grad()
def expected(backbone, pixels, dense):
    return backbone.image_states(pixels, dense=dense)


@pytest.mark.parametrize("dense", [None, "value", "plain"])
def test_pictures_in_parts_are_as_all_at_once(backbone, pixels, dense):
    towers, whole = Towers(backbone.eval()), expected(backbone, pixels, dense)
    for number in (1, 8, 9, 21):
        found = towers.images(pixels[:number], dense=dense)
        torch.testing.assert_close(found.image_global, whole.image_global[:number], **CLOSE)
        if dense is None:
            assert found.image_patches is None
        else:
            assert found.image_patches.shape == (number, 49, whole.image_patches.shape[2])
            torch.testing.assert_close(found.image_patches, whole.image_patches[:number], **CLOSE)
        assert not found.image_global.requires_grad and not found.image_global.is_inference()


@pytest.mark.parametrize("dense", [None, "value"])
def test_out_of_memory_halves_the_parts_for_good(backbone, pixels, dense, monkeypatch, caplog):
    whole = expected(backbone.eval(), pixels, dense)
    asked, towers = limit(monkeypatch, backbone), Towers(backbone)
    with caplog.at_level(logging.WARNING, "intarsia"):
        found = towers.images(pixels, dense=dense)
    torch.testing.assert_close(found.image_global, whole.image_global, **CLOSE)
    if dense:
        torch.testing.assert_close(found.image_patches, whole.image_patches, **CLOSE)
    assert asked == [8, 4, *[2] * 10, 1] and towers.at_once == 2
    told = [record.getMessage() for record in caplog.records]
    assert told == [f"out of memory: {n} pictures at a time from now on" for n in (4, 2)]
    asked.clear()
    again = towers.images(pixels[:5], dense=dense)
    assert asked == [2, 2, 1]
    torch.testing.assert_close(again.image_global, whole.image_global[:5], **CLOSE)


def test_memory_that_runs_out_in_a_later_part_loses_and_doubles_nothing(
    backbone, pixels, monkeypatch
):
    whole = expected(backbone.eval(), pixels, None)
    states, calls = backbone.image_states, iter(range(100))

    def once(pixels, **options):
        if next(calls) == 2:
            raise torch.OutOfMemoryError("out of memory")
        return states(pixels, **options)

    monkeypatch.setattr(backbone, "image_states", once)
    towers = Towers(backbone)
    found = towers.images(pixels).image_global
    torch.testing.assert_close(found, whole.image_global, **CLOSE)
    assert towers.at_once == 4


def test_where_not_even_one_picture_fits_the_error_is_told(backbone, pixels, monkeypatch):
    asked = limit(monkeypatch, backbone, most=0)
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        Towers(backbone).images(pixels)
    assert asked == [8, 4, 2, 1]


def test_other_errors_are_not_tried_again(backbone, pixels, monkeypatch):
    asked = []

    def broken(pixels, **options):
        asked.append(len(pixels))
        raise RuntimeError("a broken kernel")

    monkeypatch.setattr(backbone, "image_states", broken)
    with pytest.raises(RuntimeError, match="a broken kernel"):
        Towers(backbone).images(pixels)
    assert asked == [8]


def test_texts_are_those_of_the_backbone(backbone):
    texts = ["a red circle", "a ring above two blue squares"]
    states, tokens = Towers(backbone.eval()).texts(texts)
    with torch.no_grad():
        whole = backbone.text_states(backbone.tokenize(texts))
    assert torch.equal(tokens.ids, backbone.tokenize(texts).ids)
    torch.testing.assert_close(states.text_global, whole.text_global, **CLOSE)
    assert torch.equal(states.text_mask, tokens.mask) and not states.text_global.requires_grad
