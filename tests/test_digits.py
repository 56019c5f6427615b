"""The embedded digits: sizes, repeatability, legibility, and that no scan stands in two domains."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_sample_images
from sklearn.neighbors import KNeighborsClassifier

from domadapt.data.digits import _DOMAINS, FACES, NAMES, PRINTS_PER_FACE, SIZE, digits_domain
from domadapt.errors import DomadaptError
from domadapt.task import Domain, Task


def pixels(domain: Domain) -> torch.Tensor:
    x = domain.samples.__getitems__(range(len(domain)))
    assert isinstance(x, torch.Tensor)
    return x


@pytest.mark.parametrize(
    ("name", "size"), [("printed", 2100), ("handwritten", 1201), ("photo", 1788)]
)
def test_form(name: str, size: int) -> None:
    domain = digits_domain(name)
    x = pixels(domain)
    assert x.shape == (size, 3, SIZE, SIZE)
    assert x.dtype == torch.uint8
    assert (domain.name, domain.kind, domain.augment) == (name, "image", "glyph")
    assert domain.class_names == tuple("0123456789")
    assert domain.labels is not None
    counts = np.bincount(domain.labels, minlength=10)
    assert len(counts) == 10
    assert counts.min() > 0.09 * size
    assert domain.ids is not None
    assert domain.ids[12] == f"{name}/00012"
    assert len(set(domain.ids)) == size


@pytest.mark.parametrize("name", NAMES)
def test_every_image_shows_something(name: str) -> None:
    flat = pixels(digits_domain(name)).flatten(1).float()
    assert (flat.max(1).values - flat.min(1).values).min() > 60


def test_ink_is_bright_on_dark_in_print_and_in_scans() -> None:
    for name in ("printed", "handwritten"):
        x = pixels(digits_domain(name)).float()
        assert (x == x[:, :1]).all(), "grey images have three equal channels"
        assert x.flatten(1).median(dim=1).values.float().mean() < 90
        assert x.flatten(1).max(1).values.min() > 200


def test_print_is_balanced_centred_and_varied() -> None:
    domain = digits_domain("printed")
    assert domain.labels is not None
    assert (np.bincount(domain.labels) == len(FACES) * PRINTS_PER_FACE).all()
    x = pixels(domain)[:, 0].double()
    place = torch.arange(SIZE, dtype=torch.double)
    ink = x.sum((1, 2))
    for along in (1, 2):
        inked = (x > 40).any(along).double()
        last = (inked * place).amax(1)
        first = SIZE - 1 - (inked * place.flip(0)).amax(1)
        off = (first + last) / 2 - (SIZE - 1) / 2
        assert off.abs().max() <= 2.5
        assert off.mean().abs() < 0.2
    height = ((x > 100).any(2)).sum(1)
    assert height.min() >= 10
    assert height.float().std() > 0.7
    # Ink of one digit: the boldest twentieth has more than twice that of the lightest.
    zeros = np.sort(ink.numpy()[domain.labels == 0])
    assert zeros[-10] > 2 * zeros[9]
    assert len(torch.unique(x.flatten(1), dim=0)) == len(x)


def test_print_is_legible_as_the_digit_it_is_labelled() -> None:
    """Faces held out are recognised from the others: no glyph stands under a wrong label."""
    domain = digits_domain("printed")
    x = pixels(domain)[:, 0].flatten(1).numpy() / 255.0
    face = np.arange(len(x)) // 10 % len(FACES)
    held = face % 3 == 0
    model = KNeighborsClassifier(3).fit(x[~held], domain.labels[~held])
    assert model.score(x[held], domain.labels[held]) > 0.93


def test_scans_keep_their_labels_and_stand_in_one_domain_only() -> None:
    """Every photo's scan is found again by undoing the blend; none is in `handwritten`."""
    scans = load_digits()
    handwritten, photo = digits_domain("handwritten"), digits_domain("photo")
    # Halving the enlarged scan by means of 2x2 keeps it in order of similarity to the original.
    small = pixels(handwritten)[:, 0].float().reshape(-1, 8, 2, 8, 2).mean((2, 4)).flatten(1)
    original = torch.from_numpy(scans.data * (255 / 16)).float()
    nearest = torch.cdist(small, blur(original)).argmin(1).numpy()
    assert (scans.target[nearest] == handwritten.labels).all()
    assert len(set(nearest.tolist())) == len(handwritten)
    assert photo.groups is not None
    in_photo = {int(g.removeprefix("scan")) for g in photo.groups}
    assert in_photo.isdisjoint(nearest.tolist())
    assert in_photo | set(nearest.tolist()) == set(range(len(scans.target)))
    rows = np.array([int(g.removeprefix("scan")) for g in photo.groups])
    assert (scans.target[rows] == photo.labels).all()
    assert (np.bincount(rows)[rows] == 3).all()


def blur(x: torch.Tensor) -> torch.Tensor:
    """8x8 scans enlarged to 16x16 bilinearly and averaged back."""
    big = torch.nn.functional.interpolate(
        x.reshape(-1, 1, 8, 8), size=(16, 16), mode="bilinear", align_corners=False
    )
    return big.reshape(-1, 8, 2, 8, 2).mean((2, 4)).flatten(1)


def test_photo_is_the_difference_of_a_patch_and_a_scan() -> None:
    """Each image is found in a photograph: halve a square of 32 pixels, take |patch - scan|."""
    photo = digits_domain("photo")
    assert photo.groups is not None
    photographs = [halved(image) for image in load_sample_images().images]
    for i in (0, 1, 2, 1000):
        row = int(photo.groups[i].removeprefix("scan"))
        scan = torch.from_numpy(load_digits().images[row] * (255 / 16)).float()[None, None]
        scan = torch.nn.functional.interpolate(scan, size=(16, 16), mode="bilinear")
        ink = scan[0, 0].round().numpy()[:, :, None]
        image = pixels(photo)[i].numpy().transpose(1, 2, 0)
        assert any(is_blend(image, ink, background) for background in photographs)
    assert len(np.unique(pixels(photo)[:3].numpy(), axis=0)) == 3


def halved(image: np.ndarray) -> np.ndarray:
    """The mean colour of the 2x2 square at every place."""
    big = image.astype(np.float64)
    total = big[:-1, :-1] + big[1:, :-1] + big[:-1, 1:] + big[1:, 1:]
    return np.asarray((total / 4).round())


def is_blend(image: np.ndarray, ink: np.ndarray, background: np.ndarray) -> bool:
    empty = np.argwhere(ink[:, :, 0] == 0)[0]
    for place in np.argwhere((background == image[tuple(empty)]).all(axis=2)):
        top, left = place - 2 * empty
        patch = background[top : top + 32 : 2, left : left + 32 : 2]
        if min(top, left) >= 0 and patch.shape == image.shape and (abs(patch - ink) == image).all():
            return True
    return False


def fingerprint() -> str:
    digest = hashlib.sha256()
    for name in NAMES:
        domain = digits_domain(name)
        assert domain.labels is not None
        digest.update(pixels(domain).numpy().tobytes() + domain.labels.tobytes())
    return digest.hexdigest()


def test_another_process_makes_the_same_bytes() -> None:
    script = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_digits"
    code = f"{script}; print(test_digits.fingerprint())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == fingerprint()


def test_drawing_leaves_the_global_generators_alone() -> None:
    before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    for name in NAMES:
        _DOMAINS[name]()
    assert before == (
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        torch.get_rng_state().tolist(),
    )


def test_images_are_kept_and_labels_cannot_be_spoilt() -> None:
    domain = digits_domain("printed")
    assert domain.labels is not None
    domain.labels[:] = 5
    again = digits_domain("printed")
    assert again.samples is domain.samples
    assert again.labels is not None
    assert np.bincount(again.labels).tolist() == [210] * 10


def test_a_task_keeps_the_three_images_of_a_scan_together() -> None:
    task = Task(digits_domain("photo"), digits_domain("handwritten"))
    groups = digits_domain("photo").groups
    assert groups is not None
    train, val = (set(groups[s.indices]) for s in (task.source_train, task.source_val))
    assert train.isdisjoint(val)
    assert task.n_classes == 10
    assert task.augment == "glyph"


def test_unknown_name() -> None:
    with pytest.raises(DomadaptError, match=r"Did you mean 'printed'\? Known: handwritten"):
        digits_domain("print")
