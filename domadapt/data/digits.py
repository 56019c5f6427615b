"""The embedded task `digits`: print, handwriting, and handwriting on photographs. No download.

Three domains of the ten digits, uint8 images ``(3, 16, 16)``, ink bright on dark as in scans:

=============  ======  ===========================================================================
domain         images  what they are
=============  ======  ===========================================================================
`printed`       2,100  21 faces of the fonts that ship with matplotlib, each digit of each face ten
                       times with another size, width, slant, turn, weight and position
`handwritten`   1,201  two of every three scans of scikit-learn's `load_digits` (8x8), enlarged
`photo`         1,788  the remaining 596 scans, each blended onto three patches of scikit-learn's
                       two sample photographs in the manner of MNIST-M
=============  ======  ===========================================================================

No scan stands in both `handwritten` and `photo`; the same people wrote both. The three images of
one scan are one group of `photo`, so that a split never parts them.

Everything follows from fixed seeds. The outlines of the digits are drawn by Pillow's FreeType:
another version of it may differ in the last grey level.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

from domadapt.data.samples import ArraySamples
from domadapt.errors import DomadaptError, unknown
from domadapt.task import Domain

SIZE = 16
CLASSES = tuple("0123456789")
#: The files of matplotlib's ``mpl-data/fonts/ttf`` that hold ordinary figures. Left out: those
#: without digits (``STIXSiz*``, ``STIXNonUni*``, ``cmex10``, ``cmsy10``, ``DejaVu*Display``),
#: with old-style figures, whose 0 and 1 are letters o and I (``cmmi10``), and the last resort.
FACES = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmb10", "cmr10", "cmss10", "cmti10", "cmtt10"),
)
PRINTS_PER_FACE = 10
PATCHES_PER_SCAN = 3
#: Side of the photographs' patches before they are reduced to `SIZE`: at full resolution a patch
#: of 16 pixels is hardly more than one flat colour.
PATCH = 32
#: Glyphs are drawn at this height, placed on a canvas of this many sub-pixels per pixel, and
#: averaged down.
GLYPH_HEIGHT, OVERSAMPLE = 96, 4


def _domain(name: str, x: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> Domain:
    return Domain(
        name=name,
        samples=ArraySamples(x, "image"),
        labels=y,
        groups=groups,
        kind="image",
        augment="glyph",
        ids=[f"{name}/{i:05d}" for i in range(len(x))],
        class_names=CLASSES,
    )


def _print_one(digit: str, font_file: Path, rng: np.random.Generator) -> np.ndarray:
    """One printed digit, uint8 ``(SIZE, SIZE)``.

    The height is 11 to 15 pixels, the width 0.8 to 1.15 of the face's own, the slant up to
    0.25 (14 degrees), the turn up to 5 degrees, the weight up to 6 % of the height heavier than
    the face's own, and the position up to one pixel off the centre.
    """
    from PIL import Image, ImageDraw, ImageFont

    # The basic layout does not depend on whether libraqm is installed.
    font = ImageFont.truetype(
        str(font_file), round(GLYPH_HEIGHT / 0.7), layout_engine=ImageFont.Layout.BASIC
    )
    weight = int(rng.integers(0, 4))
    left, top, right, bottom = font.getbbox(digit, stroke_width=weight)
    glyph = Image.new("L", (int(right - left), int(bottom - top)))
    ImageDraw.Draw(glyph).text((-left, -top), digit, 255, font, stroke_width=weight)

    scale_y = rng.uniform(11, 15) * OVERSAMPLE / glyph.height
    scale_x = scale_y * rng.uniform(0.8, 1.15)
    slant = rng.uniform(-0.25, 0.25)
    turn = np.deg2rad(rng.uniform(-5, 5))
    middle = SIZE * OVERSAMPLE / 2 + rng.uniform(-1, 1, size=2) * OVERSAMPLE
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    to_canvas = rotation @ np.array([[scale_x, -slant * scale_y], [0.0, scale_y]])
    # Pillow asks where each pixel of the canvas comes from, hence the inverse.
    from_canvas = np.linalg.inv(to_canvas)
    offset = np.array(glyph.size) / 2 - from_canvas @ middle
    coefficients = tuple(np.column_stack([from_canvas, offset]).ravel().tolist())
    canvas = glyph.transform(
        (SIZE * OVERSAMPLE,) * 2,
        Image.Transform.AFFINE,
        coefficients,
        resample=Image.Resampling.BILINEAR,
    )
    return np.asarray(canvas.reduce(OVERSAMPLE))


def _printed() -> Domain:
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    missing = [face for face in FACES if not (folder / f"{face}.ttf").is_file()]
    if missing:
        raise DomadaptError(
            f"digits:printed is drawn with fonts that ship with matplotlib; {folder} lacks "
            f"{', '.join(missing)}. Install matplotlib from its wheel, which holds them."
        )
    rng = np.random.default_rng(2016)
    rows, labels = [], []
    for _ in range(PRINTS_PER_FACE):
        for face in FACES:
            for digit in CLASSES:
                rows.append(_print_one(digit, folder / f"{face}.ttf", rng))
                labels.append(int(digit))
    return _domain("printed", np.stack(rows), np.array(labels))


def _scans(photo: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scans ``(n, SIZE, SIZE)``, their labels, and their rows in `load_digits`.

    Every third scan of each class, in the file's order, belongs to `photo`, the others to
    `handwritten`: each writer's scans follow one another there, so both hold all writers.
    """
    from sklearn.datasets import load_digits

    images, y = load_digits().images, load_digits().target
    place = np.empty(len(y), dtype=np.int64)
    for c in np.unique(y):
        place[y == c] = np.arange((y == c).sum())
    rows = np.flatnonzero((place % 3 == 2) == photo)
    x = torch.from_numpy(images[rows] * (255 / 16))[:, None].float()
    x = interpolate(x, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    return x[:, 0].round().to(torch.uint8).numpy(), y[rows].astype(np.int64), rows


def _handwritten() -> Domain:
    x, y, _ = _scans(photo=False)
    return _domain("handwritten", x, y)


def _photo() -> Domain:
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    x, y, rows = _scans(photo=True)
    rng = np.random.default_rng(2017)
    blended = []
    for scan in np.repeat(x, PATCHES_PER_SCAN, axis=0):
        photograph = photographs[rng.integers(len(photographs))]
        top, left = (rng.integers(side - PATCH + 1) for side in photograph.shape[:2])
        patch = photograph[top : top + PATCH, left : left + PATCH]
        step = PATCH // SIZE
        patch = patch.reshape(SIZE, step, SIZE, step, 3).mean(axis=(1, 3)).round()
        blended.append(np.abs(patch - scan[:, :, None]).astype(np.uint8).transpose(2, 0, 1))
    repeated = functools.partial(np.repeat, repeats=PATCHES_PER_SCAN)
    groups = np.array([f"scan{row:04d}" for row in repeated(rows)])
    return _domain("photo", np.stack(blended), repeated(y), groups)


_DOMAINS: dict[str, Callable[[], Domain]] = {
    "printed": _printed,
    "handwritten": _handwritten,
    "photo": _photo,
}
NAMES = tuple(_DOMAINS)


@functools.cache
def _made(name: str) -> Domain:
    return _DOMAINS[name]()


def digits_domain(name: str) -> Domain:
    """One domain of the embedded digits: "printed", "handwritten" or "photo".

    Made at the first call (`printed` is drawn in about a second) and kept for the process.

    Args:
        name: which domain.

    Returns:
        a `Domain` of kind "image" with augmentation "glyph": uint8 ``(3, 16, 16)``, integer
        labels 0 to 9, class names "0" to "9", ids such as ``printed/00012``; `photo` has one
        group per scan.

    Raises:
        DomadaptError: there is no such domain, or matplotlib came without its fonts.

    Sources: E. Alpaydin, C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI, for the
    scans; Ganin et al. (2016), arXiv:1505.07818, section 5.2.4, for the blending
    ``|patch - digit|`` per channel.
    """
    if name not in _DOMAINS:
        raise unknown("domain of digits", name, NAMES)
    made = _made(name)
    assert made.labels is not None
    # The images are shared by all callers; labels are small, and some callers permute them.
    return dataclasses.replace(made, labels=made.labels.copy())
