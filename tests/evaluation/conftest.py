import pytest

from intarsia.methods import Clip
from intarsia.model import Model


@pytest.fixture
def model(backbone) -> Model:
    """A real model with random weights."""
    return Model(backbone, Clip(backbone.dims)).eval()
