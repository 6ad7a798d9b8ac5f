"""Components found, cut out, embedded and kept: against PIL and against the backbone itself."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from intarsia.components.text import TextParser
from intarsia.data.problems import Problems
from intarsia.data.records import Records
from intarsia.encode.component_pairs import (
    ComponentPairs,
    image_features,
    image_keys,
    image_rows,
    read_components,
    see_components,
    text_features,
    text_rows,
)
from intarsia.encode.components import Components, ComponentSpec
from intarsia.encode.store import Store
from intarsia.encode.towers import Towers
from intarsia.errors import DataError
from intarsia.evaluation.harness import encoded_pictures
from intarsia.identity import model_key
from intarsia.methods import Clip, ComAlign
from intarsia.model import Model
from intarsia.types import Embeddings, Record, Region

pytest.importorskip("spacy", reason="needs the extra 'text'")
CLOSE = {"atol": 2e-3, "rtol": 2e-3}  # kept in half precision
CAPTION = "A red circle above a blue square."
NAN = float("nan")


class Finder:
    """Components found and embedded, as training does it."""

    def __init__(self, backbone, spec, folder, *, compiled=False):
        self.backbone = backbone.eval()
        self.components = Components(spec, folder)
        self.store = Store(folder, backbone.fingerprint())
        self.towers = Towers(backbone, compiled=compiled)

    @property
    def images(self):
        return self.store["image_global"]

    @property
    def texts(self):
        return self.store["text_global"]

    def add_pictures(self, records, problems=None):
        given = Records.of(iter(records))
        problems = Problems() if problems is None else problems
        return see_components(self.components, given, self.towers, self.store, problems)

    def add_texts(self, texts):
        return read_components(self.components, texts, self.towers, self.store)

    def image_features(self, found, **options):
        rows = image_rows(self.store, self.backbone, self.components, found)
        return image_features(rows, torch.device("cpu"), **options)

    def text_features(self, found, **options):
        rows = text_rows(self.store, self.backbone, self.components, found)
        return text_features(rows, torch.device("cpu"), **options)

    def pairs(self, records, **options):
        return ComponentPairs(records, self.components, self.backbone, self.store, **options)


def pairs_of(model, records, **options):
    return ComponentPairs(
        records, model.components, model.backbone.eval(), Store(None, ""), **options
    )


@pytest.fixture(scope="module")
def parser():
    return TextParser()


@pytest.fixture(autouse=True)
def one_parser(parser, monkeypatch):
    """spaCy's model is loaded once for all tests."""
    monkeypatch.setattr("intarsia.encode.components.TextParser", lambda name: parser)


@pytest.fixture
def store(backbone):
    return Finder(backbone, ComponentSpec(), None)


@pytest.fixture
def photo() -> Record:
    """Noise of 200 x 120 pixels with three regions."""
    pixels = np.random.default_rng(0).integers(0, 256, (120, 200, 3), dtype=np.uint8)
    boxes = [(10.5, 20.2, 90.9, 110), (100, 0, 200, 60), (30, 30, 31.5, 119.7)]
    regions = [Region(box, score=s) for box, s in zip(boxes, (0.9, 0.5, 0.7), strict=True)]
    return Record("photo", pixels, (CAPTION, "grass"), tuple(regions))


@torch.inference_mode()
def of_pictures(backbone, pictures: list[Image.Image]) -> torch.Tensor:
    pixels = [torch.from_numpy(np.array(p)).permute(2, 0, 1) for p in pictures]
    return backbone.encode_image(torch.stack(pixels)).image_global


@torch.inference_mode()
def of_texts(backbone, texts: list[str]) -> torch.Tensor:
    return torch.cat([backbone.encode_text(backbone.tokenize([t])).text_global for t in texts])


class Counted:
    """The calls of a backbone's towers and a parser."""

    def __init__(self, monkeypatch, backbone):
        self.rows = dict.fromkeys(("image_states", "text_states"), 0)
        for name in self.rows:
            monkeypatch.setattr(backbone, name, self._counting(name, getattr(backbone, name)))

    def _counting(self, name, call):
        def counted(batch, **options):
            self.rows[name] += len(batch)
            return call(batch, **options)

        return counted


def test_crops_are_those_of_pil(backbone, store, photo):
    """The best region first; a crop holds every pixel that its box touches, and is squashed."""
    (parts,) = store.add_pictures([photo])
    picture, size = Image.fromarray(photo.image), (112, 112)
    touched = [(10, 20, 91, 110), (30, 30, 32, 120), (100, 0, 200, 60)]
    hulls = [(10, 20, 91, 120), (10, 0, 200, 110), (30, 0, 200, 120)]
    assert [r.score for r in parts.regions] == [0.9, 0.7, 0.5] and parts.size == (200, 120)
    assert parts.pairs == [(0, 1), (0, 2), (1, 2)]
    for name, boxes in (("entities", touched), ("relations", hulls)):
        crops = [picture.crop(box).resize(size, Image.Resampling.BICUBIC) for box in boxes]
        found = next(store.image_features([parts], roles=False, batch_size=1)).image_parts
        vectors = getattr(found, name)
        torch.testing.assert_close(vectors[0, :3], of_pictures(backbone, crops), **CLOSE)
    assert found.entity_mask.tolist() == found.relation_mask.tolist() == [[True] * 3 + [False] * 7]


def test_the_whole_picture_is_what_the_backbone_sees(backbone, photo):
    """So that ComAlign's base is the base; a wide picture is cropped, not squashed."""
    backbone.transform = replace(backbone.transform, resize=128)
    ours = Model(backbone, ComAlign(backbone.dims), freeze="backbone")
    base = Model(backbone, Clip(backbone.dims))
    sources = [photo.image, Image.fromarray(photo.image)]
    for image in sources:
        found, expected = ours.encode_images([image])["base"], base.encode_images([image])["global"]
        torch.testing.assert_close(found, expected, **CLOSE)
    texts = [CAPTION, "grass"]
    found, expected = ours.encode_texts(texts)["base"], base.encode_texts(texts)["global"]
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.fixture
def half_broken(records) -> list[Record]:
    """A picture that cannot be read between four that can."""
    some = [replace(r, captions=r.captions[:2]) for r in records[:5]]
    return [replace(r, image=b"broken") if i == 1 else r for i, r in enumerate(some)]


def test_pairs_hold_what_the_backbone_gives_for_each_crop_and_phrase(backbone, half_broken):
    problems = Problems(0.5)
    spec = ComponentSpec(num_entities=4, num_relations=3)
    store = Finder(backbone, spec, None)
    pairs = store.pairs(half_broken, roles=True, problems=problems)
    assert len(pairs) == 8 and [p.source for p in problems] == [half_broken[1].id]
    batch = pairs[[7, 2, 0]]
    assert batch.pictures.tolist() == [4, 2, 0]
    for row, (number, caption) in enumerate([(4, 1), (2, 0), (0, 0)]):
        record, x = half_broken[number], batch.features.rows(slice(row, row + 1))
        assert_image(backbone, record, x)
        assert_text(backbone, store, record.captions[caption], x)


def assert_image(backbone, record, x):
    picture, parts = Image.fromarray(record.image), x.image_parts
    boxes = [tuple(map(int, r.box)) for r in record.regions][:4]
    crops = [picture.crop(box).resize((112, 112), Image.Resampling.BICUBIC) for box in boxes]
    vectors = of_pictures(backbone, [picture, *crops])
    torch.testing.assert_close(x.image_global, vectors[:1], **CLOSE)
    torch.testing.assert_close(parts.entities[parts.entity_mask], vectors[1:], **CLOSE)
    pairs = [(i, j) for i in range(len(boxes)) for j in range(i + 1, len(boxes))][:3]
    ends = vectors[1:][torch.tensor(pairs)]
    torch.testing.assert_close(parts.parts[parts.relation_mask], ends, **CLOSE)
    where = torch.tensor(boxes)[torch.tensor(pairs)] / 112
    torch.testing.assert_close(parts.boxes[parts.relation_mask], where)


def assert_text(backbone, store, caption, x):
    (found,) = store.add_texts([caption])
    parts, known = x.text_parts, [found.text, *found.entities, *found.relations]
    split = 1 + len(found.entities)
    vectors = of_texts(backbone, known)
    torch.testing.assert_close(x.text_global, vectors[:1], **CLOSE)
    torch.testing.assert_close(parts.entities[parts.entity_mask], vectors[1:split], **CLOSE)
    torch.testing.assert_close(parts.relations[parts.relation_mask], vectors[split:], **CLOSE)
    triplets = [text for triplet in found.triplets for text in triplet]
    if triplets:
        ends = of_texts(backbone, triplets).view(-1, 3, 128)
        torch.testing.assert_close(parts.parts[parts.relation_mask], ends, **CLOSE)
    for vectors, mask in ((parts.entities, parts.entity_mask), (parts.parts, parts.relation_mask)):
        assert vectors[~mask].abs().sum() == 0


@pytest.mark.parametrize("directed", [False, True])
def test_live_embeddings_equal_those_of_training(backbone, half_broken, directed):
    torch.manual_seed(0)
    method = ComAlign(backbone.dims, directed=directed)
    model = Model(backbone, method, freeze="backbone").eval()
    pairs = pairs_of(model, half_broken, roles=directed, problems=Problems(0.5))
    with torch.inference_mode():
        trained = model.embed(pairs[list(range(8))])
    good = [half_broken[i] for i in (0, 2, 3, 4) for _ in range(2)]
    fresh = Model(backbone, method, freeze="backbone")
    image = fresh.encode_images([r.image for r in good], regions=[r.regions for r in good])
    text = fresh.encode_texts([c for r in good[::2] for c in r.captions], batch_size=3)
    for side, expected in zip((image, text), trained, strict=True):
        for name, vectors in side.groups.items():
            torch.testing.assert_close(vectors, expected[name], atol=1e-2, rtol=1e-2)
        assert all(torch.equal(side.masks[n], expected.masks[n]) for n in expected.masks)


def test_dropout_of_the_projections_stays_out_of_the_table(backbone, records):
    """A backbone built with dropout is in training mode until somebody says otherwise."""
    backbone.model.visual_projection = torch.nn.Sequential(
        torch.nn.Dropout(0.5), backbone.model.visual_projection
    )
    model = Model(backbone.train(), ComAlign(backbone.dims), freeze="backbone")
    some = records[:2]
    found = pairs_of(model, some, roles=False)[[0, 4]].features.image_global
    expected = of_pictures(backbone.eval(), [Image.fromarray(r.image) for r in some])
    torch.testing.assert_close(found, expected, **CLOSE)


def test_what_was_done_is_not_done_again(backbone, records, tmp_path, monkeypatch):
    counted = Counted(monkeypatch, backbone)
    some, texts = records[:3], [c for r in records[:3] for c in r.captions]
    first = Finder(backbone, ComponentSpec(), tmp_path)
    parts, phrases = first.add_pictures(some), first.add_texts(texts)
    needed = {key for p in parts for key in image_keys(p)}
    assert counted.rows == {"image_states": len(needed), "text_states": len(first.texts)}
    first.store.close()
    again = Finder(backbone, ComponentSpec(), tmp_path)
    monkeypatch.setattr(again.components, "parser", None)
    assert again.add_pictures(some) == parts and again.add_texts(texts) == phrases
    assert counted.rows == {"image_states": len(needed), "text_states": len(first.texts)}


def test_a_stopped_extraction_goes_on_where_it_was(backbone, records, tmp_path, monkeypatch):
    monkeypatch.setattr("intarsia.encode.extract.VIEWS_AT_ONCE", 8)
    look, calls = backbone.image_states, iter(range(100))

    def stops(batch, **options):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return look(batch, **options)

    with monkeypatch.context() as patch:
        patch.setattr(backbone, "image_states", stops)
        with pytest.raises(KeyboardInterrupt):
            Finder(backbone, ComponentSpec(), tmp_path).add_pictures(records[:3])
    counted = Counted(monkeypatch, backbone)
    store = Finder(backbone, ComponentSpec(), tmp_path)
    done = len(store.images)
    store.add_pictures(records[:3])
    assert 0 < done and counted.rows["image_states"] == len(store.images) - done > 0


def test_more_components_need_only_the_new_crops(backbone, photo, tmp_path, monkeypatch):
    few = Finder(backbone, ComponentSpec(num_entities=2, num_relations=1), tmp_path)
    few.add_pictures([photo])
    few.store.close()
    counted = Counted(monkeypatch, backbone)
    Finder(backbone, ComponentSpec(), tmp_path).add_pictures([photo])
    assert counted.rows["image_states"] == 1 + 2


def test_a_picture_is_known_by_its_content(store, photo, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(photo.image).save(path)
    sources = [path.read_bytes(), path.read_bytes(), path]
    first, second, file = store.add_pictures(
        [replace(photo, image=s, id=str(i)) for i, s in enumerate(sources)]
    )
    assert first == second and file.key != first.key
    assert store.add_pictures([photo])[0].key != first.key  # pixels are not their file


class Detector:
    def __init__(self):
        self.seen = 0

    def __call__(self, images, texts=None):
        self.seen += len(images)
        return [[Region((0.0, 0.0, 50.0, i + 20.0), "cat", 0.5)] for i, _ in enumerate(images)]

    def fingerprint(self):
        return "d"


def test_detections_are_kept(backbone, records, tmp_path, monkeypatch):
    detector = Detector()
    monkeypatch.setattr(
        "intarsia.encode.components.load_detector", lambda spec, **options: detector
    )
    spec = ComponentSpec(detector="onnx:any")
    first = Finder(backbone, spec, tmp_path).add_pictures(records[:3])
    assert detector.seen == 3
    again = Finder(backbone, spec, tmp_path).add_pictures(records[:4])
    assert again[:3] == first and detector.seen == 4
    assert first[1].regions == [Region((0.0, 0.0, 50.0, 21.0), "cat", 0.5)]


@pytest.mark.parametrize(
    ("caption", "has_entities"),
    [
        ("running quickly", False),
        ("!!! ... ?", False),
        ("", False),
        ("a 🐶 on a 🛹", None),
        ("a dog and a cat " * 250, True),
    ],
    ids=["no noun", "punctuation", "empty", "emoji", "4000 characters"],
)
def test_odd_captions(backbone, records, caption, has_entities):
    method = ComAlign(backbone.dims, directed=True)
    model = Model(backbone, method, freeze="backbone")
    (found,) = model.components.of_texts([caption])
    if has_entities is not None:
        assert bool(found.entities) is has_entities
    text = model.encode_texts([caption])
    image = model.encode_images([records[0].image], regions=[records[0].regions])
    assert all(v.isfinite().all() for v in text.groups.values())
    assert all(s.isfinite().all() for s in model.similarity(image, text))


def test_captions_in_other_languages_are_counted_each_time(tmp_path, caplog):
    captions = ["ein Hund läuft über die Wiese", "a dog on a mat", "собака бежит"]
    for _ in ("parsed", "read from the folder"):
        components, problems = Components(ComponentSpec(), tmp_path), Problems()
        found = components.of_texts(captions, problems)
        assert [parts.relations for parts in found] == [[], ["dog on mat"], []]
        assert "2 skipped: caption that is not English" in problems.summary()
        assert len(problems) == 0 and not caplog.messages
    components.of_texts(captions)
    assert caplog.messages == ["2 of 3 captions are not English and have no components"]


@pytest.mark.parametrize(
    ("boxes", "num_found", "num_bad"),
    [
        ([], 1, 0),  # the whole picture
        ([(i / 10, i / 10, 60 + i / 10, 60 + i / 10) for i in range(500)], 10, 0),
        ([(300, 0, 400, 50), (50, 50, 50, 90), (NAN, 0, 5, 5), (10, 10, 60, 60)], 1, 3),
        ([(-50, -50, 500, 500)], 1, 0),
    ],
    ids=["none", "500", "outside, no area, nan", "too large"],
)
def test_odd_regions(store, photo, boxes, num_found, num_bad):
    problems = Problems()
    record = replace(photo, regions=tuple(map(Region, boxes)))
    (parts,) = store.add_pictures([record], problems)
    assert len(parts.entities) == num_found and len(problems) == num_bad
    assert len(parts.relations) == (10 if num_found == 10 else 0)
    (x,) = store.image_features([parts], roles=True, batch_size=1)
    assert int(x.image_parts.entity_mask.sum()) == num_found
    assert x.image_parts.boxes.min() >= 0 and x.image_parts.boxes.max() <= 1


def test_no_components_at_all(backbone, records):
    """ComAlign without relations, and a picture without its frame as an entity."""
    spec = ComponentSpec(num_relations=0, whole_image=False)
    model = Model(backbone, ComAlign(backbone.dims), freeze="backbone", components=spec)
    image, text = model.encode_images([records[0].image]), model.encode_texts([CAPTION])
    assert not image.masks["entity"].any()
    i2t, t2i = model.similarity(image, text)
    torch.testing.assert_close(i2t, t2i)  # only the two global terms are left


def test_batches_do_not_change_features(store, half_broken):
    found = store.add_texts([c for r in half_broken for c in r.captions])
    whole = next(store.text_features(found, roles=True, batch_size=100))
    parts = list(store.text_features(found, roles=True, batch_size=3))
    for name in ("entities", "relations", "parts"):
        joined = torch.cat([getattr(x.text_parts, name) for x in parts])
        torch.testing.assert_close(joined, getattr(whole.text_parts, name))


def test_unreadable_pictures(store, records):
    bad = [replace(records[0], image=b""), records[1]]
    problems = Problems(0.5)
    assert [p is None for p in store.add_pictures(bad, problems)] == [True, False]
    with pytest.raises(DataError, match="1 of 2 records are bad"):
        store.add_pictures(bad, Problems())
    with pytest.raises(DataError, match="no readable picture with a caption"):
        store.pairs(bad[:1], roles=False, problems=Problems(1.0))


def test_a_changed_backbone_has_a_store_of_its_own(backbone, records, tmp_path):
    Finder(backbone, ComponentSpec(), tmp_path).add_pictures(records[:1])
    with torch.no_grad():
        next(backbone.towers()[0].parameters()).add_(1)
    assert len(Finder(backbone, ComponentSpec(), tmp_path).images) == 0


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler here")
def test_a_compiled_tower_gives_the_same_vectors(backbone, photo):
    plain = Finder(backbone, ComponentSpec(), None)
    fast = Finder(backbone, ComponentSpec(), None, compiled=True)
    assert plain.add_pictures([photo]) == fast.add_pictures([photo])
    assert len(plain.images) == len(fast.images) == 7
    (parts,) = plain.add_pictures([photo])
    keys = image_keys(parts)
    found, expected = (x.images.read(x.images.find(keys)) for x in (fast, plain))
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)


def test_boxes_of_a_file_go_by_the_records_of_the_pictures(records, backbone, tmp_path):
    """In evaluation, and wherever a picture comes without a record, by its file's name alone."""
    boxes = tmp_path / "boxes.json"
    three = [(i, records[i]) for i in (5, 6, 7)]
    paths = []
    for i, record in three:
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(record.image).save(paths[-1])
    told = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [n, 2, 20, 25]}
        for n in (0, 1, 2, 5, 6, 7)
    ]
    images = [{"id": n, "file_name": f"{n}.png"} for n in (0, 1, 2, 5, 6, 7)]
    content = {"images": images, "annotations": told, "categories": [{"id": 1, "name": "thing"}]}
    boxes.write_text(json.dumps(content))
    spec = ComponentSpec(detector=f"file:{boxes}")
    model = Model(backbone, ComAlign(backbone.dims), freeze="backbone", components=spec).eval()
    mine = [Record(str(i), path, ("a",)) for (i, _), path in zip(three, paths, strict=True)]
    seen = model.components.of_pictures(Records.of(mine))
    assert [parts.regions[0].box[0] for parts in seen] == [5, 6, 7]
    of_records = Embeddings.concatenate(list(model.record_batches(mine)))
    by_name = model.encode_images(paths)
    _, evaluated = encoded_pictures(model, mine, Problems(), lambda record: True, "a picture")
    for name, vectors in of_records.groups.items():
        torch.testing.assert_close(by_name[name], vectors)
        torch.testing.assert_close(evaluated[name], vectors)
    key = model_key(model)
    boxes.write_text(json.dumps(content | {"annotations": told[::-1]}))
    again = Model(backbone, ComAlign(backbone.dims), freeze="backbone", components=spec)
    again.load_state_dict(model.state_dict())
    assert model_key(again) != key
