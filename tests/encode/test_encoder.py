"""What a model answers: every method over every kind of backbone, and every kind of input."""

import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import intarsia.methods
from intarsia.components.text import TextParser
from intarsia.errors import ConfigError, CutTextWarning, DataError
from intarsia.model import Model, ModelSpec, load_model
from intarsia.types import Embeddings, Region

METHODS = [name for name in intarsia.methods.__all__ if name != "Method"]
TEXTS = ["a red circle above a blue square", "two green stars", "a ring"]
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
HALF = {"atol": 1e-3, "rtol": 1e-3}  # states of components are kept in half precision


@pytest.fixture(scope="module")
def parser():
    pytest.importorskip("spacy", reason="needs the extra 'text'")
    return TextParser()


@pytest.fixture(autouse=True)
def one_parser(parser, monkeypatch):
    """spaCy's model is loaded once for all tests."""
    monkeypatch.setattr("intarsia.encode.components.TextParser", lambda name: parser)


def built(method: str, spec: str = "scenes-clip", **more: object) -> Model:
    freeze = "backbone" if method == "ComAlign" else "none"
    path = {"class_path": f"intarsia.methods.{method}"}
    return ModelSpec({"spec": spec}, path, freeze=freeze, **more).build(1).eval()


@pytest.fixture(params=METHODS)
def model(request) -> Model:
    return built(request.param)


@pytest.fixture
def clip() -> Model:
    return built("Clip")


def pixels(width: int = 112, height: int = 112, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def images() -> list[np.ndarray]:
    return [pixels(112, 120, 0), pixels(90, 70, 1), pixels(200, 100, 2)]


def assert_same(a: Embeddings, b: Embeddings, **tolerance: float) -> None:
    assert a.groups.keys() == b.groups.keys()
    for name, vectors in a.groups.items():
        torch.testing.assert_close(vectors, b.groups[name], **(tolerance or CLOSE))
        assert (name in a.masks) == (name in b.masks)


# ---- one or many ------------------------------------------------------------------------------


def forms(array: np.ndarray, folder) -> dict[str, object]:
    """One picture in every form in which it may be given."""
    path = folder / "picture.png"
    Image.fromarray(array).save(path)
    tensor = torch.from_numpy(array)
    return {
        "str": str(path),
        "Path": path,
        "bytes": path.read_bytes(),
        "PIL": Image.fromarray(array),
        "array": array,
        "HWC": tensor,
        "CHW": tensor.permute(2, 0, 1),
    }


def test_a_picture_is_the_same_in_every_form(clip, tmp_path):
    given = forms(pixels(90, 70), tmp_path)
    expected = clip.encode_images([given["array"]])
    assert expected["global"].shape == (1, 128)
    for image in given.values():
        assert_same(clip.encode_images(image), expected)
        assert_same(clip.encode_images([image]), expected)
    assert_same(clip.encode_images(iter(given.values())).rows(slice(6, 7)), expected)
    assert len(clip.encode_images(image for image in given.values())) == len(given)
    assert len(clip.image_features(given["PIL"]).image_global) == 1


def test_arrays_and_tensors_of_many_pictures(clip):
    many = np.stack([pixels(seed=seed) for seed in range(3)])
    expected = clip.encode_images(list(many))
    for given in (many, torch.from_numpy(many), torch.from_numpy(many).permute(0, 3, 1, 2)):
        assert_same(clip.encode_images(given), expected)


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (torch.zeros(3, 8, 3, dtype=torch.uint8), r"could be \(3, H, W\) or \(H, W, 3\)"),
        (torch.zeros(3, 8, 8), r"torch.float32 \(3, 8, 8\), must be torch.uint8"),
        (torch.zeros(8, 8, dtype=torch.uint8), r"\(8, 8\), must be"),
        (torch.zeros(1, 8, 8, dtype=torch.uint8), r"\(1, 8, 8\), must be"),
        (np.zeros((8, 8), np.uint8), r"uint8 \(8, 8\), must be"),
        (5, "int 5 is no picture"),
        ([None], "NoneType None is no picture"),
        ([[pixels()]], "list .* is no picture"),
        ("nowhere.png", "nowhere.png: no such file"),
    ],
)
def test_what_is_no_picture_is_named(clip, image, told):
    with pytest.raises(DataError, match=told):
        clip.encode_images(image)


def test_texts_are_one_or_many(model):
    expected = model.encode_texts(TEXTS)
    assert_same(model.encode_texts(text for text in TEXTS), expected)
    one = model.encode_texts(TEXTS[2])
    assert len(one) == 1 and len(model.text_features("a ring").text_global) == 1
    image = model.encode_images(pixels())
    scores = [torch.cat(model.similarity(image, text)) for text in (one, expected)]
    torch.testing.assert_close(scores[0], scores[1][:, 2:], **CLOSE)
    maps = model.patch_maps(pixels(), "dog")
    assert maps.shape == (1, 7, 7)
    torch.testing.assert_close(maps, model.patch_maps(pixels(), ["dog", "a ring"])[:1], **CLOSE)
    with pytest.raises(DataError, match="a text is a str, not int 3"):
        model.encode_texts(["a", 3])


def test_nothing_gives_no_rows(model):
    image, text = model.encode_images([]), model.encode_texts([])
    some = model.encode_images(pixels()), model.encode_texts("a ring")
    for empty, one in zip((image, text), some, strict=True):
        assert len(empty) == 0
        assert empty.groups.keys() == one.groups.keys() and empty.masks.keys() == one.masks.keys()
        for name, vectors in empty.groups.items():
            assert vectors.shape[-1] == one[name].shape[-1] and vectors.ndim == one[name].ndim
    for rows, left in ((0, image), (1, some[0])):
        for columns, right in ((0, text), (1, some[1])):
            scores = model.similarity(left, right)
            assert all(found.shape == (rows, columns) for found in scores)
    assert model.patch_maps(pixels(), []).shape == (0, 7, 7)
    assert model.image_features([]).image_global.shape == (0, 128)
    assert model.text_features([]).text_global.shape == (0, 128)


@pytest.mark.parametrize("size", [0, -2])
def test_a_batch_holds_something(clip, size):
    for ask in (clip.encode_images, clip.encode_texts):
        with pytest.raises(ConfigError, match=f"batch_size is {size}"):
            ask([], batch_size=size)


# ---- what comes out ---------------------------------------------------------------------------


def test_answers_are_ordinary_tensors(model):
    """A probe can be trained on them, which inference tensors forbid."""
    image, text = model.encode_images(pixels()), model.encode_texts(TEXTS)
    answers = [*image.groups.values(), *text.groups.values(), *model.similarity(image, text)]
    answers += [model.patch_maps(pixels(), TEXTS), model.alignment(pixels(), TEXTS[0])]
    answers += [model.image_features(pixels()).image_global, model.text_features(TEXTS).text_global]
    for answer in answers:
        assert not answer.is_inference() and not answer.requires_grad
        weight = torch.ones(answer.shape[-1], requires_grad=True)
        (answer.float() * weight).sum().backward()
        torch.testing.assert_close(weight.grad, answer.float().reshape(-1, len(weight)).sum(0))


def test_similarity_has_a_gradient(clip):
    image = clip.encode_images(pixels())
    vectors = image["global"].requires_grad_()
    text = clip.encode_texts(TEXTS)
    clip.similarity(image, text)[0].sum().backward()
    torch.testing.assert_close(vectors.grad[0], text["global"].sum(0))


@pytest.mark.parametrize("training", [True, False])
def test_the_modes_of_a_model_are_left_as_they_were(model, training):
    model.train(training)
    model.method.eval()
    before = {name: module.training for name, module in model.named_modules()}
    answers = model.encode_images(pixels()), model.encode_texts(TEXTS)
    with pytest.raises(DataError):
        model.encode_images("nowhere.png")
    model.patch_maps(pixels(), TEXTS), model.alignment(pixels(), TEXTS[0])
    assert {name: module.training for name, module in model.named_modules()} == before
    model.eval()
    assert_same(answers[0], model.encode_images(pixels()))
    assert_same(answers[1], model.encode_texts(TEXTS))


def test_threads_share_a_model(model, images):
    """Also one that is in training mode, whose dropout nobody may meet."""
    model.train()
    expected = model.encode_images(images), model.encode_texts(TEXTS)

    def ask(number: int) -> Embeddings:
        side = number % 2
        return (model.encode_images, model.encode_texts)[side]((images, TEXTS)[side])

    with ThreadPoolExecutor(4) as pool:
        for number, found in enumerate(pool.map(ask, range(16))):
            assert_same(found, expected[number % 2])
    assert model.training


def test_a_model_can_be_pickled(model, images):
    expected = model.encode_images(images), model.encode_texts(TEXTS)
    again = pickle.loads(pickle.dumps(model))
    assert_same(again.encode_images(images), expected[0])
    assert_same(again.encode_texts(TEXTS), expected[1])


def test_random_numbers_and_threads_are_left_alone(model):
    torch.set_num_threads(2)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    model.similarity(model.encode_images(pixels()), model.encode_texts(TEXTS))
    assert torch.get_num_threads() == 2
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()


# ---- what is left out is told -----------------------------------------------------------------


@pytest.mark.parametrize("method", ["Clip", "ComAlign"])
def test_texts_that_were_cut_are_counted(method):
    model = built(method)
    fits, cut = " ".join(["red"] * 30), " ".join(["red"] * 31)  # 32 tokens with start and end
    with pytest.warns(CutTextWarning, match="2 of 4 texts are longer than the 32 tokens") as told:
        text = model.encode_texts([fits, cut, "red", cut + " circle"], batch_size=2)
    assert len(told) == 1
    assert text.cut.tolist() == [False, True, False, True]
    assert text.rows(torch.tensor([1, 2])).cut.tolist() == [True, False]
    for ask in (model.text_features, lambda texts: model.patch_maps(pixels(), texts)):
        with pytest.warns(CutTextWarning, match="1 of 1 texts"):
            ask(cut)


def test_nothing_is_said_where_nothing_was_cut(model, recwarn):
    assert not model.encode_texts(TEXTS).cut.any()
    assert not [w for w in recwarn if w.category is CutTextWarning]


def test_a_map_says_what_it_covers():
    """Two pictures that differ only where the transform cuts: a whole map sees it."""
    model = built("Filip", "scenes-resnet")
    wide = pixels(448, 112)
    other = wide.copy()
    other[:, 300:] = 0
    assert model.seen(wide) == (168.0, 0.0, 280.0, 112.0)
    assert model.seen(pixels(112, 448)) == (0.0, 168.0, 112.0, 280.0)
    cut = [model.patch_maps(image, "red circle") for image in (wide, other)]
    assert torch.equal(*cut)
    whole = [model.patch_maps(image, "red circle", whole=True) for image in (wide, other)]
    assert whole[0].shape == (1, 7, 7)
    changed = (whole[0] - whole[1]).abs()[0] > 1e-6
    assert changed[:, 5:].all() and not changed[:, :2].any()
    squashed = np.asarray(Image.fromarray(wide).resize((112, 112), Image.Resampling.BICUBIC))
    torch.testing.assert_close(whole[0], model.patch_maps(squashed, "red circle"), **CLOSE)


def test_seen_is_the_inverse_of_boxes(clip):
    transform = replace(clip.backbone.transform, resize=128)
    for size in ((200, 100), (90, 333), (112, 112)):
        ((x0, y0, x1, y1),) = transform.boxes([transform.seen(size)], size)
        assert (x0, y0, x1, y1) == pytest.approx((0, 0, 112, 112))
        assert transform.squashed().seen(size) == (0, 0, *size)


# ---- regions ----------------------------------------------------------------------------------


def test_regions_are_one_list_a_picture(images):
    model = built("ComAlign")
    region = Region((0, 0, 40, 40))
    lists = [[region], [], [region, Region((10, 10, 60, 60))]]
    found = model.encode_images(images, regions=lists)
    assert found.masks["entity"].sum(1).tolist() == [1, 1, 2]
    for few in (lists[:2], iter([])):
        with pytest.raises(DataError, match=r"there are \d lists and more pictures"):
            model.encode_images(images, regions=few)
    with pytest.raises(DataError, match="there are 2 pictures and more lists"):
        model.encode_images(images[:2], regions=lists)
    with pytest.raises(DataError, match="item 0 is a region"):
        model.encode_images(images[0], regions=[region])
    assert len(model.encode_images(images[0], regions=[[region]])) == 1


def test_methods_without_regions_refuse_them(model):
    if model.takes_regions:
        return
    with pytest.raises(ConfigError, match=f"{type(model.method).__name__} does not use regions"):
        model.encode_images(pixels(), regions=[[]])


def test_a_detector_is_not_told_what_to_find():
    model = built("ComAlign", components={"detector": "onnx:any"})
    with pytest.raises(ConfigError, match="finds regions by onnx:any"):
        model.encode_images(pixels(), regions=[[]])


def test_pictures_with_regions_are_read_a_batch_at_a_time(images, monkeypatch):
    """No more pictures are open at once than ``batch_size`` says, whatever their number."""
    model = built("ComAlign")
    model.components  # noqa: B018
    sizes, find = [], model.components.of_pictures
    monkeypatch.setattr(
        model.components,
        "of_pictures",
        lambda some, problems: sizes.append(len(some)) or find(some, problems),
    )
    expected = model.encode_images(images * 2)
    assert_same(model.encode_images(images * 2, batch_size=4), expected)
    assert sizes == [6, 4, 2]


# ---- some at a time ---------------------------------------------------------------------------


def test_batches_are_the_rows_of_the_whole(model, images):
    parts = list(model.image_batches(images, batch_size=2))
    assert [len(part) for part in parts] == [2, 1]
    assert_same(Embeddings.concatenate(parts), model.encode_images(images), **HALF)
    parts = list(model.text_batches(TEXTS, batch_size=2))
    assert [len(part) for part in parts] == [2, 1]
    assert_same(Embeddings.concatenate(parts), model.encode_texts(TEXTS), **HALF)


def test_between_two_batches_the_model_is_the_callers(clip, images):
    clip.train()
    for part in clip.image_batches(images, batch_size=1):
        assert clip.training and clip.backbone.training and torch.is_grad_enabled()
        assert not part["global"].requires_grad and not part["global"].is_inference()


@pytest.mark.skipif(shutil.which("c++") is None, reason="inductor needs a C++ compiler here")
def test_a_compiled_image_tower_gives_the_same(clip, images):
    compiled = load_model("scenes-clip", compile=True)
    plain = load_model("scenes-clip")
    plain.load_state_dict(compiled.state_dict())
    assert_same(compiled.encode_images(images), plain.encode_images(images), atol=1e-4, rtol=1e-4)
