"Our ResNets beside torchvision's, and what goes wrong with weights and names"
import pytest
import torch
from torch import nn
from torchvision import models

from replearn_nb.core import Encoder, ReplearnError, check_encoder
from replearn_nb.encoders import convnets
from replearn_nb.encoders.convnets import load_torchvision, small_convnet, timm_encoder

NAMES = 'resnet18', 'resnet34', 'resnet50'


@pytest.mark.parametrize('name', NAMES)
def test_resnet_equals_torchvision(name):
    torch.manual_seed(0)
    theirs = getattr(models, name)()
    for m in theirs.modules():  # statistics as after training, not 0 and 1
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, .5, 1.5)
            nn.init.normal_(m.bias, 0, .1)
            nn.init.normal_(m.running_mean, 0, .1)
            nn.init.uniform_(m.running_var, .5, 1.5)
    ours = load_torchvision(getattr(convnets, name)(), theirs.state_dict())
    theirs.fc = nn.Identity()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        for mode in False, True:
            a, b = ours.train(mode)(x), theirs.train(mode)(x)
            assert a.shape == (4, ours.num_features)
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.std()))
    for k, v in theirs.state_dict().items():  # running statistics after training mode
        torch.testing.assert_close(ours.state_dict()[k], v, rtol=1e-5, atol=1e-6)


def test_our_weights_load_into_torchvision():
    ours, theirs = convnets.resnet18(), models.resnet18()
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert missing == ['fc.weight', 'fc.bias'] and not unexpected


def test_resnet_starts_like_torchvision():
    torch.manual_seed(0)
    ours, theirs = convnets.resnet50(), models.resnet50()
    for k, v in ours.state_dict().items():
        w = theirs.state_dict()[k]
        if v.ndim == 4:
            assert v.std() == pytest.approx(w.std().item(), rel=.05), k
        else:
            assert torch.equal(v, w), k


def test_gradients_equal_torchvision():
    torch.manual_seed(0)
    theirs = models.resnet18().double()
    ours = load_torchvision(convnets.resnet18().double(), theirs.state_dict())
    theirs.fc = nn.Identity()
    x = torch.randn(2, 3, 48, 48, dtype=torch.float64)
    for m in ours, theirs:
        m(x).square().sum().backward()
    for (k, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-8, atol=1e-10, msg=k)


@pytest.mark.parametrize('width', [1, 2, 4])
@pytest.mark.parametrize('name', NAMES)
def test_width_multiplies_every_channel(name, width):
    with torch.device('meta'):
        one = getattr(convnets, name)().state_dict()
        wide = getattr(convnets, name)(width=width)
    assert wide.num_features == width * (2048 if name == 'resnet50' else 512)
    for k, v in wide.state_dict().items():
        grown = [width * n for n in one[k].shape[:2]] + list(one[k].shape[2:])
        if k == 'conv1.weight':
            grown[1] = 3  # the image's
        assert list(v.shape) == grown, k


@pytest.mark.parametrize('make', [
    lambda **k: small_convnet(width=8, **k),
    lambda **k: convnets.resnet18(cifar_stem=True, **k), convnets.resnet50])
@pytest.mark.parametrize('channels', [1, 3])
def test_contract(make, channels):
    encoder, x = make(channels=channels).eval(), torch.rand(2, channels, 32, 32)
    assert isinstance(check_encoder(encoder, x), Encoder)
    with torch.no_grad():
        z, fmap = encoder(x), encoder.forward_features(x)
        torch.testing.assert_close(z, fmap.mean((2, 3)))
        last = encoder.to(memory_format=torch.channels_last)
        z_last = last(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(z_last, z, rtol=1e-4, atol=1e-5)


def test_cifar_stem():
    encoder = convnets.resnet18(cifar_stem=True)
    assert encoder.conv1.kernel_size == (3, 3) and encoder.conv1.stride == (1, 1)
    assert encoder.forward_features(torch.rand(2, 3, 32, 32)).shape == (2, 512, 4, 4)
    assert not any(k.startswith('maxpool') for k in encoder.state_dict())


def test_rebuilt_from_its_arguments():
    for encoder in small_convnet(3, width=4), convnets.resnet18(2, cifar_stem=True):
        module, name = encoder.architecture.split('.')
        assert module == 'convnets'
        again = getattr(convnets, name)(**encoder.arguments)
        again.load_state_dict(encoder.state_dict())


def test_wrong_weights_are_named():
    state = models.resnet18().state_dict()
    with pytest.raises(ReplearnError, match=r'conv1\.weight has shape \(64, 3, 7, 7\)'):
        load_torchvision(convnets.resnet18(channels=1), state)
    with pytest.raises(ReplearnError, match='only in the encoder'):
        load_torchvision(convnets.resnet50(), state)
    del state['bn1.weight']
    with pytest.raises(ReplearnError, match='bn1.weight is only in the encoder'):
        load_torchvision(convnets.resnet18(), state)


@pytest.mark.parametrize('name, size', [
    ('resnet10t', 64), ('vit_tiny_patch16_224', 224), ('mobilenetv3_small_050', 64)])
def test_timm(name, size):
    pytest.importorskip('timm')
    encoder = timm_encoder(name)
    check_encoder(encoder, torch.rand(1, 3, size, size))
    assert encoder.forward_features(torch.rand(1, 3, size, size)).ndim in (3, 4)
    assert encoder.architecture == 'convnets.timm_encoder'


def test_timm_options_and_names():
    pytest.importorskip('timm')
    encoder = timm_encoder('vit_tiny_patch16_224', in_chans=1, img_size=32)
    check_encoder(encoder, torch.rand(1, 1, 32, 32))
    with pytest.raises(ReplearnError, match="no model named 'resnt50'.*resnet50"):
        timm_encoder('resnt50')
    with pytest.raises(ReplearnError, match='no model named'):
        timm_encoder('')
