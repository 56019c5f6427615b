"""Named domains and tasks, on small files in each collection's layout, and on the real data."""

from __future__ import annotations

import gzip
import math
import os
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from scipy.io import savemat

from domadapt.data import catalogue
from domadapt.data.catalogue.named import COLLECTIONS
from domadapt.errors import DomadaptError
from domadapt.task import Domain, Task

RNG_SEED = 0
DATA = os.environ.get("DOMADAPT_DATA")
real = pytest.mark.skipif(
    not DATA or not Path(DATA, "office_caltech").is_dir(),
    reason="DOMADAPT_DATA is unset or lacks the real data sets",
)


@pytest.fixture(autouse=True)
def _no_data_but_what_a_test_makes(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.delenv("DOMADAPT_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def idx(x: np.ndarray) -> bytes:
    sizes = b"".join(int(n).to_bytes(4, "big") for n in x.shape)
    return bytes([0, 0, 8, x.ndim]) + sizes + x.astype(np.uint8).tobytes()


def write_mnist(folder: Path, *, n: int = 40, compressed: bool = True) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(RNG_SEED)
    for stem, size in (("train", n), ("t10k", 20)):
        x, y = rng.integers(0, 256, (size, 28, 28)), np.arange(size) % 10
        for what, values in (("images-idx3", x), ("labels-idx1", y)):
            data = idx(values)
            name = f"{stem}-{what}-ubyte"
            if compressed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(data))
            else:
                (folder / name).write_bytes(data)
    return np.random.default_rng(RNG_SEED).integers(0, 256, (n, 28, 28))


def write_usps(root: Path) -> np.ndarray:
    (root / "usps").mkdir()
    rng = np.random.default_rng(1)
    x = rng.random((30, 16, 16), dtype=np.float32)
    y = np.arange(30) % 10
    np.savez(root / "usps" / "usps.npz", x_train=x, y_train=y, x_test=x[:20], y_test=y[:20])
    return x


def write_svhn(root: Path) -> np.ndarray:
    (root / "svhn").mkdir()
    x = np.random.default_rng(2).integers(0, 256, (32, 32, 3, 30)).astype(np.uint8)
    for part in ("train", "test"):
        y = (np.arange(30) % 10 + 1)[:, None]
        savemat(root / "svhn" / f"{part}_32x32.mat", {"X": x, "y": y})
    return x


def write_images(folder: Path, classes: tuple[str, ...] = ("cup", "pen"), n: int = 5) -> None:
    for i, c in enumerate(classes):
        (folder / c).mkdir(parents=True)
        for j in range(n):
            Image.new("RGB", (8, 8), (i, j, 0)).save(folder / c / f"{j}.png")


def rows(domain: Domain) -> torch.Tensor:
    x = domain.samples.__getitems__(range(len(domain)))
    assert isinstance(x, torch.Tensor)
    return x


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["printed", "handwritten", "photo"])
def test_digits_are_embedded(source: str) -> None:
    assert catalogue.domain(f"digits:{source}").name == source
    target = {"printed": "photo", "handwritten": "printed", "photo": "handwritten"}[source]
    task = catalogue.task(f"digits:{source}->{target}")
    assert isinstance(task, Task)
    assert task.transductive
    assert task.name == f"digits:{source}->{target}"
    assert (task.source_names, task.target_name) == ((source,), target)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("digitz:printed", "no collection 'digitz'. Did you mean 'digits'?"),
        ("digits:print", "no domain of digits 'print'. Did you mean 'printed'?"),
        ("digits", "has several domains; name one, such as 'digits:printed'"),
        ("digits:", "has several domains"),
        ("digits:printed:train", "'digits:printed' is enough"),
        ("mnist:validation", "no part of mnist 'validation'"),
        ("mnist:train:again", "too many colons"),
        ("har:31", "no domain of har '31'"),
    ],
)
def test_a_domain_that_does_not_exist(spec: str, says: str) -> None:
    with pytest.raises(DomadaptError) as caught:
        catalogue.domain(spec)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("digits:printed", "A task is named 'collection:source->target'"),
        ("digits:printed->", "A task is named"),
        ("digits:printed->photos", "Did you mean"),
        ("digits:printed->mnist", "of one collection"),
        ("mnist->digits:printed", "of one collection"),
        ("mnist:train->usps", "chooses training and test parts itself"),
        ("har:2->11:test", "chooses training and test parts itself"),
        ("amazon->books", "has several domains"),
    ],
)
def test_a_task_that_does_not_exist(spec: str, says: str) -> None:
    with pytest.raises(DomadaptError) as caught:
        catalogue.task(spec)
    assert says in str(caught.value)


def test_a_domain_may_bear_the_name_of_another_collection(tmp_path: Path) -> None:
    for name in ("amazon", "webcam"):
        write_images(tmp_path / "office31" / name)
    task = catalogue.task("office31:webcam->amazon", tmp_path)
    assert task.name == "office31:webcam->amazon"
    assert catalogue.task("office31:webcam->office31:amazon", tmp_path).name == task.name


# --- images of digits ---------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("folder", ["mnist/MNIST/raw", "MNIST/raw", "mnist"])
def test_mnist(tmp_path: Path, folder: str, compressed: bool) -> None:
    x = write_mnist(tmp_path / folder, compressed=compressed)
    domain = catalogue.domain("mnist:train", tmp_path)
    got = rows(domain)
    assert got.shape == (40, 3, 28, 28)
    assert got.dtype == torch.uint8
    assert (got[:, 1].numpy() == x).all()
    assert domain.labels is not None
    assert [int(v) for v in domain.labels[:12]] == [*range(10), 0, 1]
    assert (domain.kind, domain.augment) == ("image", "glyph")
    assert len(catalogue.domain("mnist", tmp_path)) == 40
    assert len(catalogue.domain("mnist:test", tmp_path)) == 20


def test_images_of_one_channel_are_kept_as_one(tmp_path: Path) -> None:
    write_mnist(tmp_path / "mnist")
    samples = catalogue.domain("mnist", tmp_path).samples
    assert samples.x.nbytes == 40 * 28 * 28  # type: ignore[attr-defined]


@pytest.mark.parametrize("damage", ["cut", "header", "no gzip"])
def test_a_broken_file_is_named(tmp_path: Path, damage: str) -> None:
    write_mnist(tmp_path / "mnist")
    file = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    whole = gzip.decompress(file.read_bytes())
    data = {
        "cut": gzip.compress(whole[:-9]),
        "header": gzip.compress(b"\0\0\x0d\x03" + whole[4:]),
        "no gzip": whole,
    }[damage]
    file.write_bytes(data)
    with pytest.raises(DomadaptError, match=r"train-images-idx3-ubyte\.gz' cannot be read"):
        catalogue.domain("mnist", tmp_path)


def test_usps_values_become_eight_bits(tmp_path: Path) -> None:
    x = write_usps(tmp_path)
    got = rows(catalogue.domain("usps:train", tmp_path))
    assert got.shape == (30, 3, 16, 16)
    assert (got[:, 0].numpy() == np.round(x * 255)).all()
    assert len(catalogue.domain("usps:test", tmp_path)) == 20


def test_usps_of_another_scale_is_refused(tmp_path: Path) -> None:
    (tmp_path / "usps").mkdir()
    x, y = np.full((20, 16, 16), -1.0), np.arange(20)
    np.savez(tmp_path / "usps" / "usps.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    with pytest.raises(DomadaptError, match=r"must lie in 0\.\.1"):
        catalogue.domain("usps", tmp_path)


def test_svhn_calls_its_class_ten_zero(tmp_path: Path) -> None:
    x = write_svhn(tmp_path)
    domain = catalogue.domain("svhn", tmp_path)
    assert (rows(domain)[4].numpy() == x[:, :, :, 4].transpose(2, 0, 1)).all()
    assert domain.labels is not None
    assert [int(v) for v in domain.labels[:10]] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]


def test_mnist_and_usps_meet_at_one_size(tmp_path: Path) -> None:
    write_mnist(tmp_path / "mnist")
    x = write_usps(tmp_path)
    task = catalogue.task("mnist->usps", tmp_path)
    assert not task.transductive
    assert len(task.source_train) + len(task.source_val) == 40
    assert (len(task.target_train), len(task.target_test)) == (30, 20)
    source, target = task.source_train.fetch([0]), task.target_train.fetch([0])
    assert isinstance(source, torch.Tensor)
    assert isinstance(target, torch.Tensor)
    assert source.shape == target.shape == (1, 3, 28, 28)
    assert target.dtype == torch.uint8
    want = torch.nn.functional.interpolate(
        torch.from_numpy(np.round(x[:1, None] * 255)), size=(28, 28), mode="bilinear"
    )
    # Height and width are each rounded to 8 bits.
    assert (target.float() - want).abs().max() < 1.5
    back = catalogue.task("usps->mnist", tmp_path)
    assert (len(back.target_train), len(back.target_test)) == (40, 20)
    assert catalogue.domain("usps", tmp_path).samples.x.shape[1:] == (16, 16)  # type: ignore[attr-defined]


def test_svhn_and_mnist_meet_at_its_size(tmp_path: Path) -> None:
    write_mnist(tmp_path / "mnist")
    write_svhn(tmp_path)
    task = catalogue.task("svhn->mnist", tmp_path)
    shapes = {
        tuple(x.shape)
        for s in (task.source_train, task.target_train, task.target_test)
        for x in s.fetch([0])
    }
    assert shapes == {(3, 32, 32)}


def test_mnist_m_by_folder(tmp_path: Path) -> None:
    for part in ("training", "testing"):
        write_images(
            tmp_path / "MNIST_M" / part, tuple("0123456789"), 2 if part == "testing" else 5
        )
    write_mnist(tmp_path / "mnist")
    assert len(catalogue.domain("mnist-m:test", tmp_path)) == 20
    task = catalogue.task("mnist->mnist-m", tmp_path)
    assert (len(task.target_train), len(task.target_test)) == (50, 20)
    assert task.has_test_labels
    assert task.augment == "glyph"


# --- downloads ----------------------------------------------------------------------------------


def test_a_download_that_fails_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*args: object, **more: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "MNIST", fail)
    with pytest.raises(DomadaptError) as caught:
        catalogue.domain("mnist", tmp_path)
    for part in ("no route to host", "by hand", "mnist/MNIST/raw", "DOMADAPT_DATA"):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == [], "a failed download leaves nothing behind"


def test_what_is_downloaded_is_read_and_not_fetched_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def fetch(root: str, download: bool) -> None:
        calls.append(root)
        write_mnist(Path(root) / "MNIST" / "raw")

    monkeypatch.setattr(torchvision.datasets, "MNIST", fetch)
    assert len(catalogue.domain("mnist")) == 40
    assert len(catalogue.domain("mnist:test")) == 20
    cache = Path(os.environ["XDG_CACHE_HOME"]) / "domadapt" / "mnist"
    assert calls == [str(cache)]


def test_a_download_that_is_not_whole_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torchvision.datasets, "MNIST", lambda *a, **k: None)
    with pytest.raises(DomadaptError, match="not whole"):
        catalogue.domain("mnist", tmp_path)


# --- folders of images --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "folder"),
    [
        ("office31:amazon", "office31/amazon"),
        ("office31:amazon", "Office-31/amazon/images"),
        ("office-home:Real World", "OfficeHomeDataset_10072016/Real World"),
        ("office-home:rw", "office_home/RealWorld"),
        ("visda2017:validation", "visda2017/validation"),
        ("domainnet:real", "domainnet/real"),
        ("pacs:photo", "PACS/kfold/photo"),
        ("pacs:art-painting", "pacs/art_painting"),
    ],
)
def test_folders(tmp_path: Path, spec: str, folder: str) -> None:
    write_images(tmp_path / folder)
    domain = catalogue.domain(spec, tmp_path)
    assert len(domain) == 10
    assert domain.class_names == ("cup", "pen")
    assert (domain.kind, domain.augment) == ("image", "photo")
    # Beside what is embedded in the package, and so always at hand.
    wanted = {e.name for e in catalogue.domains(tmp_path) if e.at_hand}
    assert len(wanted - {e.name for e in catalogue.domains() if e.at_hand}) == 1


def test_several_sources(tmp_path: Path) -> None:
    for name in ("photo", "cartoon", "sketch"):
        write_images(tmp_path / "pacs" / name)
    task = catalogue.task("pacs:photo+cartoon->sketch", tmp_path)
    assert task.source_names == ("photo", "cartoon")
    assert task.name == "pacs:photo+cartoon->sketch"
    assert len(task.source_train) + len(task.source_val) == 20


def test_a_domain_that_is_not_among_the_others(tmp_path: Path) -> None:
    write_images(tmp_path / "office31" / "amazon")
    with pytest.raises(
        DomadaptError, match=r"'office31:webcam' is not among.*office31:amazon\. Cho"
    ):
        catalogue.domain("office31:webcam", tmp_path)


def test_data_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DomadaptError, match=r"there is no data root.*DOMADAPT_DATA"):
        catalogue.domain("office31:amazon")
    with pytest.raises(DomadaptError, match=r"office31/<domain>/<class>.*does not hold it"):
        catalogue.domain("office31:amazon", tmp_path)
    with pytest.raises(DomadaptError, match="data root must be a folder"):
        catalogue.domain("office31:amazon", tmp_path / "nowhere")


def test_the_environment_names_the_data_root(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_images(tmp_path / "office31" / "dslr")
    monkeypatch.setenv("DOMADAPT_DATA", str(tmp_path))
    assert len(catalogue.domain("office31:dslr")) == 10


# --- vectors and series -------------------------------------------------------------------------


def test_features(tmp_path: Path) -> None:
    (tmp_path / "office31_features").mkdir()
    x = np.random.default_rng(0).random((12, 5)).astype(np.float16)
    np.savez(
        tmp_path / "office31_features" / "net.npz",
        features=x,
        label=np.array([0, 1] * 6),
        classes=np.array(["cup", "pen"]),
        domain=np.array(["amazon"] * 8 + ["webcam"] * 4),
    )
    domain = catalogue.domain("office31-features:webcam", tmp_path)
    assert torch.equal(rows(domain), torch.from_numpy(x[8:].astype(np.float32)))
    assert domain.labels is not None
    assert domain.labels.tolist() == ["cup", "pen"] * 2
    assert catalogue.task("office31-features:amazon->webcam", tmp_path).transductive
    with pytest.raises(DomadaptError, match="no sample of domain 'dslr'"):
        catalogue.domain("office31-features:dslr", tmp_path)


def test_surf_histograms_are_normalised_and_standardised(tmp_path: Path) -> None:
    (tmp_path / "office_caltech").mkdir()
    counts = np.array([[1, 3, 0], [2, 2, 0], [30, 10, 0]] * 10)
    labels = np.repeat(np.arange(1, 11), 3)[:, None]
    for name in ("amazon", "caltech10"):
        savemat(
            tmp_path / "office_caltech" / f"{name}_SURF_L10.mat", {"fts": counts, "labels": labels}
        )
    domain = catalogue.domain("office-caltech:C", tmp_path)
    got = rows(domain)
    # Shares of the first word are 1/4, 1/2 and 3/4: mean 1/2, deviation sqrt(1/24).
    want = torch.tensor([-(1.5**0.5), 0, 1.5**0.5])
    assert torch.allclose(got[:3, 0], want, atol=1e-5)
    assert torch.allclose(got[:3, 1], -want, atol=1e-5)
    assert (got[:, 2] == 0).all(), "a word that never occurs stays 0"
    assert domain.labels is not None
    assert (domain.labels[0], domain.labels[-1]) == ("backpack", "video-projector")
    assert (
        catalogue.task("office-caltech:C->A", tmp_path).name == "office-caltech:caltech10->amazon"
    )


def test_reviews(tmp_path: Path) -> None:
    (tmp_path / "amazon_bow").mkdir()
    lines = ["1 0:6 4999:2", "-1 1:3"] * 5
    for name in ("books", "kitchen"):
        for part, n in (("train", 10), ("test", 4)):
            text = "\n".join(lines[:n]) + "\n"
            path = tmp_path / "amazon_bow" / f"{name}_{part}.svmlight.gz"
            path.write_bytes(gzip.compress(text.encode()))
    domain = catalogue.domain("amazon:books:test", tmp_path)
    got = rows(domain)
    assert got.shape == (4, 5000)
    # Both words stand in 5 of the 10 training reviews, so they weigh alike.
    a, b = 1 + math.log(6), 1 + math.log(2)
    assert got[0, 0] == pytest.approx(a / math.hypot(a, b))
    assert got[0, 4999] == pytest.approx(b / math.hypot(a, b))
    assert got[1].nonzero().tolist() == [[1]]
    assert got.square().sum(1).tolist() == pytest.approx([1.0] * 4)
    assert domain.labels is not None
    assert domain.labels.tolist() == ["positive", "negative"] * 2
    task = catalogue.task("amazon:books->kitchen", tmp_path)
    assert not task.transductive
    assert task.class_names == ("negative", "positive")
    assert (len(task.target_train), len(task.target_test)) == (10, 4)


def test_har(tmp_path: Path) -> None:
    (tmp_path / "har").mkdir()
    n = 60
    x = np.random.default_rng(0).standard_normal((n, 9, 128)).astype(np.float16)
    subject, y = np.repeat([2, 11], n // 2), np.arange(n) % 6
    split = (np.arange(n) % 30 >= 18).astype(np.uint8)
    np.savez(tmp_path / "har" / "windows.npz", X=x, y=y, subject=subject, split=split)
    domain = catalogue.domain("har:11", tmp_path)
    assert torch.equal(rows(domain), torch.from_numpy(x[30:].astype(np.float32)))
    assert domain.kind == "series"
    task = catalogue.task("har:2->11", tmp_path)
    assert (len(task.target_train), len(task.target_test)) == (18, 12)
    assert torch.equal(task.target_test.fetch([0])[0], torch.from_numpy(x[48]).float())
    assert task.class_names[5] == "laying"
    with pytest.raises(DomadaptError, match="har:5"):
        catalogue.domain("har:5", tmp_path)


# --- lists --------------------------------------------------------------------------------------


def test_lists_name_what_can_be_loaded() -> None:
    listed = {e.name: e for e in catalogue.tasks()}
    embedded = [n for n, c in COLLECTIONS.items() if c.origin == "embedded"]
    assert "digits" in embedded
    assert {n for n, e in listed.items() if e.at_hand} == {
        n for n in listed if n.partition(":")[0] in embedded
    }
    assert sum(n.startswith("digits:") for n in listed) == 6
    for name in ("mnist->usps", "usps->mnist", "svhn->mnist", "office31:amazon->webcam",
                 "office-caltech:caltech10->amazon", "amazon:books->kitchen", "har:2->11",
                 "visda2017:train->validation"):  # fmt: skip
        assert name in listed
    assert len(listed) == len(catalogue.tasks())
    assert listed["office31:amazon->webcam"].classes == 31
    assert all(e.what and e.origin and e.classes >= 2 for e in listed.values())


def test_every_listed_name_is_understood() -> None:
    """Each is loaded, or refused because its data are missing, never as unknown."""
    for entry in catalogue.domains():
        if entry.name in ("mnist", "usps", "svhn"):
            continue
        try:
            assert len(catalogue.domain(entry.name)) > 0
        except DomadaptError as error:
            assert "there is no data root" in str(error)  # noqa: PT017
            assert not entry.at_hand
    for entry in catalogue.tasks():
        if any(word in entry.name for word in ("mnist", "usps", "svhn")):
            continue
        try:
            assert catalogue.task(entry.name).name == entry.name
        except DomadaptError as error:
            assert "there is no data root" in str(error)  # noqa: PT017
            assert not entry.at_hand


def test_the_import_is_light() -> None:
    code = (
        "import sys, domadapt.data.catalogue\n"
        "heavy = {'torchvision', 'sklearn', 'matplotlib', 'pandas', 'transformers', 'timm'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert got.stdout.strip() == "[]"


# --- the real data ------------------------------------------------------------------------------


@real
@pytest.mark.parametrize(
    ("spec", "published"),
    [("office-caltech:C->A", 23.70), ("office-caltech:D->W", 63.39)],
)
def test_nearest_neighbour_on_surf_is_as_published(spec: str, published: float) -> None:
    """Long et al. (2013), Transfer Feature Learning with Joint Distribution Adaptation, table 2."""
    from sklearn.neighbors import KNeighborsClassifier

    left, right = spec.removeprefix("office-caltech:").split("->")
    source, target = (catalogue.domain(f"office-caltech:{n}", DATA) for n in (left, right))
    model = KNeighborsClassifier(1).fit(rows(source).numpy(), source.labels)
    assert round(100 * model.score(rows(target).numpy(), target.labels), 2) == published


@real
def test_real_sizes() -> None:
    for spec, n in {
        "mnist:train": 60000,
        "mnist:test": 10000,
        "usps": 7291,
        "usps:test": 2007,
        "office31:amazon": 2817,
        "office31-features:webcam": 795,
        "amazon:kitchen:test": 5945,
    }.items():
        assert len(catalogue.domain(spec, DATA)) == n, spec


@real
def test_every_task_at_hand_of_the_small_collections_can_be_built() -> None:
    chosen = [
        e.name
        for e in catalogue.tasks(DATA)
        if e.at_hand and e.name.split(":")[0] in ("har", "office31-features", "office-caltech")
    ]
    assert len(chosen) == 10 + 6 + 12
    for name in chosen:
        task = catalogue.task(name, DATA)
        assert task.has_test_labels
        assert task.name == name


ROOM = """
from domadapt.data import from_arrays
from domadapt.data.catalogue.collection import Collection

def moons(name, part, where):
    return from_arrays([[0.0, 1.0], [1.0, 0.0]] * 10, ["up", "down"] * 10, name=name)

COLLECTIONS = {
    "moons": Collection("two moons", "embedded", "the package", 2, ("upright", "turned"), moons)
}
"""


def test_a_new_room_needs_be_named_nowhere(tmp_path: Path) -> None:
    """A copy of the package with a file more knows its data."""
    import shutil

    import domadapt

    copy = tmp_path / "domadapt"
    shutil.copytree(Path(domadapt.__file__).parent, copy, ignore=shutil.ignore_patterns("*.pyc"))
    (copy / "data" / "catalogue" / "moons.py").write_text(ROOM)
    code = (
        "from domadapt.data import catalogue, load_task; "
        "print([e.name for e in catalogue.tasks() if 'moons' in e.name]); "
        "print(load_task('moons:upright->turned').class_names)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "['moons:upright->turned', 'moons:turned->upright']",
        "('down', 'up')",
    ]
