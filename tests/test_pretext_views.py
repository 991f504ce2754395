"Views: pixels against torchvision for given parameters, statistics against the paper"
import math

import pytest
import torch
import torchvision.transforms.v2.functional as tv
from scipy.stats import ks_2samp, kstest
from torchvision.transforms import InterpolationMode, RandomResizedCrop

from replearn_nb.core import local_seed
from replearn_nb.pretext import views as V

@pytest.fixture(autouse=True)
def seeded():
    with local_seed(0):
        yield


@pytest.mark.parametrize('box', [(0, 0, 32, 32), (3, 5, 20, 9), (10, 0, 7, 31)])
@pytest.mark.parametrize('size', [12, 32, 48])
def test_crop_resize_equals_torchvision(box, size):
    x = torch.rand(2, 3, 32, 32)
    want = tv.resized_crop(x, *box, [size, size], InterpolationMode.BICUBIC, True)
    got = V.crop_resize(x, torch.tensor([box] * 2), size)
    torch.testing.assert_close(got, want.clamp(0, 1), atol=1e-5, rtol=0)


def test_crops_differ_between_images_of_a_batch():
    x = torch.rand(2, 3, 16, 16)
    boxes = torch.tensor([[0, 0, 8, 8], [4, 2, 12, 10]])
    got = V.crop_resize(x, boxes, 16)
    for i in range(2):
        one = V.crop_resize(x[i:i + 1], boxes[i:i + 1], 16)
        torch.testing.assert_close(got[i:i + 1], one)


def test_boxes_have_torchvisions_distribution():
    boxes = V.random_boxes(4000, 32, 32)
    image = torch.zeros(3, 32, 32)
    peer = torch.tensor([RandomResizedCrop.get_params(image, (.08, 1), (3/4, 4/3))
                         for _ in range(4000)])
    for k in range(4):
        assert ks_2samp(boxes[:, k], peer[:, k]).pvalue > 1e-3
    area = boxes[:, 2] * boxes[:, 3] / 1024
    aspect = boxes[:, 3] / boxes[:, 2]
    assert .07 < area.min() < .1 and area.max() <= 1
    # sides are whole pixels, so a small box's aspect is off by up to half a pixel
    assert .65 < aspect.min() < .78 and 1.28 < aspect.max() < 1.5
    assert abs(aspect.log().mean()) < .02  # as often wide as high


@pytest.mark.parametrize('h, w', [(1, 1), (2, 50), (50, 2)])
def test_boxes_of_odd_images_lie_inside(h, w):
    top, left, bh, bw = V.random_boxes(500, h, w).T
    assert (bh >= 1).all() and (bw >= 1).all()
    assert (top + bh <= h).all() and (left + bw <= w).all() and (top >= 0).all()


PEER = {V.BRIGHTNESS: tv.adjust_brightness, V.CONTRAST: tv.adjust_contrast,
        V.SATURATION: tv.adjust_saturation, V.HUE: tv.adjust_hue}


@pytest.mark.parametrize('order', [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)])
def test_jitter_equals_torchvision(order):
    x = torch.rand(2, 3, 16, 16)
    factors, turn = torch.tensor([.4, 1.6, 1.3]), .15
    want = x
    for op in order:
        want = PEER[op](want, turn if op == V.HUE else float(factors[op]))
    got = V.jitter(x, factors.expand(2, 3), torch.full((2,), turn),
                   torch.tensor([order] * 2))
    torch.testing.assert_close(got, want, atol=2e-5, rtol=0)


def test_jitter_of_grey_images_keeps_one_channel():
    assert V.ColourJitter()(torch.rand(4, 1, 8, 8)).shape == (4, 1, 8, 8)


def test_jitter_ranges_and_probability(monkeypatch):
    seen = {}

    def spy(x, factors, turn, order):
        seen.update(factors=factors, turn=turn, order=order)
        return x + 1

    monkeypatch.setattr(V, 'jitter', spy)
    y = V.ColourJitter(.5)(torch.zeros(20_000, 3, 1, 1))
    assert abs((y[:, 0, 0, 0] == 1).float().mean() - .8) < .01
    for k in range(3):
        assert kstest(seen['factors'][:, k], 'uniform', (.6, .8)).pvalue > 1e-3
    assert kstest(seen['turn'], 'uniform', (-.1, .2)).pvalue > 1e-3
    first = seen['order'][:, 0].bincount() / 20_000
    assert (first - .25).abs().max() < .02  # each operation comes first equally often


@pytest.mark.parametrize('view, p', [(V.RandomFlip(), .5), (V.RandomGrey(), .2),
                                     (V.GaussianBlur(), .5), (V.Cutout(), .5)])
def test_probabilities(view, p):
    x = torch.rand(1, 3, 8, 8).expand(5000, -1, -1, -1)
    changed = (view(x) != x).flatten(1).any(1).float().mean()
    assert abs(changed - p) < 4 * math.sqrt(p * (1 - p) / 5000)


def test_grey_equals_torchvision():
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(V.grey(x), tv.rgb_to_grayscale(x, 1), atol=1e-6, rtol=0)


@pytest.mark.parametrize('sigma', [.1, .7, 2.])
@pytest.mark.parametrize('radius', [1, 4])
def test_blur_equals_torchvision(sigma, radius):
    x = torch.rand(2, 3, 20, 16)
    want = tv.gaussian_blur(x, [2 * radius + 1] * 2, [sigma] * 2)
    got = V.blur(x, torch.full((2,), sigma), radius)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize('shape', [(8, 8), (12, 8)])
def test_affine_equals_torchvision(shape):
    x = torch.rand(1, 1, *shape)
    angle, shift, scale, shear = 17., [2, -1], 1.2, [8., -5.]
    want = tv.affine(x, angle, shift, scale, shear, InterpolationMode.BILINEAR)
    got = V.affine(x, torch.tensor([angle]).deg2rad(), torch.tensor([shift]).float(),
                   torch.tensor([scale]), torch.tensor([shear]).deg2rad())
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_noise_and_cutout():
    x = torch.full((4000, 1, 8, 8), .5)
    sigma = (V.RandomNoise(.2)(x) - x).flatten(1).std(1)
    # U(0, .2), but for the error of an estimate from 64 pixels
    assert abs(sigma.mean() - .1) < .005 and abs(sigma.std() - .2 / 12**.5) < .005
    hole = (V.Cutout(3, p=1.)(x) == 0).flatten(1).sum(1)
    assert set(hole.tolist()) == {4, 6, 9}  # at a corner, at a side, inside


def test_two_views_of_one_image_differ_and_bytes_equal_floats():
    x = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    views = V.simclr_views(32, 1, blur=True)
    y = views(torch.cat([x, x]))
    assert y.dtype == torch.float32 and (y >= 0).all() and (y <= 1).all()
    assert ((y[:8] - y[8:]).abs().flatten(1).mean(1) > 1e-3).all()
    with local_seed(1):
        a = views(x)
    with local_seed(1):
        b = views(x.float() / 255)
    assert torch.equal(a, b)
