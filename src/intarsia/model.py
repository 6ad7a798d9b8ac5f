"""A backbone and a method, together: what is trained, saved, loaded and asked."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from intarsia.backbones.base import SIDES, Backbone, Side
from intarsia.backbones.loading import load_backbone
from intarsia.data.images import AnyImage, picture, source_of
from intarsia.data.problems import Problems
from intarsia.errors import ConfigError, unknown
from intarsia.features.component_pairs import image_features, text_features
from intarsia.features.components import ComponentSpec, ComponentStore
from intarsia.methods import Method
from intarsia.ops.regions import enlarged_crops
from intarsia.ops.similarity import pairwise_scores
from intarsia.runtime import atomic, chunks, seed_everything
from intarsia.types import Batch, Dense, Embeddings, Features, Record, Region

Freeze = Literal["none", "image", "text", "towers", "backbone"]
FROZEN: dict[Freeze, tuple[Side, ...]] = {
    "none": (),
    "image": ("image",),
    "text": ("text",),
    "towers": SIDES,
    "backbone": SIDES,
}
WEIGHTS, CONFIG = "model.safetensors", "config.yaml"


@dataclass(frozen=True)
class ModelSpec:
    """How to build a model: arguments of ``load_backbone``, a method's class and its arguments.

    Args:
        backbone: keyword arguments of :func:`intarsia.backbones.loading.load_backbone`.
        method: ``{"class_path": ..., "init_args": {...}}``.
        freeze: ``image`` or ``text`` keeps that tower as it is, ``towers`` both, so that only the
            projections and the method train, ``backbone`` the projections, too.
        dense: how the patches of a ViT are taken (METHODS.md section 0).
        components: arguments of :class:`intarsia.features.components.ComponentSpec`, for methods
            that match components.
    """

    backbone: dict[str, Any]
    method: dict[str, Any] = field(default_factory=lambda: {"class_path": "intarsia.methods.Clip"})
    freeze: Freeze = "none"
    dense: Dense = "value"
    components: dict[str, Any] = field(default_factory=dict)

    def build(self, seed: int = 0) -> Model:
        """A fresh model. One seed gives one start, whatever the method."""
        seed_everything(seed)
        backbone = load_backbone(**self.backbone)
        seed_everything(seed)
        method_class = _method_class(self.method["class_path"])
        method = method_class(backbone.dims, **self.method.get("init_args") or {})
        return Model(
            backbone,
            method,
            freeze=self.freeze,
            dense=self.dense,
            components=ComponentSpec(**self.components),
        )


def _method_class(path: str) -> Callable[..., Method]:
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"there is no method {path!r}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise ConfigError(f"{path!r} is not a method: it must be a subclass of Method")
    return found


class Model(nn.Module):
    """What ``load_model`` returns: encode pictures and texts, compare them, look inside a pair."""

    def __init__(
        self,
        backbone: Backbone,
        method: Method,
        *,
        freeze: Freeze = "none",
        dense: Dense = "value",
        components: ComponentSpec = ComponentSpec(),  # noqa: B008  frozen
    ) -> None:
        super().__init__()
        if freeze not in FROZEN:
            raise ConfigError(unknown("freeze", freeze, FROZEN))
        if "components" in method.needs and freeze != "backbone":
            raise ConfigError(
                f"{type(method).__name__} works over a frozen backbone: set freeze: backbone"
            )
        self.component_spec = components
        self.cache: Path | None = None
        self.backbone, self.method, self.freeze = backbone, method, freeze
        self.fresh_towers = True  # a build gives them: they need not be saved when frozen
        self.dense: Dense | None = dense if "patches" in method.needs else None
        self._patches: Dense = dense
        self.frozen = FROZEN[freeze]
        if self.frozen:
            backbone.freeze_towers(*self.frozen)
        if freeze == "backbone":
            backbone.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        return next(self.method.parameters()).device

    @cached_property
    def components(self) -> ComponentStore:
        """Where components are found and embedded; kept in the folder ``cache`` if that is set."""
        folder = None if self.cache is None else self.cache / "components"
        return ComponentStore(self.backbone, self.component_spec, folder)

    def features(self, batch: Batch) -> Features:
        if batch.features is not None:
            return batch.features
        states = batch.states
        if states is None:
            if batch.pixels is None or batch.tokens is None:
                raise ConfigError("a batch needs pixels and tokens, or cached states")
            with self._gradients_of("image"):
                states = self.backbone.image_states(batch.pixels, dense=self.dense)
            with self._gradients_of("text"):
                states = states.joined(self.backbone.text_states(batch.tokens))
        features = replace(self.backbone.project(states), links=batch.links)
        return replace(features, image_crops=self._crops(batch), text_phrases=self._phrases(batch))

    def _gradients_of(self, side: Side) -> torch.set_grad_enabled:
        return torch.set_grad_enabled(torch.is_grad_enabled() and side not in self.frozen)

    @torch.no_grad()
    def _crops(self, batch: Batch) -> Tensor | None:
        """(B,P,D) global vectors of the linked regions, enlarged; what no link uses stays zero."""
        if "crops" not in self.method.needs or batch.links is None:
            return None
        if batch.pixels is None:
            raise ConfigError("crops of regions need the pixels: train with freeze: none")
        mask = batch.links.mask
        pixels = self.backbone.transform.normalise(batch.pixels)
        crops = enlarged_crops(pixels, batch.links.boxes, mask)
        if not len(crops):
            return pixels.new_zeros(*mask.shape, self.backbone.dims.embed)
        was_training = self.backbone.training
        self.backbone.eval()
        vectors = self.backbone.encode_image(crops).require("image_global")
        self.backbone.train(was_training)
        return vectors.new_zeros(*mask.shape, vectors.shape[1]).masked_scatter_(
            mask[..., None], vectors
        )

    def _phrases(self, batch: Batch) -> Tensor | None:
        """(B,P,D) global vectors of the linked phrases alone; what is no link stays zero."""
        if "phrases" not in self.method.needs or batch.links is None:
            return None
        tokens, mask = batch.links.phrases, batch.links.mask
        if tokens is None:
            raise ConfigError("a batch lacks the tokens of its phrases: give pairs phrases=True")
        blank = torch.zeros(*mask.shape, self.backbone.dims.embed, device=mask.device)
        real = mask.flatten().nonzero()[:, 0]
        if not len(real):
            return blank
        tokens = tokens.map(lambda x: x.flatten(0, 1)[real])
        vectors = self.backbone.encode_text(tokens).require("text_global")
        return blank.masked_scatter(mask[..., None], vectors.float())

    def embed(self, batch: Batch) -> tuple[Embeddings, Embeddings]:
        """What the method makes of the pictures and of the texts of a batch of pairs."""
        features = self.features(batch)
        image = replace(self.method.encode_image(features), ids=batch.pictures)
        text = replace(self.method.encode_text(features), ids=batch.pictures)
        return image, text

    def losses(self, image: Embeddings, text: Embeddings) -> dict[str, Tensor]:
        """The losses of embedded pairs; of all ranks' inside ``across_ranks``."""
        with torch.autocast(self.device.type, enabled=False):
            return self.method.loss(image, text)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of a batch of pairs."""
        return self.losses(*self.embed(batch))

    # ---- asking -------------------------------------------------------------------------------

    @torch.inference_mode()
    def image_features(self, images: Sequence[AnyImage], *, patches: bool = False) -> Features:
        dense = self._patches if patches else self.dense
        pixels = torch.stack([self.backbone.preprocess(picture(image)) for image in images])
        return self.backbone.encode_image(pixels.to(self.device), dense=dense)

    @torch.inference_mode()
    def text_features(self, texts: Sequence[str]) -> Features:
        return self.backbone.encode_text(self.backbone.tokenize(texts).to(self.device))

    @torch.inference_mode()
    def encode_images(
        self,
        images: Iterable[AnyImage],
        *,
        regions: Iterable[Sequence[Region]] | None = None,
        batch_size: int | None = None,
    ) -> Embeddings:
        """Pictures -> embeddings on the CPU, ``batch_size`` at a time (None = what is fast).

        ``regions`` are those of each picture, for methods that match components without a detector.
        """
        self.eval()
        images = [images] if isinstance(images, str) else images
        if "components" in self.method.needs:
            return self._component_images(images, regions, batch_size or 256)
        batch_size = batch_size or self.backbone.images_at_once
        encode = self.method.encode_image
        parts = [encode(self.image_features(some)).cpu() for some in chunks(images, batch_size)]
        return Embeddings.concatenate(parts)

    def _component_images(
        self,
        images: Iterable[AnyImage],
        regions: Iterable[Sequence[Region]] | None,
        batch_size: int,
    ) -> Embeddings:
        known = repeat(()) if regions is None else regions
        records = [
            Record(str(i), source_of(image), (), tuple(boxes))
            for i, (image, boxes) in enumerate(zip(images, known, strict=False))
        ]
        found = self.components.add_pictures(records, Problems(0.0))
        parts = image_features(
            self.components,
            [part for part in found if part is not None],
            roles="roles" in self.method.needs,
            batch_size=batch_size,
        )
        return Embeddings.concatenate([self.method.encode_image(part).cpu() for part in parts])

    @torch.inference_mode()
    def encode_texts(self, texts: Iterable[str], *, batch_size: int = 256) -> Embeddings:
        """Texts -> embeddings on the CPU, ``batch_size`` at a time; one string is one text."""
        self.eval()
        texts = [texts] if isinstance(texts, str) else texts
        encode = self.method.encode_text
        if "components" in self.method.needs:
            found = self.components.add_texts(list(texts))
            roles = "roles" in self.method.needs
            some = text_features(self.components, found, roles=roles, batch_size=batch_size)
            return Embeddings.concatenate([encode(features).cpu() for features in some])
        parts = [encode(self.text_features(some)).cpu() for some in chunks(texts, batch_size)]
        return Embeddings.concatenate(parts)

    @torch.inference_mode()
    def similarity(self, image: Embeddings, text: Embeddings) -> tuple[Tensor, Tensor]:
        """Image-to-text and text-to-image similarity, both (I,T)."""
        return pairwise_scores(image, text, self.method.terms)

    @torch.inference_mode()
    def alignment(self, image: AnyImage, text: str) -> Tensor:
        """(vectors of the picture, vectors of the text): who matches whom inside one pair."""
        return self.method.alignment(self.encode_images([image]), self.encode_texts([text]))

    @torch.inference_mode()
    def patch_maps(self, image: AnyImage, phrases: Sequence[str]) -> Tensor:
        """Where each phrase is in one picture: (P,h,w), higher = better match."""
        self.eval()
        picture = self.image_features([image], patches=True)
        rows = torch.zeros(len(phrases), dtype=torch.long, device=self.device)
        maps = self.method.patch_map(picture.rows(rows), self.text_features(phrases))
        return maps.view(-1, *self.backbone.dims.grid).cpu()

    # ---- saving -------------------------------------------------------------------------------

    def trained_state(self) -> dict[str, Tensor]:
        """Every tensor that a fresh build does not already give: all but its frozen towers."""
        skip = self._keys_of(self.frozen) if self.fresh_towers else set()
        return {k: v for k, v in self.state_dict().items() if k not in skip}

    def _built(self, frozen: str) -> tuple[Side, ...] | None:
        """The towers of this fresh build that have the fingerprint of somebody's frozen ones."""
        if not frozen:
            return ()
        found = (s for s in FROZEN.values() if s and self.backbone.fingerprint(*s) == frozen)
        return next(found, None)

    def _keys_of(self, sides: Sequence[Side]) -> set[str]:
        towers = self.backbone.towers_of(*sides)
        inside = {id(m) for tower in towers for m in tower.modules()}
        names = [name for name, module in self.named_modules() if id(module) in inside]
        tensors = self.state_dict().keys()
        return {k for k in tensors if any(k.startswith(f"{name}.") for name in names)}

    def fingerprint(self) -> str:
        """A hash of the frozen towers that are not saved; empty where all are."""
        left_out = self.frozen and self.fresh_towers
        return self.backbone.fingerprint(*self.frozen) if left_out else ""

    def save(self, path: Path) -> None:
        """Write the trained weights as safetensors, atomically."""
        state = {k: v.detach().cpu().contiguous() for k, v in self.trained_state().items()}
        frozen = self.fingerprint()
        with atomic(path) as draft:
            save_file(state, draft, metadata={"format": "pt", "frozen_towers": frozen})

    def load(self, path: Path) -> None:
        """Read weights written by :meth:`save` into a model of the same spec."""
        frozen, state = _stored(path)
        if frozen and frozen != self.fingerprint():
            raise ConfigError(
                f"{path} was trained on towers with fingerprint {frozen}, but "
                f"{self.backbone.name} here has {self.fingerprint() or 'none that are frozen'}"
            )
        self.fresh_towers = bool(frozen)
        expected = self.trained_state().keys()
        if state.keys() != expected:
            odd = sorted(state.keys() ^ expected)
            raise ConfigError(f"{path} does not fit its config: {len(odd)} tensors, e.g. {odd[:3]}")
        self.load_state_dict(state, strict=False)

    def completed(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """Another model's tensors, and under their names here those that inherit from them."""
        inherits = {f"backbone.{a}": f"backbone.{b}" for a, b in self.backbone.inherited().items()}
        return {own: given[of] for own, of in inherits.items() if of in given} | given

    def start_from(self, directory: Path) -> list[str]:
        """Take over a trained model's backbone, and the method's tensors that have the same name
        and shape. Returns the names of this model's tensors that keep their fresh values."""
        if not (directory / WEIGHTS).is_file():
            raise ConfigError(f"{directory} is not a trained model: it has no {WEIGHTS}")
        frozen, given = _stored(directory / WEIGHTS)
        given = self.completed(given)
        built = self._built(frozen)
        if built is None:
            raise ConfigError(
                f"{directory} was trained with frozen towers, whose weights (fingerprint {frozen}) "
                f"are not those of {self.backbone.name} here"
            )
        self.fresh_towers = bool(built) and set(self.frozen) <= set(built)
        own = self.trained_state()
        fits = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
        fresh = sorted(own.keys() - fits.keys() - self._keys_of(built))
        if lost := [name for name in fresh if name.startswith("backbone.")]:
            raise ConfigError(f"{directory} has another backbone: no {lost[0]} of this shape in it")
        self.load_state_dict(fits, strict=False)
        return fresh


def _stored(path: Path) -> tuple[str, dict[str, Tensor]]:
    """The fingerprint of the towers that are not in a file of weights, and what is."""
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return (file.metadata() or {}).get("frozen_towers", ""), tensors


def load_model(directory: str | Path, *, device: torch.device | str = "cpu") -> Model:
    """The model that ``intarsia train --out DIRECTORY`` left.

    Raises:
        ConfigError: not such a directory, or its weights do not fit its config.
    """
    directory = Path(directory)
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            raise ConfigError(f"{directory} is not a trained model: it has no {name}")
    config = yaml.safe_load((directory / CONFIG).read_text())
    model = read_spec(directory).build(config.get("seed", 0))
    model.load(directory / WEIGHTS)
    return model.to(device).eval()


def read_spec(directory: Path) -> ModelSpec:
    config = yaml.safe_load((directory / CONFIG).read_text())
    try:
        return ModelSpec(
            **{item.name: config[item.name] for item in fields(ModelSpec) if item.name in config}
        )
    except TypeError as error:
        raise ConfigError(f"{directory / CONFIG} is not the config of a run: {error}") from error


def dump_config(config: dict[str, Any]) -> str:
    """A resolved config as YAML; plain data only."""
    return yaml.safe_dump(json.loads(json.dumps(config, default=str)), sort_keys=False)
