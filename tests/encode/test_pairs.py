from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader

from intarsia.data.problems import Problems
from intarsia.encode import pairs as pairs_module
from intarsia.encode.cached import CachedPairs
from intarsia.encode.pairs import LivePairs
from intarsia.encode.store import Store
from intarsia.errors import DataError
from intarsia.types import Record


def test_pairs_are_every_caption_with_its_picture(backbone, records):
    pairs = LivePairs(records, backbone)
    assert len(pairs) == 4 * len(records)
    batch = pairs[[0, 5, 191]]
    assert batch.pictures.tolist() == [0, 1, 47]
    assert torch.equal(batch.pixels[1], torch.from_numpy(records[1].image).permute(2, 0, 1))
    expected = backbone.tokenize([records[1].captions[1]])
    mask = batch.tokens.mask[1]
    assert torch.equal(batch.tokens.ids[1][mask], expected.ids[0][expected.mask[0]])
    assert pairs.record_id(5) == records[1].id


@pytest.fixture(params=[0, 2**32], ids=["at every visit", "in memory"])
def in_memory(request, monkeypatch):
    monkeypatch.setattr(pairs_module, "IN_MEMORY_BYTES", request.param)
    return bool(request.param)


def test_both_ways_of_reading_give_the_same_batches(backbone, records, in_memory):
    pairs = LivePairs(records[:4], backbone)
    assert (pairs.pixels is not None) is in_memory
    expected = torch.stack([torch.from_numpy(records[i].image).permute(2, 0, 1) for i in (3, 0)])
    assert torch.equal(pairs[[12, 1]].pixels, expected)


def test_unreadable_pictures_never_end_an_epoch(backbone, broken, in_memory):
    problems = Problems(0.1)
    pairs = LivePairs(broken, backbone, problems)
    if in_memory:
        assert len(pairs) == 46 * 4
        assert {p.source for p in problems} == {broken[5].id, broken[11].id}
    else:
        batch = pairs[[20, 24]]  # pictures 5 (broken) and 6
        assert batch.pictures.tolist() == [6, 6]
        assert {name for name, _ in batch.problems} == {broken[5].id}


def test_nothing_readable_or_nothing_to_say_is_an_error(backbone, records, monkeypatch):
    with pytest.raises(DataError, match="no caption"):
        LivePairs([Record("a", records[0].image, ())], backbone)
    monkeypatch.setattr(pairs_module, "IN_MEMORY_BYTES", 0)
    with pytest.raises(DataError, match="none of 1 pairs"):
        LivePairs([Record("a", b"", ("word",))], backbone)[[0]]


def test_workers_give_what_one_process_gives(backbone, records, monkeypatch):
    monkeypatch.setattr(pairs_module, "IN_MEMORY_BYTES", 0)
    pairs = LivePairs(records[:4], backbone)
    sampler = [[0, 3], [9, 15]]
    loader = DataLoader(
        pairs, sampler=sampler, batch_size=None, num_workers=1, multiprocessing_context="forkserver"
    )
    for batch, index in zip(loader, sampler, strict=True):
        assert torch.equal(batch.pixels, pairs[index].pixels)


def test_cached_states_equal_live_ones(backbone, records, tmp_path):
    backbone.eval()
    wanted = {"patches": "value", "tokens": True, "links": True, "phrases": True}
    cached = CachedPairs(records, backbone, Store(tmp_path, "b"), **wanted)
    live = LivePairs(records, backbone, links=True, phrases=True)
    index = [3, 100, 17]
    batch = live[index]
    with torch.inference_mode():
        image = backbone.image_states(batch.pixels, dense="value")
        text = backbone.text_states(batch.tokens)
    states = cached[index].states
    close = {"atol": 5e-3, "rtol": 5e-3}  # stored in half precision
    torch.testing.assert_close(states.image_global, image.image_global, **close)
    torch.testing.assert_close(states.image_patches, image.image_patches, **close)
    torch.testing.assert_close(states.text_global, text.text_global, **close)
    for row in range(3):
        torch.testing.assert_close(
            states.text_tokens[row][states.text_mask[row]],
            text.text_tokens[row][text.text_mask[row]],
            **close,
        )
    assert batch.links.mask.any()
    links, live_links = cached[index].links, batch.links
    assert torch.equal(links.boxes, live_links.boxes) and torch.equal(links.words, live_links.words)
    assert torch.equal(links.phrases.ids, live_links.phrases.ids)
    assert cached.record_id(100) == live.record_id(100) == records[25].id


def test_what_was_computed_is_not_computed_again(backbone, records, tmp_path, monkeypatch):
    wanted = {"patches": "value", "tokens": True}
    first = Store(tmp_path, "b")
    expected = CachedPairs(records, backbone.eval(), first, **wanted)[[3, 100]].states
    first.close()
    monkeypatch.setattr(backbone, "image_states", None)
    monkeypatch.setattr(backbone, "text_states", None)
    found = CachedPairs(records, backbone, Store(tmp_path, "b"), **wanted)[[3, 100]].states
    for name in ("image_global", "image_patches", "text_global", "text_tokens", "text_mask"):
        assert torch.equal(getattr(found, name), getattr(expected, name))


def test_unreadable_pictures_are_left_out_of_cached_pairs(backbone, broken, tmp_path):
    wanted = {"patches": None, "tokens": False}
    for _ in range(2):
        problems = Problems(0.1)
        store = Store(tmp_path, "b")
        pairs = CachedPairs(broken, backbone, store, **wanted, problems=problems)
        assert len(pairs) == 46 * 4
        assert {p.source for p in problems} == {broken[5].id, broken[11].id}
    with pytest.raises(DataError, match="of 48 records are bad"):
        CachedPairs(broken, backbone, store, **wanted, problems=Problems())


def test_both_kinds_of_patches_are_kept_apart(backbone, records, tmp_path):
    store = Store(tmp_path, "b")
    found = [
        CachedPairs(records[:4], backbone, store, patches=dense, tokens=False)[[0]]
        for dense in ("value", "plain")
    ]
    assert not torch.allclose(*(batch.states.image_patches for batch in found))


def test_a_batch_is_as_wide_as_its_longest_caption(backbone, records):
    pairs = LivePairs(records, backbone)
    captions = [caption for record in records for caption in record.captions]
    lengths = [len(caption) for caption in captions]
    index = sorted(range(len(captions)), key=lengths.__getitem__)[:3]
    tokens, alone = pairs[index].tokens, backbone.tokenize([captions[i] for i in index])
    for name in ("ids", "attention", "mask", "offsets"):
        assert torch.equal(getattr(tokens, name), getattr(alone, name))


def test_where_padding_was_trained_a_batch_keeps_it(backbone, records, monkeypatch):
    tokenize, width = backbone.tokenizer, backbone.dims.context

    def padded(texts):
        def pad(x):
            return torch.cat([x, x.new_zeros(len(x), width - x.shape[1], *x.shape[2:])], 1)

        return replace(tokenize(texts), cut=None).map(pad)

    monkeypatch.setattr(type(backbone), "tokenizer", property(lambda self: padded))
    assert LivePairs(records, backbone)[[0, 1]].tokens.ids.shape[1] == width
