"""What a raw sample becomes: the view that is evaluated, and weakly and strongly augmented ones.

Every random view is a function of its input and of the generator alone; the global random state
is neither read nor changed. Numbers leave as float32: images in [0, 1] ``(n, 3, h, w)`` (the mean
and deviation that a backbone wants are applied inside the network), vectors ``(n, d)``, series
``(n, channels, length)``. Texts leave as tokens, which a tokenizer makes of them where they are
none yet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as images

from domadapt.data.text import texts_of
from domadapt.data.tokens import Tokenizer
from domadapt.errors import DomadaptError, unknown
from domadapt.task import Inputs, Kind, Raw

#: The augmentations that fit each kind of data, its default first.
AUGMENTATIONS: dict[str, tuple[str, ...]] = {
    "image": ("photo", "glyph", "none"),
    "vector": ("vector", "features", "none"),
    "series": ("series", "none"),
    "text": ("tokens", "none"),
}


#: The chance of a token to be masked in the strong view of a text: that of BERT's training.
_MASKED = 0.15


@dataclass(frozen=True)
class Preprocessing:
    """What a backbone asks of its images; plain numbers, so that a run's folder can hold it.

    Attributes:
        size: the height and width the network takes; None keeps the data's own size, which must
            then be the same for all images.
        resize: the shorter side, in pixels, before `size` is cut from the centre; None resizes
            straight to `size`, whatever the proportions.
        mean: per-channel mean of values in [0, 1], subtracted inside the network, not here.
        std: per-channel deviation by which the network divides.
    """

    size: tuple[int, int] | None = None
    resize: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for field in ("size", "mean", "std"):  # JSON gives lists
            value = getattr(self, field)
            object.__setattr__(self, field, None if value is None else tuple(value))
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise DomadaptError(f"size must be a height and a width in pixels; got {self.size}.")
        if self.resize is not None and (self.size is None or self.resize < max(self.size)):
            raise DomadaptError(
                "resize is the shorter side before the centre crop, so it needs a size that is no "
                f"larger; got resize={self.resize} and size={self.size}."
            )
        if (self.mean is None) != (self.std is None):
            raise DomadaptError("mean and std go together; give both or neither.")


class Views(Protocol):
    """The three views of a raw batch."""

    #: Whether the weak view differs from the evaluation view, and so draws random numbers.
    draws: bool

    def evaluation(self, raw: Raw) -> Inputs:
        """What is predicted on: no randomness."""
        ...

    def weak(self, raw: Raw, generator: torch.Generator) -> Inputs:
        """What is trained on: changes that surely keep the class."""
        ...

    def strong(self, raw: Raw, generator: torch.Generator) -> Inputs:
        """What consistency methods also train on: changes that a person still sees through."""
        ...

    def config(self) -> dict[str, Any]:
        """What `views_from_config` rebuilds the evaluation view from: JSON."""
        ...


def make_views(
    kind: Kind,
    augment: str | None = None,
    preprocessing: Preprocessing | None = None,
    *,
    scale: Tensor | None = None,
    resolution: tuple[int, int] | None = None,
    tokenizer: Tokenizer | None = None,
) -> Views:
    """The views of a kind of data.

    ========  =============================================  =====================================
    augment   weak                                           strong
    ========  =============================================  =====================================
    photo     crop of 50-100 % of the area, mirrored or not  the same, RandAugment, a patch erased
    glyph     rotation, shear, scale and shift, unmirrored   more of it, contrast, brightness,
                                                             noise, a patch erased
    vector    unchanged                                      noise, values swapped between rows
    features  unchanged                                      noise, values set to 0
    series    noise, amplitude                               more of it, a stretch of time flattened
    tokens    unchanged                                      tokens masked
    none      unchanged                                      unchanged
    ========  =============================================  =====================================

    Args:
        kind: what a sample is.
        augment: one of the above that fits the kind; None takes photo, vector, series or tokens.
        preprocessing: what the backbone asks of its images.
        scale: the deviation of each feature ``(d,)``, or of each channel ``(c,)``, in the training
            data, to which noise is relative; None takes that of each batch.
        resolution: the height and width to bring images to where `preprocessing` names no size,
            such as those a network was trained with.
        tokenizer: what makes tokens of texts; without one the samples must be tokens.

    Raises:
        DomadaptError: an augmentation that does not exist or does not fit the kind.
    """
    if kind not in AUGMENTATIONS:
        raise unknown("kind of data", kind, AUGMENTATIONS)
    name = AUGMENTATIONS[kind][0] if augment is None else augment
    if name not in AUGMENTATIONS[kind]:
        raise unknown(f"augmentation for {kind} data", name, AUGMENTATIONS[kind])
    if kind == "image":
        return _ImageViews(name, preprocessing or Preprocessing(), resolution)
    if kind == "vector":
        return _VectorViews(name, scale)
    if kind == "series":
        return _SeriesViews(name, scale)
    return _TextViews(name, tokenizer)


def views_from_config(config: Mapping[str, Any], tokenizer: Tokenizer | None = None) -> Views:
    """The views whose `Views.config` this is, for prediction; texts need their `tokenizer`."""
    asked, resolution = config.get("preprocessing"), config.get("resolution")
    return make_views(
        config["kind"],
        config["augment"],
        None if asked is None else Preprocessing(**asked),
        resolution=None if resolution is None else (resolution[0], resolution[1]),
        tokenizer=tokenizer,
    )


class _ImageViews:
    """Views of images; see `make_views`."""

    def __init__(
        self, augment: str, preprocessing: Preprocessing, resolution: tuple[int, int] | None
    ) -> None:
        self.augment = augment
        self.draws = augment != "none"
        self.preprocessing = preprocessing
        self.resolution = resolution
        self.size = preprocessing.size or resolution
        self._rand_augment = v2.RandAugment(interpolation=images.InterpolationMode.BILINEAR)

    def config(self) -> dict[str, Any]:
        return {
            "kind": "image",
            "augment": self.augment,
            "preprocessing": asdict(self.preprocessing),
            "resolution": self.resolution,
        }

    def evaluation(self, raw: Raw) -> Tensor:
        return _unit(self._fit(raw))

    def weak(self, raw: Raw, generator: torch.Generator) -> Tensor:
        if self.augment == "photo":
            return self._photo(raw, generator)
        x = self.evaluation(raw)
        if self.augment == "none":
            return x
        matrix = _affine(len(x), generator, degrees=15, shear=10, scale=0.15, shift=0.1)
        return _warp(x, matrix, _sides(x))

    def strong(self, raw: Raw, generator: torch.Generator) -> Tensor:
        if self.augment == "none":
            return self.evaluation(raw)
        if self.augment == "photo":
            x = self._photo(raw, generator)
            return _erase(self._randomised(x, generator), generator, area=(0.02, 0.2))
        x = self.evaluation(raw)
        matrix = _affine(len(x), generator, degrees=25, shear=15, scale=0.25, shift=0.15)
        x = _warp(x, matrix, _sides(x))
        contrast, brightness, noise = _uniform((3, len(x), 1, 1, 1), generator)
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        # A positive contrast: dark on light never becomes light on dark.
        x = (x - mean) * (0.5 + contrast) + mean + 0.4 * (brightness - 0.5)
        x = x + 0.1 * noise * torch.randn(x.shape, generator=generator)
        return _erase(x.clamp_(0, 1), generator, area=(0.02, 0.15))

    def _fit(self, raw: Raw) -> Tensor:
        """The raw images at the network's size, in one tensor."""
        if isinstance(raw, list):
            if self.size is None:
                return self._fit(_stacked(raw))
            return torch.cat([self._fit(image[None]) for image in raw])
        x = cast(Tensor, raw)
        if self.size is None or (_sides(x) == self.size and self.preprocessing.resize is None):
            return x
        if self.preprocessing.resize is None:
            return images.resize(x, list(self.size), antialias=True)
        x = images.resize(x, [self.preprocessing.resize], antialias=True)
        return images.center_crop(x, list(self.size))

    def _photo(self, raw: Raw, generator: torch.Generator) -> Tensor:
        """A random part of each image, mirrored or not, at the network's size."""
        if isinstance(raw, list) and self.size is None:
            raw = _stacked(raw)
        n = len(raw)
        sides = torch.tensor([list(x.shape[-2:]) for x in cast(Tensor, raw)], dtype=torch.float32)
        height, width = sides.T
        area, ratio, up, left, mirror = _uniform((5, n), generator)
        area = (0.5 + 0.5 * area) * height * width
        ratio = torch.exp(math.log(4 / 3) * (2 * ratio - 1))
        # What does not fit into the image is cut off, so that narrow images keep their proportions.
        h = torch.minimum((area / ratio).sqrt(), height)
        w = torch.minimum((area * ratio).sqrt(), width)
        top, start, flip = up * (height - h), left * (width - w), mirror < 0.5
        if isinstance(raw, list):
            out = []
            edges = torch.stack([top, top + h, start, start + w], dim=1).round().int().tolist()
            for image, (y0, y1, x0, x1), mirrored in zip(raw, edges, flip.tolist(), strict=True):
                part = images.resize(image[:, y0:y1, x0:x1], list(self.size or ()), antialias=True)
                out.append(images.horizontal_flip(part) if mirrored else part)
            return _unit(torch.stack(out))
        x = cast(Tensor, raw)
        size = self.size or _sides(x)
        matrix = torch.zeros(n, 2, 3)
        matrix[:, 0, 0] = torch.where(flip, -w, w) / width
        matrix[:, 1, 1] = h / height
        matrix[:, 0, 2] = (2 * start + w) / width - 1
        matrix[:, 1, 2] = (2 * top + h) / height - 1
        return _warp(_unit(_shrunk(x, size)), matrix, size)

    def _randomised(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """RandAugment (Cubuk et al., 2020, arXiv:1909.13719), with operations of its own per image.

        torchvision draws from the global random state: it is lent a seed and put back.
        """
        seed = int(torch.randint(2**62, (), generator=generator))
        pixels = (x * 255).round().to(torch.uint8)
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which would seed every accelerator as well.
            torch.default_generator.manual_seed(seed)
            return _unit(torch.stack([self._rand_augment(image) for image in pixels]))


class _VectorViews:
    """Views of rows of a table or of cached features; see `make_views`."""

    draws = False

    def __init__(self, augment: str, scale: Tensor | None) -> None:
        self.augment = augment
        self.scale = None if scale is None else scale.float()

    def config(self) -> dict[str, Any]:
        return {"kind": "vector", "augment": self.augment}

    def evaluation(self, raw: Raw) -> Tensor:
        return cast(Tensor, raw).float()

    def weak(self, raw: Raw, generator: torch.Generator) -> Tensor:
        return self.evaluation(raw)

    def strong(self, raw: Raw, generator: torch.Generator) -> Tensor:
        x = self.evaluation(raw)
        if self.augment == "none":
            return x
        scale = x.std(dim=0, unbiased=False) if self.scale is None else self.scale
        masked = torch.rand(x.shape, generator=generator) < 0.2
        # Zero is "absent" in a network's features. In a table it may be any value, so there a
        # masked one takes the place of another row's.
        other = torch.zeros_like(x)
        if self.augment == "vector":
            other = x[torch.randperm(len(x), generator=generator)]
        x = x + 0.1 * scale * torch.randn(x.shape, generator=generator)
        return torch.where(masked, other, x)


class _SeriesViews:
    """Views of series; see `make_views`."""

    def __init__(self, augment: str, scale: Tensor | None) -> None:
        self.augment = augment
        self.draws = augment != "none"
        self.scale = None if scale is None else scale.float().reshape(-1, 1)

    def config(self) -> dict[str, Any]:
        return {"kind": "series", "augment": self.augment}

    def evaluation(self, raw: Raw) -> Tensor:
        return cast(Tensor, raw).float()

    def weak(self, raw: Raw, generator: torch.Generator) -> Tensor:
        x = self.evaluation(raw)
        return x if self.augment == "none" else self._jittered(x, generator, 0.03, 0.1)

    def strong(self, raw: Raw, generator: torch.Generator) -> Tensor:
        x = self.evaluation(raw)
        if self.augment == "none":
            return x
        n, _, length = x.shape
        share, place = _uniform((2, n, 1, 1), generator)
        stretch = (0.1 + 0.2 * share) * length
        start = place * (length - stretch)
        time = torch.arange(length) + 0.5
        masked = (time >= start) & (time < start + stretch)
        flat = x.mean(dim=2, keepdim=True)
        return torch.where(masked, flat, self._jittered(x, generator, 0.1, 0.25))

    def _jittered(
        self, x: Tensor, generator: torch.Generator, noise: float, amplitude: float
    ) -> Tensor:
        scale = x.std(dim=(0, 2), unbiased=False)[:, None] if self.scale is None else self.scale
        factor = 1 + amplitude * torch.randn((*x.shape[:2], 1), generator=generator)
        return x * factor + noise * scale * torch.randn(x.shape, generator=generator)


class _TextViews:
    """Views of texts; see `make_views`."""

    draws = False

    def __init__(self, augment: str, tokenizer: Tokenizer | None) -> None:
        self.augment = augment
        self.tokenizer = tokenizer

    def config(self) -> dict[str, Any]:
        about = {"kind": "text", "augment": self.augment}
        if self.tokenizer is None:
            return about
        return {
            **about,
            "tokenizer": self.tokenizer.identity,
            "max_length": self.tokenizer.max_length,
        }

    def evaluation(self, raw: Raw) -> Inputs:
        if isinstance(raw, dict):
            return raw
        if self.tokenizer is None:
            raise DomadaptError(
                "Texts need a model that brings a tokenizer along; name one of Hugging Face "
                "(--model hf:FOLDER), or give samples that are tokens already."
            )
        return self.tokenizer(texts_of(raw))

    def weak(self, raw: Raw, generator: torch.Generator) -> Inputs:
        return self.evaluation(raw)

    def strong(self, raw: Raw, generator: torch.Generator) -> Inputs:
        x = self.evaluation(raw)
        if self.augment == "none" or isinstance(x, Tensor) or "input_ids" not in x:
            return x
        return _masked_tokens(x, generator, self.tokenizer)


def _masked_tokens(
    x: dict[str, Tensor], generator: torch.Generator, tokenizer: Tokenizer | None
) -> dict[str, Tensor]:
    """The same with each token that is part of the text masked with a chance of 15 %.

    It becomes the tokenizer's mask token; where there is none, it is taken out of the attention
    mask. Of tokens of an unknown kind the first, which often stands for the whole text, stays.
    """
    ids = x["input_ids"]
    mask = x.get("attention_mask", torch.ones_like(ids))
    usable = mask.bool()
    if tokenizer is not None:
        usable = usable & ~torch.isin(ids, torch.tensor(tokenizer.special_ids))
    usable[:, 0] = False
    hit = usable & (torch.rand(ids.shape, generator=generator) < _MASKED)
    if tokenizer is not None and tokenizer.mask_id is not None:
        return {**x, "input_ids": torch.where(hit, tokenizer.mask_id, ids)}
    return {**x, "attention_mask": torch.where(hit, 0, mask)}


def _unit(x: Tensor) -> Tensor:
    return x.float().div_(255) if x.dtype == torch.uint8 else x.float()


def _sides(x: Tensor) -> tuple[int, int]:
    return int(x.shape[-2]), int(x.shape[-1])


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator)


def _stacked(raw: list[Tensor]) -> Tensor:
    """Images of one size as one tensor; others are refused."""
    sizes = sorted({_sides(image) for image in raw})
    if len(sizes) == 1:
        return torch.stack(raw)
    raise DomadaptError(
        f"The network takes images of the data's own size, so all must have one; found "
        f"{sizes[0][0]}x{sizes[0][1]} and {sizes[-1][0]}x{sizes[-1][1]} (height x width). Give a "
        "size to bring them to."
    )


def _shrunk(x: Tensor, size: tuple[int, int]) -> Tensor:
    """`x`, no more than about 1.5 times `size`: sampling larger images would skip pixels."""
    sides = _sides(x)
    fit = [min(side, round(1.4 * wanted)) for side, wanted in zip(sides, size, strict=True)]
    return images.resize(x, fit, antialias=True) if tuple(fit) != sides else x


def _affine(
    n: int, generator: torch.Generator, *, degrees: float, shear: float, scale: float, shift: float
) -> Tensor:
    """Random rotation, shear, scale and shift ``(n, 2, 3)``, never a mirror image.

    Output coordinates in [-1, 1] are mapped to input coordinates by
    ``[R(a) [[1, tan b], [0, 1]] diag(s), t]`` with ``|a| <= degrees``, ``|b| <= shear`` (degrees),
    ``|s - 1| <= scale`` and ``|t| <= 2 shift`` (shift is a share of the side). The determinant is
    the product of the two scales, which is positive.
    """
    r = 2 * _uniform((6, n), generator) - 1
    angle, slant = r[0] * math.radians(degrees), torch.tan(r[1] * math.radians(shear))
    wide, high = 1 + scale * r[2], 1 + scale * r[3]
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = [cos * wide, (cos * slant - sin) * high, 2 * shift * r[4]]
    rows += [sin * wide, (sin * slant + cos) * high, 2 * shift * r[5]]
    return torch.stack(rows, dim=1).view(n, 2, 3)


def _warp(x: Tensor, matrix: Tensor, size: tuple[int, int]) -> Tensor:
    grid = functional.affine_grid(matrix, [len(x), x.shape[1], *size], align_corners=False)
    # Beyond the edge the edge goes on: a dark rim would give the augmentation away.
    return functional.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _erase(x: Tensor, generator: torch.Generator, *, area: tuple[float, float]) -> Tensor:
    """Random erasing (Zhong et al., 2020, arXiv:1708.04896): half the images lose a rectangle.

    It covers a share of the image within `area`, has sides in a ratio of 1:2 to 2:1, and takes
    the image's mean colour.
    """
    height, width = _sides(x)
    share, ratio, top, left, whether = _uniform((5, len(x), 1, 1, 1), generator)
    share = area[0] + (area[1] - area[0]) * share
    ratio = torch.exp(math.log(2) * (2 * ratio - 1))
    h, w = (share * ratio).sqrt() * height, (share / ratio).sqrt() * width
    top, left = top * (height - h), left * (width - w)
    down = (torch.arange(height) + 0.5).view(1, 1, -1, 1)
    across = (torch.arange(width) + 0.5).view(1, 1, 1, -1)
    inside = (down >= top) & (down < top + h) & (across >= left) & (across < left + w)
    return torch.where(inside & (whether < 0.5), x.mean(dim=(2, 3), keepdim=True), x)
