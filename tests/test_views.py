from __future__ import annotations

import json
import random
import time

import numpy as np
import pytest
import torch
from torch import Tensor

from domadapt.data.views import (
    AUGMENTATIONS,
    Preprocessing,
    _erase,
    make_views,
    views_from_config,
)
from domadapt.errors import DomadaptError
from domadapt.task import Raw


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(n: int = 6, height: int = 16, width: int = 16) -> Tensor:
    return torch.randint(256, (n, 3, height, width), dtype=torch.uint8, generator=gen(9))


def mixed() -> list[Tensor]:
    return [pictures(1, 20 + 3 * i, 30 - 2 * i)[0] for i in range(6)]


def raw_of(kind: str) -> Raw:
    if kind == "vector":
        return torch.randn(6, 10, generator=gen(9)).half()
    if kind == "series":
        return torch.randn(6, 4, 50, generator=gen(9)).half()
    if kind == "text":
        ids = torch.arange(60).view(6, 10)
        return {"input_ids": ids, "attention_mask": (ids % 10 < 8).long()}
    return mixed() if kind == "mixed" else pictures()


def views_of(kind: str, augment: str):
    if kind == "mixed":
        return make_views("image", augment, Preprocessing(size=(24, 24)))
    return make_views(kind, augment)


def same(a: object, b: object) -> bool:
    if isinstance(a, dict):
        return all(torch.equal(a[k], b[k]) for k in a)
    return torch.equal(a, b)


CASES = [(kind, name) for kind, names in AUGMENTATIONS.items() for name in names]
CASES += [("mixed", name) for name in AUGMENTATIONS["image"]]
RANDOM_STRONG = [case for case in CASES if case[1] != "none"]
RANDOM_WEAK = [case for case in RANDOM_STRONG if case[1] not in ("vector", "features", "tokens")]


@pytest.mark.parametrize(("kind", "augment"), CASES)
def test_views_depend_on_the_generator_alone(kind: str, augment: str) -> None:
    views, raw = views_of(kind, augment), raw_of(kind)
    for view, cases in ((views.weak, RANDOM_WEAK), (views.strong, RANDOM_STRONG)):
        torch.manual_seed(1)
        first = view(raw, gen(5))
        torch.manual_seed(2)
        assert same(first, view(raw, gen(5)))
        assert same(first, view(raw, gen(6))) == ((kind, augment) not in cases)


@pytest.mark.parametrize(("kind", "augment"), CASES)
def test_the_global_random_state_is_untouched(kind: str, augment: str) -> None:
    views, raw = views_of(kind, augment), raw_of(kind)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    views.evaluation(raw)
    views.weak(raw, gen())
    views.strong(raw, gen())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]  # noqa: NPY002


@pytest.mark.parametrize(("kind", "augment"), CASES)
def test_shapes_and_ranges_are_those_of_evaluation(kind: str, augment: str) -> None:
    views, raw = views_of(kind, augment), raw_of(kind)
    plain = views.evaluation(raw)
    assert same(plain, views.evaluation(raw))
    for x in (plain, views.weak(raw, gen()), views.strong(raw, gen())):
        if isinstance(x, dict):
            assert {k: v.shape for k, v in x.items()} == {k: v.shape for k, v in raw.items()}
            assert torch.equal(x["input_ids"], raw["input_ids"])
            continue
        assert x.dtype == torch.float32
        assert x.shape == plain.shape
        assert x.isfinite().all()
        if kind in ("image", "mixed"):
            assert x.shape[:2] == (6, 3)
            assert 0 <= x.min() < x.max() <= 1


@pytest.mark.parametrize(("kind", "augment"), CASES)
def test_the_raw_batch_is_not_changed(kind: str, augment: str) -> None:
    views, raw, kept = views_of(kind, augment), raw_of(kind), raw_of(kind)
    views.evaluation(raw)
    views.weak(raw, gen())
    views.strong(raw, gen())
    pairs = zip(raw, kept, strict=True) if isinstance(raw, list) else [(raw, kept)]
    assert all(same(a, b) for a, b in pairs)


def test_strong_changes_more_than_weak() -> None:
    for kind, augment in RANDOM_STRONG:
        if kind in ("mixed", "text"):
            continue
        views, raw = views_of(kind, augment), raw_of(kind)
        plain = views.evaluation(raw)
        by = [
            sum(float((view(raw, gen(s)) - plain).abs().mean()) for s in range(20))
            for view in (views.weak, views.strong)
        ]
        assert by[0] < by[1], augment


def test_about_one_token_in_seven_is_masked_and_never_the_first() -> None:
    views, raw = views_of("text", "tokens"), raw_of("text")
    assert same(views.weak(raw, gen()), raw)
    before = raw["attention_mask"]
    after = torch.stack([views.strong(raw, gen(s))["attention_mask"] for s in range(300)])
    assert not (after > before).any()
    assert (after[..., 0] == 1).all()
    share = float((before - after.float()).mean(0)[:, 1:8].mean())
    assert 0.13 < share < 0.17


def half_white(n: int) -> Tensor:
    x = torch.zeros(n, 3, 16, 16, dtype=torch.uint8)
    x[..., :6] = 255
    return x


def share_mirrored(x: Tensor) -> float:
    return float((x[..., :8].mean(dim=(1, 2, 3)) < x[..., 8:].mean(dim=(1, 2, 3))).float().mean())


def test_glyphs_are_never_mirrored_and_photos_half_the_time() -> None:
    raw = half_white(400)
    glyph, photo = make_views("image", "glyph"), make_views("image", "photo")
    assert share_mirrored(glyph.weak(raw, gen())) == 0
    assert share_mirrored(glyph.strong(raw, gen())) == 0
    assert 0.4 < share_mirrored(photo.weak(raw, gen())) < 0.6
    sized = make_views("image", "photo", Preprocessing(size=(16, 16)))
    assert 0.4 < share_mirrored(sized.weak(list(raw), gen())) < 0.6


def test_glyphs_keep_dark_on_light_and_light_on_dark() -> None:
    raw = torch.zeros(400, 3, 16, 16, dtype=torch.uint8)
    raw[..., 5:11, 5:11] = 255
    views = make_views("image", "glyph")
    for x, sign in ((raw, 1), (255 - raw, -1)):
        got = views.strong(x, gen())
        inside = got[..., 7:9, 7:9].mean(dim=(1, 2, 3))
        corner = (got[..., :2, :2].mean(dim=(1, 2, 3)) + got[..., -2:, -2:].mean(dim=(1, 2, 3))) / 2
        # An erased patch may hide the mark; nothing may turn it round.
        assert (sign * (inside - corner) > -0.1).all()
        assert (sign * (inside - corner) > 0.2).float().mean() > 0.8


def test_erasing_takes_one_rectangle_of_half_the_pictures() -> None:
    x = torch.rand(400, 3, 40, 40, generator=gen())
    got = _erase(x, gen(), area=(0.1, 0.2))
    erased = (got != x).all(dim=1)
    hit = erased.flatten(1).any(dim=1)
    assert 0.4 < float(hit.float().mean()) < 0.6
    share = erased[hit].float().mean(dim=(1, 2))
    assert 0.08 < share.min() < share.max() < 0.22
    rows, columns = erased[hit].any(dim=2).sum(dim=1), erased[hit].any(dim=1).sum(dim=1)
    assert torch.equal(erased[hit].sum(dim=(1, 2)), rows * columns)
    assert torch.equal(got.movedim(1, 3)[~erased], x.movedim(1, 3)[~erased])


def test_a_photo_crop_keeps_between_half_and_all_of_the_picture() -> None:
    # Each pixel tells its own place, so the corners of a view tell the box it was cut from.
    ramp = torch.linspace(0, 255, 256).round().byte()
    place = torch.stack([ramp[None].expand(256, 256), ramp[:, None].expand(256, 256)])
    raw = torch.cat([place, place[:1]])[None].expand(200, -1, -1, -1).contiguous()
    views = make_views("image", "photo", Preprocessing(size=(64, 64)))
    for got in (views.weak(raw, gen(1)), views.weak(list(raw), gen(1))):
        wide = (got[:, 0, :, -1] - got[:, 0, :, 0]).abs().mean(dim=1)
        high = (got[:, 1, -1, :] - got[:, 1, 0, :]).mean(dim=1)
        area, ratio = wide * high, wide / high
        assert 0.45 < area.min() < 0.55
        assert 0.85 < area.max() <= 1
        assert 0.7 < ratio.min() < ratio.max() < 1.45


def test_one_tensor_and_a_list_of_equal_photos_agree() -> None:
    smooth = torch.nn.functional.interpolate(pictures(4, 6, 6).float(), (80, 60), mode="bicubic")
    raw = smooth.clamp(0, 255).byte()
    views = make_views("image", "photo", Preprocessing(size=(48, 48)))
    one, many = views.weak(raw, gen(3)), views.weak(list(raw), gen(3))
    assert float((one - many).abs().mean()) < 0.03
    assert torch.equal(views.evaluation(raw), views.evaluation(list(raw)))


def test_evaluation_resizes_and_cuts_the_centre() -> None:
    raw = torch.zeros(1, 3, 40, 80, dtype=torch.uint8)
    raw[..., 20:60] = 255  # the middle square is white
    cut = make_views("image", None, Preprocessing(size=(20, 20), resize=20)).evaluation(raw)
    assert cut.shape == (1, 3, 20, 20)
    assert cut.min() > 0.8  # the resize softens the edges of the square
    squeezed = make_views("image", None, Preprocessing(size=(20, 20))).evaluation(raw)
    assert squeezed[..., 0].max() == 0
    assert float(squeezed.mean()) == pytest.approx(0.5, abs=0.02)
    same_size = make_views("image", None).evaluation(raw)
    assert torch.equal(same_size, raw.float() / 255)


def test_resolution_serves_where_no_size_is_asked_for() -> None:
    assert make_views("image", resolution=(8, 9)).evaluation(pictures()).shape[-2:] == (8, 9)
    both = make_views("image", None, Preprocessing(size=(5, 5)), resolution=(8, 9))
    assert both.weak(pictures(), gen()).shape[-2:] == (5, 5)


@pytest.mark.parametrize("augment", ["photo", "glyph", "none"])
def test_mixed_sizes_need_a_size(augment: str) -> None:
    views = make_views("image", augment)
    with pytest.raises(DomadaptError, match="20x30 and 35x20"):
        views.evaluation(mixed())
    for view in (views.weak, views.strong):
        with pytest.raises(DomadaptError, match="Give a size"):
            view(mixed(), gen())


@pytest.mark.parametrize("augment", ["photo", "glyph", "none"])
def test_a_list_of_images_of_one_size_is_as_good_as_a_tensor(augment: str) -> None:
    views = make_views("image", augment)
    assert torch.equal(views.evaluation(list(pictures())), views.evaluation(pictures()))
    for view in (views.weak, views.strong):
        assert torch.equal(view(list(pictures()), gen()), view(pictures(), gen()))


def test_vectors_noise_follows_the_scale_and_masks_a_fifth() -> None:
    x = torch.ones(500, 40) * torch.linspace(1, 5, 40)
    scale = torch.linspace(0, 3, 40)
    got = make_views("vector", "features", scale=scale).strong(x, gen())
    zero = got == 0
    assert 0.18 < float(zero.float().mean()) < 0.22
    noise = torch.stack([(got - x)[:, j][~zero[:, j]].std() for j in range(40)])
    assert torch.allclose(noise, 0.1 * scale, atol=0.03)
    swapped = make_views("vector", "vector", scale=0 * scale).strong(x, gen())
    assert torch.equal(swapped, x)  # all rows are equal: values of another row change nothing


def test_masked_table_values_come_from_another_row_of_the_same_column() -> None:
    x = torch.arange(200.0).view(20, 10)
    got = make_views("vector", None, scale=torch.zeros(10)).strong(x, gen())
    changed = got != x
    assert 0.1 < float(changed.float().mean()) < 0.3
    assert torch.equal(got % 10, x % 10)


def test_series_noise_follows_the_scale_and_a_stretch_is_flat() -> None:
    x = torch.sin(torch.arange(100.0)).expand(50, 2, 100)
    views = make_views("series", None, scale=torch.tensor([0.0, 1.0]))
    weak = views.weak(x, gen())
    quiet = weak[:, 0] / x[:, 0].where(x[:, 0] != 0, torch.ones(()))
    assert torch.allclose(quiet[:, 1:], quiet[:, 1:2].expand(-1, 99), atol=1e-4)
    assert 0.05 < float(quiet[:, 1].std()) < 0.15
    strong = views.strong(x, gen())
    flat = (strong == x.mean(dim=2, keepdim=True)).all(dim=1)
    assert ((flat.sum(dim=1) >= 9) & (flat.sum(dim=1) <= 31)).all()
    edges = (flat[:, 1:] != flat[:, :-1]).sum(dim=1)
    assert (edges <= 2).all()  # one stretch


@pytest.mark.parametrize(("kind", "augment"), [c for c in CASES if c[0] != "mixed"])
def test_a_configuration_rebuilds_the_views(kind: str, augment: str) -> None:
    views, raw = make_views(kind, augment), raw_of(kind)
    again = views_from_config(json.loads(json.dumps(views.config())))
    assert json.dumps(again.config()) == json.dumps(views.config())
    assert same(again.evaluation(raw), views.evaluation(raw))
    assert same(again.strong(raw, gen()), views.strong(raw, gen()))


def test_a_configuration_keeps_preprocessing_and_resolution() -> None:
    asked = Preprocessing((20, 18), 24, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    views = make_views("image", "glyph", asked, resolution=(7, 7))
    again = views_from_config(json.loads(json.dumps(views.config())))
    assert again.config()["preprocessing"] == views.config()["preprocessing"]
    assert torch.equal(again.evaluation(mixed()), views.evaluation(mixed()))
    small = make_views("image", "none", resolution=(7, 9))
    again = views_from_config(json.loads(json.dumps(small.config())))
    assert again.evaluation(mixed()).shape == (6, 3, 7, 9)


def test_names_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DomadaptError, match="Did you mean 'glyph'"):
        make_views("image", "glyphs")
    with pytest.raises(DomadaptError, match="Known: features, none, vector"):
        make_views("vector", "photo")
    with pytest.raises(DomadaptError, match="kind of data"):
        make_views("video")
    with pytest.raises(DomadaptError, match="no larger"):
        Preprocessing((224, 224), 200)
    with pytest.raises(DomadaptError, match="go together"):
        Preprocessing(mean=(0.5,))
    with pytest.raises(DomadaptError, match="height and a width"):
        Preprocessing(size=(224,))
    with pytest.raises(DomadaptError, match="needs a size"):
        Preprocessing(resize=20)


def test_a_batch_of_small_images_costs_less_than_a_step() -> None:
    views, raw, g = make_views("image", "glyph"), pictures(64), gen()
    times = []
    for _ in range(30):
        start = time.perf_counter()
        views.weak(raw, g)
        times.append(time.perf_counter() - start)
    # 0.3 ms on one idle core; one image at a time it took over 10.
    assert min(times) < 2e-3
