"""Image folders: only paths are kept, and images are decoded a batch at a time."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.task import Domain, Raw, class_order

#: The endings that count as images; files with another one are skipped and counted.
EXTENSIONS = (
    ".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm",
)  # fmt: skip
_TAIL = 4096
_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


class Paths(Sequence[str]):
    """Many strings in one block of bytes: a list of 100,000 paths would cost several times more."""

    def __init__(self, paths: Iterable[str]) -> None:
        coded = [os.fsencode(p) for p in paths]
        self._block = b"".join(coded)
        self._ends = np.cumsum([0, *map(len, coded)])

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]
        return os.fsdecode(self._block[self._ends[i] : self._ends[i + 1]])

    @property
    def nbytes(self) -> int:
        """The memory it takes, in bytes."""
        return len(self._block) + int(self._ends.nbytes)


class FolderSamples:
    """The images under a folder, decoded when asked for and never kept.

    Args:
        root: the folder.
        paths: the images, relative to it.
        decode_size: a shorter side in pixels that is enough for what follows. JPEGs much larger
            are then decoded at 1/2, 1/4 or 1/8 of their size, which is several times faster; the
            result is never smaller than this unless the image is.
    """

    def __init__(self, root: Path, paths: Paths, decode_size: int | None = None) -> None:
        self.root = root
        self.paths = paths
        self.decode_size = decode_size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitems__(self, indices: Sequence[int]) -> Raw:
        """The images as one uint8 tensor ``(k, 3, h, w)``, or a list of them if sizes differ."""
        images = [self._decode(self.paths[int(i)]) for i in indices]
        if all(image.shape == images[0].shape for image in images):
            return torch.stack(images)
        return images

    def _decode(self, path: str) -> Tensor:
        try:
            with Image.open(self.root / path) as image:
                if self.decode_size is not None:
                    image.draft(None, (self.decode_size, self.decode_size))
                return image_tensor(image)
        except _UNREADABLE as error:
            raise DomadaptError(
                f"The image {path!r} in {self.root} cannot be decoded ({error}). "
                "Replace or remove it."
            ) from error


def image_tensor(image: Image.Image) -> Tensor:
    """A picture as uint8 ``(3, h, w)``.

    The EXIF rotation is applied. Grey, palette, CMYK and other colour spaces become RGB;
    transparency is composited on white; 16-bit grey is scaled to 8 bits (divided by 257); of an
    animation or a file of several pages, the first is taken.

    Raises:
        DomadaptError: grey values that are neither 8 nor 16 bits, which have no known scale.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise DomadaptError(
                f"Grey images must have 8 or 16 bits; this one has mode {image.mode!r} and values "
                f"{values.min()} to {values.max()}. Save it with 8 bits."
            )
        grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
        return torch.from_numpy(grey).expand(3, -1, -1).contiguous()
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
    pixels = torch.from_numpy(np.array(image.convert("RGB")))
    return pixels.permute(2, 0, 1).contiguous()


def from_folder(
    path: str | Path,
    *,
    name: str | None = None,
    labelled: bool | None = None,
    augment: str | None = None,
    decode_size: int | None = None,
) -> Domain:
    """A domain of images: ``class/*.jpg`` (deeper folders belong to their class), or a flat folder.

    The labels are the names of the class folders. A class folder without a usable image stays in
    `Domain.class_names`, so that a source that lacks samples of it is refused by name. Hidden
    files and folders are ignored. Files that are no images, and images that are empty, truncated
    or otherwise unreadable, are skipped and counted in `Domain.notes`; a file whose beginning and
    end are sound but which cannot be decoded raises when it is read. `image_tensor` tells what
    becomes of each kind of picture. Images come in the order of their relative paths, which are
    also their `Domain.ids`.

    Args:
        path: the folder.
        name: what tables call the domain; by default the folder's name.
        labelled: None takes labels where there are class folders; True insists on them; False
            takes every image under the folder and no label.
        augment: see `domadapt.data.views.make_views`.
        decode_size: see `FolderSamples`.

    Raises:
        DomadaptError: no folder, no usable image in it, images both beside and inside class
            folders, or no class folders where labels are required.
    """
    root = Path(path)
    if not root.is_dir():
        raise DomadaptError(f"An image folder is required; {str(root)!r} is no folder.")
    found: list[str] = []
    skipped: dict[str, list[str]] = {"not an image": [], "unreadable": []}
    for file in sorted(files_below(root)):
        if not file.lower().endswith(EXTENSIONS):
            skipped["not an image"].append(file)
        elif not _readable(root / file):
            skipped["unreadable"].append(file)
        else:
            found.append(file)
    notes = tuple(skipped_note(reason, files) for reason, files in skipped.items() if files)
    if not found:
        raise DomadaptError(
            f"The folder {str(root)!r} holds no usable image (it needs {', '.join(EXTENSIONS)})"
            f"{'; ' if notes else ''}{'; '.join(notes)}."
        )
    flat = [file for file in found if "/" not in file]
    if labelled is not False and flat and len(flat) < len(found):
        deeper = next(file for file in found if "/" in file)
        raise DomadaptError(
            f"The folder {str(root)!r} must hold either class folders or images, not both; it has "
            f"{len(flat)} image(s) at its top, such as {flat[0]!r}, and others in folders, such as "
            f"{deeper!r}. Move them apart, or take all as unlabelled (labelled=False)."
        )
    if labelled and flat:
        raise DomadaptError(
            f"Labels are required, hence one folder per class (class/*.jpg); {str(root)!r} holds "
            f"its {len(flat)} images without class folders."
        )
    labels = class_names = None
    if labelled is not False and not flat:
        folders = {e.name: e.name for e in os.scandir(root) if e.is_dir() and is_shown(e.name)}
        # One string object per class, however many images it has.
        labels = np.array([folders[file.split("/", 1)[0]] for file in found], dtype=object)
        class_names = class_order(set(folders))
        notes += empty_classes(class_names, labels, "image")
    paths = Paths(found)
    return Domain(
        name or root.resolve().name,
        FolderSamples(root, paths, decode_size),
        labels=labels,
        kind="image",
        augment=augment,
        ids=paths,
        class_names=class_names,
        notes=notes,
    )


def is_shown(name: str) -> bool:
    """Whether a file or folder is not hidden."""
    return not name.startswith(".") and name != "__MACOSX"


def files_below(root: Path) -> Iterator[str]:
    """Every file under `root` that is not hidden, as a relative path with forward slashes."""
    seen: set[str] = set()
    for at, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(at)
        if real in seen:  # A link back up: going on would never end.
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(filter(is_shown, folders))
        below = Path(at).relative_to(root).as_posix()
        for file in filter(is_shown, files):
            yield file if below == "." else f"{below}/{file}"


def _readable(path: Path) -> bool:
    """Whether an image begins and ends as it should; it is decoded only if its end is missing."""
    try:
        with path.open("rb") as file:
            with Image.open(file) as image:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _TAIL))
                if _complete(image, file.read(), size):
                    return True
            # Something may follow the end of a sound image: only decoding can tell.
            file.seek(0)
            with Image.open(file) as image:
                image.load()
    except _UNREADABLE:
        return False
    return True


def _complete(image: Image.Image, tail: bytes, size: int) -> bool:
    if image.format == "JPEG" or image.format == "MPO":
        return b"\xff\xd9" in tail
    if image.format == "PNG":
        return b"IEND" in tail
    if image.format == "GIF":
        return tail.rstrip(b"\0").endswith(b";")
    return False


def skipped_note(reason: str, files: Sequence[str]) -> str:
    """A note on files that were passed over."""
    shown = ", ".join(files[:3]) + (", ..." if len(files) > 3 else "")
    return f"{len(files)} file(s) skipped, {reason}: {shown}"


def empty_classes(class_names: Sequence[str], labels: np.ndarray, what: str) -> tuple[str, ...]:
    """A note on class folders that hold no `what`, where there are such."""
    counts = Counter(labels.tolist())
    empty = [c for c in class_names if not counts[c]]
    return (f"class folder(s) without a usable {what}: {', '.join(empty)}",) if empty else ()
