"""HarmoCLIP's three losses against sums worked out one by one (METHODS: the third system)."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from intarsia.backbones.loading import load_backbone
from intarsia.data.problems import Problems
from intarsia.encode.pairs import LivePairs
from intarsia.errors import ConfigError
from intarsia.methods import HarmoClip
from intarsia.model import Model
from intarsia.terms.similarity import pairwise_scores
from intarsia.training.run import make_pairs
from intarsia.types import Dims, Features, Links

DIMS = Dims(embed=8, grid=(2, 2), context=6)
CELLS = torch.tensor([[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]])
LABELS = torch.tensor([[5, 6], [6, 0], [7, 5]])
MASK = torch.tensor([[True, True], [True, False], [True, True]])
REGIONS = torch.tensor([[[0], [3]], [[1], [-1]], [[2], [0]]])
REAL = [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1)]


def features() -> Features:
    """Regions that are cells of the 2 x 2 grid; words "5", "6" and "7", some of them twice."""
    g = torch.Generator().manual_seed(0)
    cells = torch.tensor([[0, 3], [1, 1], [2, 0]])
    links = Links(
        CELLS[cells], torch.tensor([[[0, 1], [1, 3]], [[0, 2], [0, 0]], [[2, 3], [0, 3]]]),
        LABELS, MASK, REGIONS,
    )  # fmt: skip
    return Features(
        image_global=torch.randn(3, 8, generator=g),
        image_patches=torch.randn(3, 4, 8, generator=g),
        text_global=torch.randn(3, 8, generator=g),
        text_tokens=torch.randn(3, 4, 8, generator=g),
        text_mask=torch.arange(4) < torch.tensor([[4], [3], [3]]),
        links=links,
        image_crops=torch.randn(3, 2, 8, generator=g),
        text_phrases=torch.randn(3, 2, 8, generator=g),
    )


def regions(x: Features) -> Tensor:
    cells = {(0, 0): 0, (0, 1): 3, (1, 0): 1, (2, 0): 2, (2, 1): 0}
    return torch.stack([F.normalize(x.image_patches[b, cells[b, p]], dim=0) for b, p in REAL])


def lexemes(x: Features) -> Tensor:
    rows = []
    for b, p in REAL:
        first, last = x.links.words[b, p].tolist()
        rows.append(F.normalize(x.text_tokens[b, first:last], dim=1).mean(0))
    return F.normalize(torch.stack(rows), dim=1)


def multi_positive(scores: Tensor, positive: Tensor, left_out: Tensor) -> Tensor:
    """Mean over rows of the mean over a row's positives; other positives are no negatives."""
    costs = []
    for row, is_positive, is_out in zip(scores, positive, left_out, strict=True):
        against = row[~is_positive & ~is_out].exp().sum()
        costs.append(
            torch.stack([-(s - (s.exp() + against).log()) for s in row[is_positive]]).mean()
        )
    return torch.stack(costs).mean()


def both_ways(scores: Tensor, positive: Tensor, left_out: Tensor | None = None) -> Tensor:
    left_out = torch.zeros_like(positive) if left_out is None else left_out
    rows = multi_positive(scores, positive, left_out)
    return (rows + multi_positive(scores.T, positive.T, left_out.T)) / 2


def losses_of(
    method: HarmoClip, x: Features, ids: Tensor | None = None, said: Tensor | None = None
) -> dict[str, Tensor]:
    image, text = method.encode_image(x), method.encode_text(x)
    return method.loss(replace(image, ids=ids), replace(text, ids=ids if said is None else said))


WORDS = LABELS[MASK]
SAME_WORDS = WORDS[:, None] == WORDS


def test_lexemes_meet_regions_and_equal_words_are_positives():
    x = features()
    found = losses_of(HarmoClip(DIMS), x)["lrc"]
    torch.testing.assert_close(found, both_ways(regions(x) @ lexemes(x).T / 0.07, SAME_WORDS))
    strangers = replace(x, links=replace(x.links, labels=torch.arange(6).view(3, 2)))
    found = losses_of(HarmoClip(DIMS), strangers)["lrc"]
    alone = torch.eye(5).bool()
    torch.testing.assert_close(found, both_ways(regions(x) @ lexemes(x).T / 0.07, alone))


def test_other_phrases_of_an_overlapping_region_are_no_negatives():
    """The regions of caption 0 overlap; captions 1 and 2 are of one picture and its region 4."""
    x = features()
    regions_of = torch.tensor([[[0, 3], [3, 0]], [[4, -1], [-1, -1]], [[4, -1], [0, -1]]])
    x = replace(x, links=replace(x.links, regions=regions_of))
    left_out = torch.zeros(5, 5, dtype=torch.bool)  # of (region, phrase) in the order of REAL
    left_out[[0, 1, 2, 3], [1, 0, 3, 2]] = True
    phrases = F.normalize(torch.stack([x.text_phrases[place] for place in REAL]), dim=1)
    found = losses_of(HarmoClip(DIMS), x, torch.tensor([4, 9, 9]))
    for name, columns in (("lrc", lexemes(x)), ("gr", phrases)):
        scores = regions(x) @ columns.T / 0.07
        torch.testing.assert_close(found[name], both_ways(scores, SAME_WORDS, left_out))
        assert found[name] < both_ways(scores, SAME_WORDS)
    true = torch.tensor([[4, 12], [9, 12], [9, -1]]), torch.tensor([12, 12, 9])
    assert losses_of(HarmoClip(DIMS), x, *true)["lrc"] == found["lrc"]
    strangers = losses_of(HarmoClip(DIMS), x)["lrc"]  # regions of three pictures
    left_out[[2, 3], [3, 2]] = False
    scores = regions(x) @ lexemes(x).T / 0.07
    torch.testing.assert_close(strangers, both_ways(scores, SAME_WORDS, left_out))


def test_one_box_with_two_names_is_not_its_own_negative():
    """Two pairs that are alike: as strangers to one another they cost ln 2, here nothing."""
    one = torch.ones(1, 4, 8)
    links = features().links.rows(slice(1))
    x = Features(one[:, 0], one, one[:, 0], one, torch.ones(1, 4) > 0, text_phrases=one[:, :2])
    alike = replace(links, regions=torch.zeros(1, 2, 1, dtype=torch.long))
    found = losses_of(HarmoClip(DIMS), replace(x, links=alike))
    assert found["lrc"] == found["gr"] == 0
    found = losses_of(HarmoClip(DIMS), replace(x, links=links))
    torch.testing.assert_close(
        torch.stack([found["lrc"], found["gr"]]), torch.tensor(2.0).log().expand(2)
    )


def test_a_region_is_tied_to_its_crop_without_gradient():
    x = features()
    x.image_crops.requires_grad_()
    x.image_patches.requires_grad_()
    found = losses_of(HarmoClip(DIMS, gr_target="crop"), x)["gr"]
    crops = F.normalize(torch.stack([x.image_crops[place] for place in REAL]), dim=1)
    torch.testing.assert_close(found, 1 - (regions(x) * crops).sum(1).mean())
    found.backward()
    assert x.image_crops.grad is None and x.image_patches.grad.abs().sum() > 0


def test_a_region_is_tied_to_its_phrase_as_a_text():
    x = features()
    found = losses_of(HarmoClip(DIMS), x)["gr"]
    phrases = F.normalize(torch.stack([x.text_phrases[place] for place in REAL]), dim=1)
    torch.testing.assert_close(found, both_ways(regions(x) @ phrases.T / 0.07, SAME_WORDS))


@pytest.mark.parametrize("ids", [None, torch.tensor([4, 4, 9])])
def test_a_region_is_tied_to_its_picture(ids):
    x = features()
    found = losses_of(HarmoClip(DIMS, gr_target="image"), x, ids)["gr"]
    of_picture = torch.arange(3) if ids is None else ids
    own = torch.stack([of_picture[b] for b, _ in REAL])
    whole = F.normalize(x.image_global, dim=1)
    expected = both_ways(regions(x) @ whole.T / 0.07, own[:, None] == of_picture)
    torch.testing.assert_close(found, expected)


def test_a_region_is_tied_to_its_own_picture_also_where_captions_are_shared():
    x, method = features(), HarmoClip(DIMS, gr_target="image")
    plain = losses_of(method, x, torch.tensor([4, 5, 9]))["gr"]
    true, said = torch.tensor([[4, 12], [5, 12], [9, -1]]), torch.tensor([12, 12, 9])
    torch.testing.assert_close(losses_of(method, x, true, said)["gr"], plain)


def test_the_loss_is_the_weighted_sum():
    x = features()
    found = losses_of(HarmoClip(DIMS, w_gc=2.0, w_lrc=0.5, w_gr=3.0), x)
    expected = 2 * found["gc"] + 0.5 * found["lrc"] + 3 * found["gr"]
    torch.testing.assert_close(found["loss"], expected)
    scores = F.normalize(x.image_global, dim=1) @ F.normalize(x.text_global, dim=1).T / 0.07
    torch.testing.assert_close(found["gc"], both_ways(scores, torch.eye(3).bool()))
    assert set(losses_of(HarmoClip(DIMS, w_gr=0), x)) == {"loss", "gc", "lrc"}


@pytest.mark.parametrize("target", ["crop", "phrase", "image"])
@pytest.mark.parametrize("links", ["none known", "none in this batch"])
def test_without_links_it_trains_on_the_global_loss_alone(target, links):
    x = features()
    given = None if links == "none known" else replace(x.links, mask=torch.zeros_like(MASK))
    x = replace(x, links=given)
    for tensor in (x.image_global, x.image_patches, x.text_tokens):
        tensor.requires_grad_()
    method = HarmoClip(DIMS, gr_target=target)
    losses = losses_of(method, x)
    assert losses["loss"] == losses["gc"] > 0
    losses["loss"].backward()
    assert x.image_global.grad.abs().sum() > 0
    for tensor in (x.image_patches, x.text_tokens, *method.parameters()):
        assert tensor.grad is None or tensor.grad.isfinite().all()


def test_the_needs_follow_the_settings():
    common = {"patches", "tokens", "links"}
    assert HarmoClip(DIMS).needs == common | {"phrases"}
    assert HarmoClip(DIMS, gr_target="crop").needs == common | {"crops"}
    assert HarmoClip(DIMS, gr_target="image").needs == HarmoClip(DIMS, w_gr=0).needs == common
    with pytest.raises(ConfigError, match="gr_target 'box': choose from crop, image, phrase"):
        HarmoClip(DIMS, gr_target="box")


def test_the_similarity_is_that_of_an_ordinary_clip_unless_asked():
    x = replace(features(), links=None)
    dots = F.normalize(x.image_global, dim=1) @ F.normalize(x.text_global, dim=1).T
    patches = F.normalize(x.image_patches, dim=2)
    tokens = [F.normalize(t[m], dim=1) for t, m in zip(x.text_tokens, x.text_mask, strict=True)]
    best = [[(t @ p.T).max(1).values.mean() for t in tokens] for p in patches]
    for weight in (0.0, 0.7):
        method = HarmoClip(DIMS, local_weight=weight)
        image, text = method.encode_image(x), method.encode_text(x)
        i2t, t2i = pairwise_scores(image, text, method.terms)
        torch.testing.assert_close(i2t, dots)
        torch.testing.assert_close(t2i, dots + weight * torch.tensor(best))


def test_a_patch_map_is_of_the_whole_text_as_a_lexeme():
    x = features()
    found = HarmoClip(DIMS).patch_map(x, x)
    for b in range(3):
        lexeme = F.normalize(x.text_tokens[b][x.text_mask[b]], dim=1).mean(0)
        expected = F.normalize(x.image_patches[b], dim=1) @ F.normalize(lexeme, dim=0)
        torch.testing.assert_close(found[b], expected)


@pytest.mark.parametrize("spec", ["scenes-clip", "scenes-resnet"])
def test_crops_are_seen_by_the_model_itself(spec, records):
    """Half a picture, enlarged 1.5 times about its centre and cut at the edges."""
    torch.manual_seed(0)
    backbone = load_backbone(spec)
    model = Model(backbone, HarmoClip(backbone.dims, gr_target="crop")).train()
    batch = LivePairs(records[:2], backbone, links=True)[[0, 4]]
    boxes = torch.zeros_like(batch.links.boxes)
    boxes[1, 0] = torch.tensor([0.25, 0.5, 0.75, 1.0])
    mask = torch.zeros_like(batch.links.mask)
    mask[1, 0] = True
    batch = replace(batch, links=replace(batch.links, boxes=boxes, mask=mask))
    crops = model.features(batch).image_crops
    assert model.training and backbone.training and not crops.requires_grad
    pixels = batch.pixels[1:, :, 42:, 14:98].float()
    size = backbone.transform.size
    cut = F.interpolate(pixels, (size, size), mode="bilinear", align_corners=False)
    backbone.eval()
    with torch.no_grad():
        expected = backbone.encode_image((cut / 255 - 0.5) / 0.5).image_global
    assert F.cosine_similarity(crops[1, :1], expected) > 0.999
    assert crops[0].abs().sum() == 0 == crops[1, 1:].abs().sum()
    nothing = replace(batch, links=replace(batch.links, mask=torch.zeros_like(mask)))
    losses = model(nothing)
    losses["loss"].backward()
    assert losses["lrc"] == losses["gr"] == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_crops_need_pixels(backbone, records):
    model = Model(backbone, HarmoClip(backbone.dims, gr_target="crop"), freeze="towers")
    batch = LivePairs(records[:1], backbone, links=True)[[0]]
    with torch.no_grad():
        states = backbone.image_states(batch.pixels, dense="value")
        states = states.joined(backbone.text_states(batch.tokens))
    with pytest.raises(ConfigError, match="need the pixels: train with freeze: none"):
        model.features(replace(batch, pixels=None, tokens=None, states=states))


@pytest.mark.parametrize("target", ["crop", "phrase", "image"])
def test_every_target_trains_from_records(records, target):
    backbone = load_backbone("scenes-clip")
    model = Model(backbone, HarmoClip(backbone.dims, gr_target=target))
    needs = model.method.needs
    pairs = LivePairs(records[:8], backbone, links=True, phrases="phrases" in needs)
    losses = model(pairs[[0, 5, 9, 14]])
    losses["loss"].backward()
    assert losses["gr"] > 0 and model.backbone.model.text_projection.weight.grad.isfinite().all()


def test_phrases_alone_train_projections_over_frozen_towers(records, tmp_path):
    backbone = load_backbone("scenes-clip")
    model = Model(backbone, HarmoClip(backbone.dims, gr_target="phrase"), freeze="towers")
    pairs = make_pairs(model, records[:8], tmp_path, Problems())
    losses = model.train()(pairs[[0, 5, 9, 14]])
    losses["gr"].backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {
        "backbone.model.visual_projection.weight",
        "backbone.model.text_projection.weight",
        "method.region_temperature.logit_scale",
    }


def test_a_phrase_alone_is_embedded_as_a_text_of_its_own(records):
    backbone = load_backbone("scenes-clip")
    model = Model(backbone, HarmoClip(backbone.dims, gr_target="phrase")).eval()
    batch = LivePairs(records[:2], backbone, links=True, phrases=True)[[0]]
    phrase = next(p for p in records[0].phrases if p.caption == 0)
    expected = backbone.encode_text(backbone.tokenize([records[0].phrase_text(phrase)]))
    found = model.features(batch).text_phrases
    torch.testing.assert_close(found[0, 0], expected.text_global[0], atol=1e-5, rtol=1e-4)
