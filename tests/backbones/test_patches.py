"""The first layer of a ViT as one product."""

import pytest
import torch
from torch import nn

from intarsia.backbones.patches import PatchProduct, multiply_patches


def tower() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, stride=4, bias=False),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Conv2d(8, 8, 2, stride=2, groups=2),
    )


def test_only_what_cuts_patches_changes_and_the_weights_keep_their_names():
    before, after = tower(), tower()
    multiply_patches(after)
    assert [type(part) for part in after] == [PatchProduct, nn.Conv2d, nn.Conv2d]
    assert str(before) == str(after)
    assert list(before.state_dict()) == list(after.state_dict())
    pixels = torch.randn(2, 3, 18, 24)
    assert torch.equal(before(pixels), after(pixels))


@pytest.mark.parametrize("bias", [True, False])
def test_the_product_is_the_convolution(bias):
    conv = nn.Conv2d(3, 8, 4, stride=4, bias=bias).double()
    pixels = torch.randn(2, 3, 18, 25, dtype=torch.float64)
    expected = conv(pixels)
    multiply_patches(nn.Sequential(conv))
    assert isinstance(conv, PatchProduct)
    torch.testing.assert_close(conv.multiplied(pixels), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_is_the_convolution_too():
    conv = nn.Conv2d(3, 8, 4, stride=4).cuda()
    pixels = torch.randn(2, 3, 18, 25, device="cuda")
    expected = conv(pixels)
    multiply_patches(nn.Sequential(conv))
    torch.testing.assert_close(conv(pixels), expected, atol=1e-4, rtol=1e-4)
