"""What a store lacks is looked at once, by one or by several at the same time."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from intarsia.data.images import load_image
from intarsia.data.problems import Problems
from intarsia.data.records import Records
from intarsia.encode import extract as module
from intarsia.encode.extract import (
    ALONE,
    Crew,
    extract_images,
    extract_texts,
    patches_name,
    readable,
)
from intarsia.encode.store import Store
from intarsia.encode.towers import Towers
from intarsia.encode.views import WHOLE, View, key_of
from intarsia.errors import DataError

CLOSE = {"atol": 2e-3, "rtol": 2e-3}  # kept in half precision
VIEWS = [WHOLE, View((0, 0, 30, 20)), View((40, 50, 80, 60))]
TEXTS = ["a red circle", "", "a ring above two blue squares", "star", "a red circle", "!", "a"]


class Looking(Towers):
    """Towers that count what they are asked."""

    def __init__(self, backbone):
        super().__init__(backbone)
        self.num_images, self.texts_seen = 0, []

    def images(self, pixels, *, dense=None):
        self.num_images += len(pixels)
        return super().images(pixels, dense=dense)

    def texts(self, texts):
        self.texts_seen += texts
        return super().texts(texts)


class Work:
    """Some records with one to three views each, and what is to be read of them."""

    def __init__(self, records):
        self.records = Records.of(records)
        self.views = [VIEWS[: 1 + i % 3] for i in range(len(records))]
        pictures = self.records.picture_keys()
        self.keys = [
            [view.key(key) for view in views]
            for key, views in zip(pictures, self.views, strict=True)
        ]

    def images(self, towers, store, *, dense=None, crew=ALONE, problems=None):
        problems = Problems() if problems is None else problems
        problems.expect(len(self.records))
        extract_images(
            self.records,
            self.views,
            self.keys,
            towers,
            store,
            dense=dense,
            problems=problems,
            crew=crew,
        )


@pytest.fixture
def work(records, monkeypatch):
    """12 records in batches of about 4 views."""
    monkeypatch.setattr(module, "VIEWS_AT_ONCE", 4)
    return Work(records[:12])


@pytest.fixture
def towers(backbone):
    return Looking(backbone.eval())


def vectors(store, name, keys):
    return store[name].read(store[name].find(keys))


def flat(keys):
    return [key for some in keys for key in some]


def test_every_view_has_what_the_tower_gives_for_it(work, towers, backbone):
    store = Store(None, "")
    work.images(towers, store, dense="value")
    assert towers.num_images == len(flat(work.keys)) == 24
    pictures = [
        view.pixels(load_image(record.image), backbone.transform)
        for record, views in zip(work.records, work.views, strict=True)
        for view in views
    ]
    with torch.no_grad():
        expected = backbone.image_states(torch.stack(pictures), dense="value")
    found = vectors(store, "image_global", flat(work.keys))
    torch.testing.assert_close(found.float(), expected.image_global, **CLOSE)
    patches = vectors(store, patches_name("value"), flat(work.keys)).view(24, 49, -1)
    torch.testing.assert_close(patches.float(), expected.image_patches, atol=1e-2, rtol=2e-3)
    work.images(towers, store, dense="value")
    assert towers.num_images == 24


def test_only_what_is_missing_is_looked_at(work, towers, tmp_path):
    some = Work(list(work.records[:5]))
    some.images(towers, Store(tmp_path, "b"))
    assert towers.num_images == 9
    work.images(towers, Store(tmp_path, "b"))
    assert towers.num_images == 24
    store = Store(tmp_path, "b")
    work.images(towers, store, dense="plain")  # patches of all
    assert towers.num_images == 48
    assert len(store["image_global"]) == len(store[patches_name("plain")]) == 24
    work.images(towers, store, dense="value")
    assert towers.num_images == 72


def test_one_picture_in_several_records_is_looked_at_once(records, towers):
    work = Work([records[0], records[1], records[0]])
    work.views, store = [VIEWS] * 3, Store(None, "")
    work.keys = [[v.key(k) for v in VIEWS] for k in work.records.picture_keys()]
    work.images(towers, store)
    assert towers.num_images == len(store["image_global"]) == 6


def test_pictures_that_cannot_be_read_are_told_and_stay_out(broken, towers, monkeypatch):
    monkeypatch.setattr(module, "VIEWS_AT_ONCE", 4)
    work, store, problems = Work(broken[:12]), Store(None, ""), Problems(0.2)
    work.images(towers, store, problems=problems)
    assert [(p.source, p.field) for p in problems] == [(broken[i].id, "image") for i in (5, 11)]
    wholes = [keys[0] for keys in work.keys]
    assert readable(wholes, store).tolist() == [i not in (5, 11) for i in range(12)]
    assert len(store["image_global"]) == 24 - len(work.views[5]) - len(work.views[11])
    with pytest.raises(DataError, match="1 of 12 records are bad"):
        Work(broken[:12]).images(towers, Store(None, ""), problems=Problems())


def test_of_equal_pictures_that_cannot_be_read_each_is_told(records, towers):
    same = [replace(r, image=b"<html>403") for r in records[:3]]
    work, problems = Work([*same, *records[3:6]]), Problems(0.6)
    work.images(towers, Store(None, ""), problems=problems)
    assert [(p.source, p.field) for p in problems] == [(r.id, "image") for r in records[:3]]
    assert len({p.reason for p in problems}) == 1
    with pytest.raises(DataError, match="3 of 6 records are bad"):
        work.images(towers, Store(None, ""), problems=Problems(0.4))


def test_every_text_has_the_states_of_its_real_tokens(towers, backbone, monkeypatch):
    monkeypatch.setattr(module, "TEXTS_SORTED", 3)
    monkeypatch.setattr(module, "TEXTS_AT_ONCE", 2)
    store = Store(None, "")
    store["text_tokens"].add([key_of("b")], torch.zeros(1, 128))  # has a width by now
    extract_texts(TEXTS, towers, store, tokens=True)
    assert sorted(towers.texts_seen) == sorted(set(TEXTS))
    for text in TEXTS:
        tokens = backbone.tokenize([text])
        with torch.no_grad():
            expected = backbone.text_states(tokens)
        found = vectors(store, "text_global", [key_of(text)])
        torch.testing.assert_close(found.float(), expected.text_global, **CLOSE)
        real = expected.text_tokens[0][expected.text_mask[0]]
        (count,) = store["text_tokens"].find([key_of(text)])[:, 2].tolist()
        assert count == len(real) == int(tokens.mask.sum())
        if count:
            found = vectors(store, "text_tokens", [key_of(text)])
            torch.testing.assert_close(found.float(), real, **CLOSE)
    extract_texts(TEXTS, towers, store, tokens=True)
    assert len(towers.texts_seen) == 6


def test_tokens_that_are_asked_for_later_are_read_then(towers, tmp_path):
    store = Store(tmp_path, "b")
    extract_texts(TEXTS[:3], towers, store)
    before = vectors(store, "text_global", [key_of(text) for text in TEXTS[:3]])
    extract_texts(TEXTS[:4], towers, store, tokens=True)
    assert sorted(towers.texts_seen) == sorted(TEXTS[:3] + TEXTS[:4])
    assert len(store["text_global"]) == len(store["text_tokens"]) == 4
    assert torch.equal(vectors(store, "text_global", [key_of(text) for text in TEXTS[:3]]), before)


# ---- a crew -----------------------------------------------------------------------------------

FIELDS = ("image_global", patches_name("value"), "text_global", "text_tokens")


def together(folder, backbone, work, before):
    """Two with a model and a store of their own, as two processes have them.

    ``before`` is called by each, with its number and its store, before pictures and before texts.
    """
    barrier = threading.Barrier(2, timeout=60)
    crew = [Looking(copy.deepcopy(backbone)) for _ in range(2)]
    stores = [Store(folder, "b") for _ in crew]
    told = [[], []]

    def run(rank):
        def gather(own):
            told[rank] = own
            barrier.wait()
            found = list(told)
            barrier.wait()
            return found

        towers, store, share = crew[rank], stores[rank], Crew(rank, 2, gather)
        try:
            before(rank, store, "pictures")
            work.images(towers, store, dense="value", crew=share)
            before(rank, store, "texts")
            extract_texts(TEXTS, towers, store, tokens=True, crew=share)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, range(2)))
    return crew, stores


def test_two_share_the_work_and_each_has_all_of_it(work, backbone, tmp_path):
    ready = threading.Barrier(2, timeout=60)

    def before(rank, store, what):
        """Both begin with the same."""
        assert [len(store[name]) for name in FIELDS] == [24 * (what == "texts")] * 2 + [0] * 2
        ready.wait()

    crew, stores = together(tmp_path, backbone.eval(), work, before)
    images, texts = ([x.num_images for x in crew], [x.texts_seen for x in crew])
    assert sum(images) == 24 and min(images) > 0
    assert sorted(texts[0] + texts[1]) == sorted(set(TEXTS)) and all(texts)
    alone, towers = Store(None, ""), Towers(backbone)
    alone["text_tokens"].add([key_of("b")], torch.zeros(1, 128))
    work.images(towers, alone, dense="value")
    extract_texts(TEXTS, towers, alone, tokens=True)
    for store in stores:
        store.close()
    for store in (*stores, Store(tmp_path, "b")):
        for name in FIELDS:
            keys = flat(work.keys) if name.startswith("image") else list(map(key_of, set(TEXTS)))
            found, expected = store[name].find(keys), alone[name].find(keys)
            assert np.array_equal(found[:, 2], expected[:, 2])
            assert len(store[name]) == len(set(keys))
            rows = store[name].read(found), alone[name].read(expected)
            torch.testing.assert_close(*rows, atol=1e-2, rtol=2e-3)


@pytest.mark.parametrize(("late", "field"), [("pictures", FIELDS[1]), ("texts", FIELDS[3])])
def test_one_that_begins_late_leaves_nothing_out(work, backbone, tmp_path, late, field):
    """The other has added some by then, unless it waits."""
    begun = threading.Event()

    def before(rank, store, what):
        if what == late and rank == 0:
            begun.wait(5)
            store.refresh()
        elif what == late:
            add = store[field].add
            store[field].add = lambda *some: (add(*some), begun.set())

    _, (store, _) = together(tmp_path, backbone.eval(), work, before)
    assert readable(flat(work.keys), store).all()
    assert all(key_of(text) in store["text_tokens"] for text in TEXTS)
