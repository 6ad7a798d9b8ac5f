"""Text-conditioned pooling against torch's own attention, pair by pair."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from intarsia.errors import ConfigError, ShapeError
from intarsia.ops import attended_blocks
from intarsia.ops.attended import (
    AttentionPool,
    attended_pairs,
    attended_scores,
    attention_of_pairs,
)

BLOCKS = {"one block": 2**21, "many blocks": 3 * 2 * 6 * 8 * 3}  # a row of texts, three at a time


@pytest.fixture(params=BLOCKS)
def blocks(request, monkeypatch) -> None:
    monkeypatch.setattr(attended_blocks, "AT_ONCE", BLOCKS[request.param])
    monkeypatch.setattr(attended_blocks, "MOST_TEXTS", 3)


def pool_of(width: int = 8, heads: int = 2, dtype: torch.dtype = torch.float32) -> AttentionPool:
    """With weights that are none of the simple ones a fresh layer starts with."""
    torch.manual_seed(0)
    pool = AttentionPool(width, heads)
    for parameter in pool.parameters():
        torch.nn.init.normal_(parameter, mean=0.1, std=0.5)
    return pool.to(dtype)


def case(images: int = 4, texts: int = 7, patches: int = 5, width: int = 8, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    x = F.normalize(torch.randn(images, patches, width, generator=g), dim=-1)
    y = F.normalize(torch.randn(texts, width, generator=g), dim=-1)
    return x, y, torch.rand(images, patches, generator=g) > 0.4


def reference(pool: AttentionPool, patches: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """One picture's real patches and one text: the cosine and what each patch got. LayerNorm is
    that of vectors of norm sqrt(D)."""
    long = len(text) ** 0.5
    q, k, v = (
        F.layer_norm(long * side, (len(text),), norm.weight, norm.bias)
        for side, norm in ((text[None], pool.ln_q), (patches, pool.ln_k), (patches, pool.ln_v))
    )
    out, attention = pool.attn(q[None], k[None], v[None])
    return F.normalize(out[0, 0], dim=0) @ text, attention[0, 0, : len(patches)]


def expected(pool: AttentionPool, x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
    real = list(x) if mask is None else [row[m] for row, m in zip(x, mask, strict=True)]
    return torch.stack([torch.stack([reference(pool, p, t)[0] for t in y]) for p in real])


@pytest.mark.parametrize("masked", [False, True], ids=["all real", "padded"])
def test_equals_torchs_attention(blocks, masked):
    pool, (x, y, mask) = pool_of(), case()
    mask = mask if masked else None
    found = attended_scores(x, y, pool, mask)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected(pool, x, y, mask), atol=1e-5, rtol=0)
    texts = torch.tensor([3, 0, 6, 2])
    torch.testing.assert_close(attended_pairs(x, y[texts], pool, mask), found[range(4), texts])


@pytest.mark.parametrize("masked", [False, True], ids=["all real", "padded"])
@pytest.mark.parametrize("paired", [False, True], ids=["all pairs", "matched pairs"])
def test_gradients_equal_those_of_torchs_attention(blocks, masked, paired):
    pool, (x, y, mask) = pool_of(), case(texts=4 if paired else 7)
    mask = mask if masked else None
    leaves = [x.requires_grad_(), y.requires_grad_(), *pool.parameters()]
    theirs = expected(pool, x, y, mask)
    theirs = theirs.diagonal() if paired else theirs
    ours = (attended_pairs if paired else attended_scores)(x, y, pool, mask)
    weights = torch.linspace(-1, 1, theirs.numel()).view_as(theirs)
    grads = (torch.autograd.grad((side * weights).sum(), leaves) for side in (ours, theirs))
    for a, b in zip(*grads, strict=True):
        assert b.abs().sum() > 1e-3
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_gradients_of_double_precision(blocks):
    pool, (x, y, mask) = pool_of(dtype=torch.float64), case(images=2, texts=4)
    names = [f"pool.{name}" for name, _ in pool.named_parameters()]
    whole = torch.nn.Module()
    whole.pool = pool
    whole.forward = lambda x, y: attended_scores(x, y, pool, mask)

    def scores(x: Tensor, y: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(whole, dict(zip(names, values, strict=True)), (x, y))

    inputs = [side.double().requires_grad_() for side in (x, y)]
    assert torch.autograd.gradcheck(scores, [*inputs, *pool.parameters()])


def test_a_picture_without_patches_pools_nothing():
    """What is left are zeros, and so the bias of the output."""
    pool, (x, y, mask) = pool_of(), case()
    mask[1] = False
    x[1], x[~mask] = torch.nan, torch.nan
    leaf = x.clone().requires_grad_()
    found = attended_scores(leaf, y, pool, mask)
    alone = F.normalize(pool.attn.out_proj.bias, dim=0) @ y.mT
    torch.testing.assert_close(found[1], alone)
    found.sum().backward()
    assert (leaf.grad[~mask] == 0).all() and leaf.grad.isfinite().all()
    assert attention_of_pairs(x[1:2], y[:1], pool, mask[1:2]).tolist() == [[0] * 5]


def test_nothing_has_no_scores():
    pool, (x, y, _) = pool_of(), case()
    for images, texts in ((0, 7), (4, 0)):
        left, right = x[:images].requires_grad_(), y[:texts].requires_grad_()
        found = attended_scores(left, right, pool)
        assert found.shape == (images, texts)
        found.sum().backward()
    assert attended_pairs(x[:0], y[:0], pool).shape == (0,)


def test_the_attention_is_that_of_torch():
    pool, (x, y, mask) = pool_of(), case(texts=4)
    found = attention_of_pairs(x, y, pool, mask)
    assert (found[~mask] == 0).all()
    for row in range(4):
        got = reference(pool, x[row][mask[row]], y[row])[1]
        torch.testing.assert_close(found[row][mask[row]], got)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_16_bits_are_as_near_as_their_vectors(kind):
    """On a CPU only the vectors are rounded: the products are float32."""
    pool, (x, y, mask) = pool_of(64, 8), case(width=64)
    found = attended_scores(x.to(kind), y.to(kind), pool, mask)
    rounded = attended_scores(x.to(kind).float(), y.to(kind).float(), pool, mask)
    torch.testing.assert_close(found, rounded)
    exact = attended_scores(x, y, pool, mask)
    torch.testing.assert_close(found, exact, atol=4 * torch.finfo(kind).eps, rtol=0)
    left, right = (side.to(kind).requires_grad_() for side in (x, y))
    attended_scores(left, right, pool, mask).sum().backward()
    assert left.grad.dtype == kind and left.grad.isfinite().all() and right.grad.any()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_blocks_of_16_bits_sum_in_32(kind):
    """As a GPU makes them."""
    pool, (x, y, mask) = pool_of(64, 8), case(width=64)
    from intarsia.ops import attended

    exact = [side.requires_grad_() for side in (x.clone(), y.clone())]
    attended_scores(*exact, pool, mask).sum().backward()
    narrow = [side.to(kind).requires_grad_() for side in (x, y)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attended, "_kind", lambda vectors: vectors.dtype)
        found = attended_scores(*narrow, pool, mask)
        found.sum().backward()
    assert found.dtype == torch.float32
    near = 16 * torch.finfo(kind).eps
    torch.testing.assert_close(found, attended_scores(x, y, pool, mask), atol=near, rtol=0)
    for a, b in zip(narrow, exact, strict=True):
        torch.testing.assert_close(a.grad.float(), b.grad, atol=near * b.grad.abs().max(), rtol=0)


def test_memory_is_that_of_a_block():
    """Not of all pairs: 64 x 512 of them would attend with 13 MB and pool 67 MB."""
    pool, (x, y, _) = pool_of(512, 8), case(64, 512, 4, 512)
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            found = function(*args, **(kwargs or {}))
            seen.extend(
                side.numel()
                for side in (found if isinstance(found, tuple | list) else [found])
                if isinstance(side, Tensor)
            )
            return found

    leaf = x.requires_grad_()
    with pytest.MonkeyPatch.context() as patch, Watch():
        patch.setattr(attended_blocks, "AT_ONCE", 2**18)
        attended_scores(leaf, y, pool).sum().backward()
    assert max(seen) <= 3 * 512 * 512  # the weights of queries, keys and values
    assert leaf.grad.any()


def test_what_does_not_fit_is_told():
    pool, (x, y, mask) = pool_of(), case()
    with pytest.raises(ConfigError, match="num_heads is 3, but the width 8 .* over 1, 2, 4, 8"):
        AttentionPool(8, 3)
    with pytest.raises(ShapeError, match=r"expected \(pictures, patches, 8\).*\(4, 5, 4\)"):
        attended_scores(x[..., :4], y, pool)
    with pytest.raises(ShapeError, match="cannot meet"):
        attended_scores(x.double(), y, pool)
    with pytest.raises(ShapeError, match=r"x_mask is \(4, 4\) torch.bool"):
        attended_scores(x, y, pool, mask[:, :4])
    with pytest.raises(ShapeError, match="4 pictures cannot be paired with 7 texts"):
        attended_pairs(x, y, pool)
