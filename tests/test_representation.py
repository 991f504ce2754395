"Representations: round trips, the hub, faults"
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hub import hub
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from replearn_nb.core import ReplearnError, local_seed
from replearn_nb.data.images import ImagePreprocessing
from replearn_nb.data.sources import file_sha256
from replearn_nb.encoders.convnets import resnet18, small_convnet
from replearn_nb.representation import CARD, WEIGHTS, Representation, build_encoder

@pytest.fixture
def images():
    with local_seed(0):
        return torch.randint(0, 256, (20, 3, 16, 16), dtype=torch.uint8)


@pytest.fixture
def rep(images):
    with local_seed(1):
        encoder = small_convnet(3, 8)
        encoder(torch.randn(64, 3, 16, 16))  # batch norms that are not trivial
    return Representation(encoder, ImagePreprocessing.fit(images),
                          dict(pretext=dict(name='simclr')))


def embed(rep, items, **kwargs):
    return rep.embed(items, device='cpu', **kwargs)


@pytest.mark.parametrize('make', [
    lambda: small_convnet(3, 4), lambda: resnet18(cifar_stem=True)])
def test_round_trip_is_equal_to_the_bit(make, images, tmp_path):
    with local_seed(2):
        rep = Representation(make(), ImagePreprocessing.fit(images))
    rep.save(tmp_path/'r')
    again = Representation.load(tmp_path/'r')
    a, b = rep.encoder.state_dict(), again.encoder.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)
    assert again.preprocessing == rep.preprocessing
    assert np.array_equal(embed(rep, images), embed(again, images))
    # saved again, the files are the same
    again.save(tmp_path/'s')
    for name in CARD, WEIGHTS:
        assert (tmp_path/'r'/name).read_bytes() == (tmp_path/'s'/name).read_bytes()


def test_every_kind_of_item_gives_the_same_vector(rep, images, tmp_path):
    for i, x in enumerate(images):
        Image.fromarray(x.permute(1, 2, 0).numpy()).save(tmp_path/f'{i:02}.png')
    files = sorted(tmp_path.iterdir())
    want = embed(rep, images)
    pil = [Image.open(f) for f in files]
    kinds = [images.numpy(), images.permute(0, 2, 3, 1).numpy(), images.float() / 255,
             pil, files, [str(f) for f in files], tmp_path, str(tmp_path), list(images)]
    for items in kinds:
        for bs in 1, 7, 256:
            np.testing.assert_allclose(embed(rep, items, bs=bs), want, atol=1e-5)
    np.testing.assert_allclose(embed(rep, pil[0]), want[:1], atol=1e-5)
    assert want.dtype == np.float32 and want.shape == (20, rep.encoder.num_features)


def test_damaged_files_are_left_out_and_named(rep, images, tmp_path):
    for i, x in enumerate(images[:3]):
        Image.fromarray(x.permute(1, 2, 0).numpy()).save(tmp_path/f'{i}.png')
    whole = (tmp_path/'1.png').read_bytes()
    (tmp_path/'1.png').write_bytes(whole[:len(whole) // 2])
    names, skipped = [], []
    v = embed(rep, tmp_path, names=names, skipped=skipped)
    assert names == ['0.png', '2.png'] and [n for n, _ in skipped] == ['1.png']
    np.testing.assert_allclose(v, embed(rep, images[[0, 2]]), atol=1e-5)
    for f in tmp_path.iterdir():
        f.write_bytes(b'no image')
    with pytest.raises(ReplearnError, match='None of 3 images can be read'):
        embed(rep, tmp_path)


def test_somebodys_own_encoder(images, tmp_path):
    class Mean(nn.Module):
        num_features = 3

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return x.mean((2, 3)) * self.scale

    Representation(Mean(), ImagePreprocessing.fit(images)).save(tmp_path/'r')
    with pytest.raises(ReplearnError, match="somebody's own: give it as `encoder`"):
        Representation.load(tmp_path/'r')
    assert Representation.load(tmp_path/'r', encoder=Mean()).encoder.num_features == 3


def test_a_folder_with_other_files_is_left_alone(rep, tmp_path):
    (tmp_path/'r').mkdir()
    (tmp_path/'r'/'thesis.txt').write_text('years of work')
    with pytest.raises(ReplearnError, match='holds other files'):
        rep.save(tmp_path/'r')
    assert (tmp_path/'r'/'thesis.txt').read_text() == 'years of work'
    assert [p.name for p in tmp_path.iterdir()] == ['r']


@pytest.mark.parametrize('changed,says', [
    (dict(arguments=None), "field 'arguments' is None"),
    (dict(modality=[]), "field 'modality' is"),
    (dict(modality='smells'), "knows no modality 'smells'"),
    (dict(modality='../images'), "knows no modality '../images'"),
    (dict(modality='sources'), "knows no modality 'sources'"),
    (dict(format='9'), "field 'format' is"),
    (dict(architecture=3), "field 'architecture' is 3"),
    (dict(preprocessing=[]), "field 'preprocessing' is"),
    (dict(preprocessing={}), 'preprocessing: '),
    (dict(num_features=999), '999 features'),
    (dict(arguments=dict(channels=-1)), 'none that this replearn_nb can build')])
def test_a_card_that_was_edited(rep, tmp_path, changed, says):
    rep.save(tmp_path/'r')
    card = json.loads((tmp_path/'r'/CARD).read_text()) | changed
    (tmp_path/'r'/CARD).write_text(json.dumps(card))
    with pytest.raises(ReplearnError, match=says):
        Representation.load(tmp_path/'r')


@pytest.mark.parametrize('field', ['modality', 'architecture', 'preprocessing'])
def test_a_card_without_a_field(rep, tmp_path, field):
    rep.save(tmp_path/'r')
    card = json.loads((tmp_path/'r'/CARD).read_text())
    del card[field]
    (tmp_path/'r'/CARD).write_text(json.dumps(card))
    with pytest.raises(ReplearnError, match=f"lacks the field '{field}'"):
        Representation.load(tmp_path/'r')


def test_a_user_of_images_loads_nothing_for_texts_or_molecules(rep, images, tmp_path):
    "The card's modality is imported, and no other"
    rep.save(tmp_path/'r')
    np.save(tmp_path/'x.npy', images.numpy())
    out = in_process(f'''
import sys
import numpy as np
import replearn_nb.representation as r
print(*[m for m in sys.modules if m.startswith('replearn_nb.data.')])
rep = r.Representation.load({str(tmp_path/'r')!r})
assert rep.embed(np.load({str(tmp_path/'x.npy')!r}), device='cpu').shape[0] == 20
print(*[m for m in sys.modules if m.startswith('replearn_nb.data.')])
print(*{{'torchtext', 'sentencepiece', 'rdkit'}} & set(sys.modules))
''')
    before, after, others = out.split('\n')[:3]
    assert before == 'replearn_nb.data.sources' and not others
    assert 'replearn_nb.data.images' in after
    assert not {'replearn_nb.data.text', 'replearn_nb.data.molecules'} & set(
        after.split())


def test_a_name_for_tables(rep):
    for pretext, name in (dict(name='mine'), 'mine'), ('mine', 'representation'):
        rep.card['pretext'] = pretext
        assert rep.name == name
    del rep.card['pretext']
    assert rep.name == 'representation'


def test_no_code_runs_from_a_card(rep, tmp_path):
    rep.save(tmp_path/'r')
    card = json.loads((tmp_path/'r'/CARD).read_text())
    for name in 'os.system', 'convnets.nn.Linear', 'convnets.torch', '', 'x':
        (tmp_path/'r'/CARD).write_text(json.dumps(card | dict(
            architecture=name, arguments={})))
        with pytest.raises(ReplearnError, match='none that this replearn_nb can build'):
            Representation.load(tmp_path/'r')


def test_weights_of_other_shapes_are_refused(rep, tmp_path):
    rep.save(tmp_path/'r')
    state = rep.encoder.state_dict()
    first = next(iter(state))
    save_file(state | {first: torch.zeros(3)}, tmp_path/'r'/WEIGHTS)
    card = json.loads((tmp_path/'r'/CARD).read_text())
    (tmp_path/'r'/CARD).write_text(json.dumps(
        card | {'sha256': file_sha256(tmp_path/'r'/WEIGHTS)}))
    with pytest.raises(ReplearnError, match='does not fit the architecture'):
        Representation.load(tmp_path/'r')


def in_process(code: str, **env):
    "Run a program with another environment; its output"
    env = os.environ | {k: str(v) for k, v in env.items()}
    p = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], env=env, text=True,
                       capture_output=True, cwd=Path(__file__).parent, timeout=120)
    assert p.returncode == 0, p.stderr[-2000:]
    return p.stdout


def test_hub(rep, images, tmp_path):
    "Push, load from elsewhere, load again without a network, and what can go wrong"
    rep.save(tmp_path/'r')
    np.save(tmp_path/'x.npy', images.numpy())
    np.save(tmp_path/'want.npy', embed(rep, images))
    use = f'''
import numpy as np
from replearn_nb.representation import Representation as R
def same(r):
    v = r.embed(np.load({str(tmp_path/'x.npy')!r}), device='cpu')
    assert np.array_equal(v, np.load({str(tmp_path/'want.npy')!r}))
def sentence(f):
    try: f()
    except Exception as e: return type(e).__name__ + ': ' + str(e)
'''
    with hub() as (address, repos):
        env = dict(HF_ENDPOINT=address, HF_HOME=tmp_path/'home', HF_TOKEN='hf_x')
        out = in_process(use + f'''
R.load({str(tmp_path/'r')!r}).push_to_hub('ada/digits')
same(R.load('ada/digits'))
print(sentence(lambda: R.load('ada/nothing')))
''', **env)
        assert set(repos['ada/digits']) >= {CARD, WEIGHTS, 'README.md'}
        assert repos['ada/digits'][WEIGHTS] == (tmp_path/'r'/WEIGHTS).read_bytes()
        assert "Representation.load('ada/digits')" in repos[
            'ada/digits']['README.md'].decode()
        assert 'ReplearnError: There is no folder' in out and 'hub gave none' in out
    out = in_process(use + '''
same(R.load('ada/digits'))  # from the cache
print(sentence(lambda: R.load('ada/other')))
print(sentence(lambda: R.load('ada/digits').push_to_hub('ada/again')))
''', **env)
    lines = out.strip().splitlines()
    assert len(lines) == 2 and lines[0].startswith('ReplearnError: There is no folder')
    assert lines[1].startswith("ReplearnError: Can't push to ada/again")


@pytest.mark.skipif(os.getuid() == 0, reason='root may write anywhere')
def test_read_only_folder(rep, tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(ReplearnError, match='Permission denied'):
            rep.save(tmp_path/'r')
    finally:
        tmp_path.chmod(stat.S_IRWXU)


@pytest.mark.parametrize('umask', [0o022, 0o027])
def test_all_files_have_the_permissions_of_the_umask(rep, tmp_path, umask):
    before = os.umask(umask)
    try:
        rep.save(tmp_path/'r')
    finally:
        os.umask(before)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path/'r').iterdir()}
    assert modes == dict.fromkeys([CARD, WEIGHTS], 0o666 & ~umask)
    assert stat.S_IMODE((tmp_path/'r').stat().st_mode) == 0o777 & ~umask


@pytest.mark.parametrize('inner', [False, True])
def test_a_compiled_encoder_is_saved_as_the_plain_one(rep, images, tmp_path, inner):
    want = embed(rep, images)
    if inner:  # a part of it
        rep.encoder.blocks[0] = torch.compile(rep.encoder.blocks[0], backend='eager')
    else:
        rep.encoder = torch.compile(rep.encoder, backend='eager')
    again = Representation.load(rep.save(tmp_path/'r'))
    assert again.card['architecture'] == 'convnets.small_convnet'
    np.testing.assert_allclose(embed(again, images), want, atol=1e-6)


@pytest.mark.parametrize('name', ['transformer.init_weights', 'convnets.load_weights',
                                  'gin.patch', 'convnets.builds'])
def test_only_builders_are_built(name):
    with pytest.raises(ReplearnError, match='none that this replearn_nb can build'):
        build_encoder(name, {})


@pytest.mark.parametrize('argument', [
    'checkpoint_path', 'pretrained_cfg', 'pretrained_cfg_overlay', 'cache_dir', 'exec'])
def test_a_card_gives_timm_no_file_and_no_address(argument, tmp_path):
    pytest.importorskip('timm')
    (tmp_path/'w').write_bytes(b'')
    with pytest.raises(ReplearnError, match=f"'{argument}' is none that a card may"):
        build_encoder('convnets.timm_encoder', {
            'name': 'resnet10t', argument: str(tmp_path/'w')})
    encoder = build_encoder('convnets.timm_encoder', dict(
        name='resnet10t', in_chans=1, drop_path_rate=.1, pretrained=True))
    assert encoder.arguments == dict(
        name='resnet10t', in_chans=1, drop_path_rate=.1, pretrained=False)


def test_a_failed_replacement_puts_the_old_one_back(rep, images, tmp_path, monkeypatch):
    rep.save(tmp_path/'r')
    want, replace = embed(rep, images), Path.replace

    def fails(self, target):
        if self.name.startswith('.r.') and '.old.' not in self.name:
            raise OSError(5, 'Input/output error')
        return replace(self, target)
    monkeypatch.setattr(Path, 'replace', fails)
    with pytest.raises(ReplearnError, match="Can't write .*Input/output error"):
        rep.save(tmp_path/'r')
    assert [p.name for p in tmp_path.iterdir()] == ['r']
    assert np.array_equal(embed(Representation.load(tmp_path/'r'), images), want)
