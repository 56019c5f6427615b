from __future__ import annotations

import gc
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from domadapt.data import from_folder, load
from domadapt.data.folder import Paths, image_tensor
from domadapt.errors import DomadaptError
from domadapt.task import Task

RED = (200, 30, 10)


def save(path: Path, image: Image.Image | None = None, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or Image.new("RGB", (8, 6), RED)).save(path, **options)
    return path


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def colour(x: torch.Tensor) -> tuple[int, ...]:
    """The colour of a picture of one colour."""
    assert (x == x[:, :1, :1]).all()
    return tuple(int(v) for v in x[:, 0, 0])


def test_class_folders_give_labels(tmp_path: Path) -> None:
    save(tmp_path / "dog/b.png")
    save(tmp_path / "cat/deeper/still/a.jpg")
    save(tmp_path / "cat/z.PNG")
    domain = from_folder(tmp_path, augment="glyph")
    assert domain.name == tmp_path.name
    assert list(domain.ids) == ["cat/deeper/still/a.jpg", "cat/z.PNG", "dog/b.png"]
    assert domain.labels.tolist() == ["cat", "cat", "dog"]
    assert domain.class_names == ("cat", "dog")
    assert (domain.kind, domain.augment, domain.notes) == ("image", "glyph", ())


def test_numbered_classes_come_in_numeric_order(tmp_path: Path) -> None:
    for c in ("10", "9", "1"):
        save(tmp_path / c / "a.png")
    assert from_folder(tmp_path).class_names == ("1", "9", "10")


def test_a_flat_folder_is_unlabelled(tmp_path: Path) -> None:
    save(tmp_path / "b.png")
    save(tmp_path / "a.png")
    domain = from_folder(tmp_path, name="mine")
    assert (domain.name, list(domain.ids), domain.labels) == ("mine", ["a.png", "b.png"], None)
    assert domain.class_names is None
    with pytest.raises(DomadaptError, match="one folder per class"):
        from_folder(tmp_path, labelled=True)


def test_labels_can_be_left_unread(tmp_path: Path) -> None:
    save(tmp_path / "cat/a.png")
    domain = load(tmp_path, labelled=False)
    assert domain.labels is None
    assert domain.class_names is None


def test_images_beside_class_folders_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "cat/b.png")
    with pytest.raises(DomadaptError, match=r"'a\.png'.*'cat/b\.png'"):
        from_folder(tmp_path)
    assert len(from_folder(tmp_path, labelled=False)) == 2


def test_an_empty_class_is_kept_so_that_the_task_refuses_it(tmp_path: Path) -> None:
    for i in range(5):
        save(tmp_path / f"cat/{i}.png")
        save(tmp_path / f"dog/{i}.png")
    (tmp_path / "owl").mkdir()
    (tmp_path / "owl/readme.txt").write_text("none yet")
    domain = from_folder(tmp_path)
    assert domain.class_names == ("cat", "dog", "owl")
    assert "owl" in domain.notes[-1]
    with pytest.raises(DomadaptError, match="owl"):
        Task(domain, domain)


def test_no_image_at_all_names_the_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DomadaptError, match=rf"{tmp_path.name}.*notes\.txt"):
        from_folder(tmp_path)
    with pytest.raises(DomadaptError, match="no folder"):
        from_folder(tmp_path / "absent")


def test_other_files_are_counted_and_hidden_ones_ignored(tmp_path: Path) -> None:
    save(tmp_path / "cat/a.png")
    save(tmp_path / "cat/.hidden.png")
    save(tmp_path / ".cache/b.png")
    save(tmp_path / "__MACOSX/c.png")
    for i in range(5):
        (tmp_path / f"cat/{i}.txt").write_text("x")
    domain = from_folder(tmp_path)
    assert len(domain) == 1
    assert domain.class_names == ("cat",)
    assert domain.notes == (
        "5 file(s) skipped, not an image: cat/0.txt, cat/1.txt, cat/2.txt, ...",
    )


@pytest.mark.parametrize("end", ["jpg", "png", "gif", "bmp", "webp", "tif", "ppm"])
def test_truncated_images_are_skipped_and_whole_ones_are_not(tmp_path: Path, end: str) -> None:
    whole = save(tmp_path / f"good.{end}", noise(40, 40)).read_bytes()
    (tmp_path / f"cut.{end}").write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / f"stub.{end}").write_bytes(whole[:7])
    (tmp_path / f"void.{end}").write_bytes(b"")
    (tmp_path / f"text.{end}").write_text("no image")
    domain = from_folder(tmp_path)
    assert list(domain.ids) == [f"good.{end}"]
    assert domain.notes == (
        f"4 file(s) skipped, unreadable: cut.{end}, stub.{end}, text.{end}, ...",
    )
    assert domain.samples.__getitems__([0]).shape == (1, 3, 40, 40)


def test_what_follows_the_end_of_a_sound_image_does_no_harm(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", noise(10, 10))
    path.write_bytes(path.read_bytes() + b"\0" * 10_000)
    assert from_folder(tmp_path).samples.__getitems__([0]).shape == (1, 3, 10, 10)


def test_damage_that_only_decoding_shows_names_the_file(tmp_path: Path) -> None:
    path = save(tmp_path / "inner.png", noise(60, 60))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 200] = b"\xff" * 200
    path.write_bytes(data)
    domain = from_folder(tmp_path)
    assert len(domain) == 1
    with pytest.raises(DomadaptError, match=r"'inner\.png'.*cannot be decoded"):
        domain.samples.__getitems__([0])


def test_sizes_decide_between_a_tensor_and_a_list(tmp_path: Path) -> None:
    for i, width in enumerate((8, 8, 9)):
        save(tmp_path / f"{i}.png", noise(6, width, i))
    samples = from_folder(tmp_path).samples
    stacked = samples.__getitems__([1, 0])
    assert isinstance(stacked, torch.Tensor)
    assert stacked.dtype == torch.uint8
    want = torch.from_numpy(np.array(noise(6, 8, 1))).permute(2, 0, 1)
    assert torch.equal(stacked[0], want)
    mixed = samples.__getitems__([0, 2])
    assert [tuple(x.shape) for x in mixed] == [(3, 6, 8), (3, 6, 9)]


def test_modes_become_rgb() -> None:
    assert colour(image_tensor(Image.new("L", (3, 2), 77))) == (77, 77, 77)
    assert colour(image_tensor(Image.new("1", (3, 2), 1))) == (255, 255, 255)
    palette = Image.new("RGB", (3, 2), RED).convert("P", palette=Image.Palette.ADAPTIVE)
    assert palette.mode == "P"
    assert colour(image_tensor(palette)) == RED
    cmyk = Image.new("CMYK", (3, 2), (0, 255, 255, 0))
    assert colour(image_tensor(cmyk)) == (255, 0, 0)


def test_transparency_is_composited_on_white(tmp_path: Path) -> None:
    assert colour(image_tensor(Image.new("RGBA", (3, 2), (*RED, 255)))) == RED
    assert colour(image_tensor(Image.new("RGBA", (3, 2), (*RED, 0)))) == (255, 255, 255)
    half = colour(image_tensor(Image.new("LA", (3, 2), (0, 51))))
    assert half == (204, 204, 204)
    clear = Image.new("P", (3, 2), 0)
    clear.putpalette([10, 20, 30])
    path = save(tmp_path / "p.png", clear, transparency=0)
    with Image.open(path) as image:
        assert image.mode == "P"
        assert colour(image_tensor(image)) == (255, 255, 255)


@pytest.mark.parametrize("end", ["png", "tif"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path, end: str) -> None:
    values = np.array([[0, 257, 128 * 257, 65535, 1000]], dtype=np.uint16)
    save(tmp_path / f"deep.{end}", Image.fromarray(values))
    got = from_folder(tmp_path).samples.__getitems__([0])
    assert got[0, :, 0].tolist() == [[0, 1, 128, 255, 4]] * 3


def test_values_without_a_known_scale_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "f.tif", Image.fromarray(np.full((2, 2), 0.5, dtype=np.float32)))
    samples = from_folder(tmp_path).samples
    with pytest.raises(DomadaptError, match=r"'f\.tif'.*8 or 16 bits"):
        samples.__getitems__([0])


def test_the_rotation_in_exif_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 8), (0, 0, 0))
    image.paste((255, 255, 255), (0, 0, 8, 8))  # the left half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: what was left is then on top
    save(tmp_path / "a.jpg", image, exif=exif, quality=95)
    got = from_folder(tmp_path).samples.__getitems__([0])[0]
    assert got.shape == (3, 16, 8)
    assert int(got[:, :6].min()) > 240
    assert int(got[:, 10:].max()) < 15


def test_large_jpegs_are_decoded_smaller_on_request(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", noise(320, 480))
    whole = from_folder(tmp_path).samples.__getitems__([0])
    small = from_folder(tmp_path, decode_size=64).samples.__getitems__([0])
    assert whole.shape == (1, 3, 320, 480)
    assert small.shape == (1, 3, 80, 120)


def test_a_link_back_up_ends(tmp_path: Path) -> None:
    save(tmp_path / "cat/a.png")
    (tmp_path / "cat/loop").symlink_to(tmp_path, target_is_directory=True)
    assert list(from_folder(tmp_path).ids) == ["cat/a.png"]


def test_paths_are_a_sequence_of_little_size() -> None:
    names = [f"class_{i % 31}/frame_é{i:07d}.jpg" for i in range(20_000)]
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    paths = Paths(iter(names))
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert list(paths) == names
    assert paths[-1] == names[-1]
    assert paths[3:9:2] == names[3:9:2]
    assert paths.nbytes < 40 * len(names)
    assert after - before < 1.1 * paths.nbytes
    with pytest.raises(IndexError):
        paths[20_000]


def _peak(folder: Path) -> int:
    """The most memory that reading a folder twice takes on top of what was there, in bytes."""
    tracemalloc.start()
    samples = from_folder(folder).samples
    for start in (*range(0, len(samples), 10), *range(0, len(samples), 10)):
        samples.__getitems__(range(start, min(start + 10, len(samples))))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_memory_stays_flat_as_the_folder_grows(tmp_path: Path) -> None:
    images = [noise(48, 48, seed) for seed in range(4)]
    for folder, n in (("warm", 20), ("small", 50), ("large", 400)):
        for i in range(n):
            save(tmp_path / folder / f"c{i % 4}/{i:04d}.png", images[i % 4])
    _peak(tmp_path / "warm")
    small, large = _peak(tmp_path / "small"), _peak(tmp_path / "large")
    # One image takes 7 kB decoded, so keeping the 350 others would take 2.4 MB.
    assert large - small < 200_000


def test_no_decoded_image_is_kept(tmp_path: Path) -> None:
    for i in range(30):
        save(tmp_path / f"{i}.png", noise(5, 5 + i % 2))

    def alive() -> int:
        gc.collect()
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    samples = from_folder(tmp_path).samples
    before = alive()
    for i in range(0, 30, 3):
        samples.__getitems__([i, i + 1, i + 2])
    assert alive() == before


@pytest.mark.skipif("DOMADAPT_DATA" not in os.environ, reason="DOMADAPT_DATA is not set")
def test_office_31() -> None:
    root = Path(os.environ["DOMADAPT_DATA"]) / "office31/dslr"
    if not root.is_dir():
        pytest.skip("Office-31 is not there")
    domain = from_folder(root)
    assert len(domain) == 498
    assert len(domain.class_names) == 31
    assert domain.notes == ()
