import pytest

from intarsia.components.detectors import load_detector
from intarsia.errors import ConfigError, DataError


@pytest.mark.parametrize("spec", ["yolo:x.onnx", "hf:", "hf", ""])
def test_an_unknown_spec_lists_the_valid_ones(spec: str) -> None:
    with pytest.raises(ConfigError, match="unknown detector .*onnx:FILE.*zeroshot:NAME_OR_FOLDER"):
        load_detector(spec)


def test_an_unknown_option_lists_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match="'thresh': choose from labels, overlap, threshold"):
        load_detector("onnx:model.onnx", thresh=0.1)


@pytest.mark.parametrize("kind", ["hf", "zeroshot", "onnx", "torchvision:ssd300_vgg16", "file"])
def test_a_missing_model_is_named(kind: str, tmp_path) -> None:
    with pytest.raises(DataError, match="nothing-here"):
        load_detector(f"{kind}:{tmp_path / 'nothing-here'}")
