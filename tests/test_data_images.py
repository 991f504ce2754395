"Odd and damaged images, folders, labels, splits, and fastai's DataLoaders"
import io
import os
import re
import signal
import struct
import subprocess
import sys
import tarfile
import time
import unicodedata
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from fastai.vision.all import (
    CategoryBlock,
    DataBlock,
    DataLoaders,
    ImageBlock,
    MultiCategoryBlock,
    Normalize,
    RandomSplitter,
    Resize,
    aug_transforms,
    get_image_files,
    parent_label,
)
from PIL import Image
from torchvision.transforms import functional as tv

from replearn_nb.core import ReplearnError
from replearn_nb.data import images as module
from replearn_nb.data.images import (
    CIFAR10,
    ImagePreprocessing,
    _rows,
    as_uint8,
    cifar10,
    digits,
    fashion_mnist,
    from_arrays,
    from_dls,
    image_files,
    image_folder,
    load_image,
    load_images,
    own_images,
    printable,
    read_labels,
    show_images,
    split_images,
)

rng = np.random.default_rng(0)
PHOTO = np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)


def photo(mode='RGB'):
    return Image.fromarray(PHOTO).convert(mode)


def message(fn, *args, **kwargs):
    with pytest.raises(ReplearnError) as e:
        fn(*args, **kwargs)
    assert '\n' not in str(e.value)
    return str(e.value)


def error(a, b):
    return np.abs(a.astype(float) - b.astype(float)).mean()


# One image

GREY = np.asarray(photo('L'))[None].repeat(3, 0)
COLOUR = PHOTO.transpose(2, 0, 1)


@pytest.mark.parametrize('mode, suffix, want, off', [
    ('RGB', 'png', COLOUR, 0), ('RGB', 'jpg', COLOUR, 8), ('RGB', 'webp', COLOUR, 8),
    ('RGB', 'bmp', COLOUR, 0), ('RGBA', 'png', COLOUR, 0), ('CMYK', 'jpg', COLOUR, 6),
    ('CMYK', 'tif', COLOUR, 0), ('YCbCr', 'jpg', COLOUR, 8), ('P', 'png', COLOUR, 30),
    ('P', 'gif', COLOUR, 30), ('L', 'png', GREY, 0), ('L', 'jpg', GREY, 3),
    ('LA', 'png', GREY, 0), ('I', 'tif', GREY, 0),
    ('1', 'png', np.asarray(photo('1').convert('RGB')).transpose(2, 0, 1), 0),
])
def test_modes(tmp_path, mode, suffix, want, off):
    photo(mode).save(tmp_path/f'a.{suffix}', **(dict(quality=95) if off else {}))
    got = load_image(tmp_path/f'a.{suffix}')
    assert got.dtype == np.uint8 and got.shape == (3, 48, 64)
    assert error(got, want) <= off
    assert load_image(tmp_path/f'a.{suffix}', 32, channels=1).shape == (1, 32, 32)


def test_16_bits(tmp_path):
    deep = np.asarray(photo('L')).astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path/'a.png')
    Image.fromarray(deep).save(tmp_path/'a.tif')
    for name in 'a.png', 'a.tif':
        np.testing.assert_array_equal(load_image(tmp_path/name), GREY)


def test_floats(tmp_path):
    "By the type's range, whatever else is in the picture"
    grey = np.asarray(photo('L'), dtype=np.float32)
    for top, want in (255, GREY), (510, (GREY / 2).round()):
        Image.fromarray(grey / top).save(tmp_path/'a.tif')
        np.testing.assert_array_equal(load_image(tmp_path/'a.tif'), want)


@pytest.mark.parametrize('low, high, kind', [
    (0, 1.05, 'f4'), (0, 4095, 'f4'), (-296, 307, 'f4'), (0, np.nan, 'f4'),
    (0, np.inf, 'f4'), (0, 256, 'i4'), (-1, 255, 'i4'), (0, 65535, 'i4')])
def test_unknown_range_is_refused(tmp_path, low, high, kind):
    "Nothing says what is white in such a file: it is not guessed, nor clipped"
    a = np.full((8, 8), low, kind)
    a[0, 0] = high
    Image.fromarray(a).save(tmp_path/'a.tif')
    text = message(load_image, tmp_path/'a.tif')
    assert 'a.tif' in text and 'nothing says which are black and white' in text


def tiff(values: np.ndarray, bits: int, photometric: int = 1) -> bytes:
    "A TIFF of one row of grey, written by hand"
    rest = ''.join(f'{v:0{bits}b}' for v in values)
    data = values.astype('<u2').tobytes() if bits == 16 else bytes(
        int(rest[i:i + 8].ljust(8, '0'), 2) for i in range(0, len(rest), 8))
    tags = {256: len(values), 257: 1, 258: bits, 259: 1, 262: photometric, 273: 134,
            277: 1, 278: 1, 279: len(data), 339: 1}
    body = b''.join(struct.pack('<HHII', k, 4, 1, v) for k, v in tags.items())
    return b'II*\0' + struct.pack('<IH', 8, len(tags)) + body + bytes(4) + data


@pytest.mark.parametrize('bits, photometric', [(12, 1), (16, 1), (16, 0)])
def test_deep_greys_from_black_to_white(bits, photometric):
    "And from white to black, where the file says that 0 is white"
    top = 2**bits - 1
    a = np.linspace(0, top, 16).round().astype(int)
    got = load_image(io.BytesIO(tiff(a, bits, photometric)), channels=1)
    want = (a if photometric else top - a) * 255 / top
    np.testing.assert_array_equal(got[0, 0], want.round())


@pytest.mark.parametrize('suffix', ['gif', 'png', 'webp', 'tif', 'mpo'])
def test_first_picture_of_several(tmp_path, suffix):
    options = dict(webp=dict(lossless=True), mpo=dict(quality=95)).get(suffix, {})
    photo().save(tmp_path/f'a.{suffix}', save_all=True, **options,
                 append_images=[Image.fromarray(255 - PHOTO)] * 2)
    assert error(load_image(tmp_path/f'a.{suffix}'), COLOUR) <= 8


@pytest.mark.parametrize('top', [255, 1023, 4095, 65535])
def test_portable_greymaps(top):
    a = np.linspace(0, top, 16).round().astype('u1' if top == 255 else '>u2')
    file = io.BytesIO(b'P5 16 1 %d\n' % top + a.tobytes())
    got = load_image(file, channels=1)[0, 0].astype(float)
    assert np.abs(got - a * 255. / top).max() < 1


def test_almost_black_folder_is_told(tmp_path, capsys):
    "12 bits in a type of 16: read as they stand, and it is said"
    for i in range(5):
        ramp = np.linspace(0, 4095, 64).reshape(8, 8).astype(np.uint16)
        Image.fromarray(ramp).save(tmp_path/f'{i}.png')
    told = '5 of 5 images are almost black'
    assert image_folder(tmp_path, 8).x.max() == 16
    assert capsys.readouterr().err.count(told) == 1
    ImagePreprocessing(8, 3, [0] * 3, [1] * 3).prepare(tmp_path)
    assert capsys.readouterr().err.count(told) == 1
    photo('L').save(tmp_path/'0.png')
    for i in '12':
        photo().save(tmp_path/f'{i}.png')
    image_folder(tmp_path, 8)
    assert 'almost black' not in capsys.readouterr().err


def test_transparent_palette(tmp_path):
    img = Image.new('P', (4, 4), 0)
    img.putpalette([255, 0, 0, 0, 0, 255])
    img.putpixel((0, 0), 1)
    img.save(tmp_path/'a.gif', transparency=0)
    got = load_image(tmp_path/'a.gif')
    assert got[:, 0, 0].tolist() == [0, 0, 255] and (got[:, 1:] == 255).all()


@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientation(tmp_path, orientation):
    "A photo whose EXIF says how to turn it, against the turn by hand"
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo().save(tmp_path/'a.png', exif=exif)
    by_hand = [PHOTO, PHOTO[:, ::-1], PHOTO[::-1, ::-1], PHOTO[::-1],
               PHOTO.transpose(1, 0, 2), np.rot90(PHOTO, -1),
               PHOTO[::-1, ::-1].transpose(1, 0, 2), np.rot90(PHOTO)][orientation - 1]
    got = load_image(tmp_path/'a.png')
    np.testing.assert_array_equal(got, by_hand.transpose(2, 0, 1))


def exif(*tags):
    "EXIF by hand: (number, type, count, value), as they stand"
    body = b''.join(struct.pack('>HHII', *t) for t in tags)
    return b'Exif\0\0MM\0*' + struct.pack('>IH', 8, len(tags)) + body + bytes(4)


TURN = 0x0112, 3, 1, 6 << 16  # lies on its side
JUNK = [b'', b'Exif\0\0', b'\x00\x08\x00\x02\x01\x12\x00\x03', bytes(200),
        b'Exif\0\0' + rng.bytes(300), exif(TURN)[:20], exif((0x0112, 3, 1, 77 << 16)),
        exif((0x0112, 2, 900, 5)), exif((0x0112, 12, 1, 9 << 20))]


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'webp'])
@pytest.mark.parametrize('data', JUNK)
def test_damaged_exif_costs_nothing(tmp_path, suffix, data):
    options = {} if suffix == 'png' else dict(quality=95)
    photo().save(tmp_path/f'plain.{suffix}', **options)
    photo().save(tmp_path/f'junk.{suffix}', exif=data, **options)
    np.testing.assert_array_equal(load_image(tmp_path/f'junk.{suffix}'),
                                  load_image(tmp_path/f'plain.{suffix}'))


def test_a_turn_among_damaged_tags(tmp_path):
    "Whatever is wrong with the other tags, the photo stands upright"
    data = exif(TURN, (0x010f, 2, 4000, 4000), (0x8769, 4, 1, 10**6))
    photo().save(tmp_path/'a.png', exif=data)
    got = load_image(tmp_path/'a.png')
    np.testing.assert_array_equal(got, np.rot90(PHOTO, -1).transpose(2, 0, 1))


def test_deep_grey_on_its_side(tmp_path):
    deep = np.asarray(photo('L')).astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path/'a.png', exif=exif(TURN))
    got = load_image(tmp_path/'a.png', channels=1)[0]
    np.testing.assert_array_equal(got, np.rot90(np.asarray(photo('L')), -1))


def test_pil_warns_of_nothing(tmp_path):
    "PIL's warnings name no file, and show a path of this library's"
    photo().save(tmp_path/'a.jpg', exif=exif(TURN, (0x010f, 2, 4000, 4000)))
    code = ('import sys; from replearn_nb.data.images import load_image; '
            'print(load_image(sys.argv[1]).shape)')
    done = subprocess.run([sys.executable, '-c', code, tmp_path/'a.jpg'], text=True,
                          capture_output=True)
    assert done.stdout.strip() == '(3, 64, 48)'
    assert 'PIL' not in done.stderr and 'EXIF' not in done.stderr


def test_resize_equals_torchvision():
    "Shorter side to 12 and the middle of it, as torchvision does it to PIL images"
    want = tv.center_crop(tv.resize(photo(), 12, antialias=True), 12)
    np.testing.assert_array_equal(load_image(photo(), 12), tv.pil_to_tensor(want))


def test_large_jpeg_decoded_small(tmp_path):
    "Decoding at a half, quarter or eighth looks like decoding it all"
    big = photo().resize((1600, 1200), Image.Resampling.BICUBIC)
    big.save(tmp_path/'a.jpg', quality=95)
    with Image.open(tmp_path/'a.jpg') as img:
        whole = load_image(img, 64)
    assert error(load_image(tmp_path/'a.jpg', 64), whole) < 2


def test_given_image_is_left_as_it_is():
    img = photo('RGBA')
    load_image(img, 8)
    assert img.mode == 'RGBA' and img.size == (64, 48)


@pytest.mark.parametrize('size', [(1, 1), (1, 50), (50, 1), (2, 3)])
def test_tiny(size):
    assert (load_image(Image.new('RGB', size, (1, 2, 3)), 16)
            == np.array([1, 2, 3])[:, None, None]).all()


def bomb():
    return Image.new('1', (20_000, 20_000))  # 5 kB as a file, 1.2 GB as RGB


def damaged(folder: Path) -> set[str]:
    "Files that can't be read"
    photo().save(folder/'whole.jpg', quality=95)
    photo().save(folder/'whole.png')
    for name in 'jpg', 'png':
        data = (folder/f'whole.{name}').read_bytes()
        (folder/f'cut.{name}').write_bytes(data[:len(data)//2])
        (folder/f'head.{name}').write_bytes(data[:30])
        (folder/f'whole.{name}').unlink()
    (folder/'empty.jpg').touch()
    (folder/'text.png').write_text('not an image')
    (folder/'noise.gif').write_bytes(rng.bytes(1000))
    bomb().save(folder/'bomb.png')
    (folder/'link.jpg').symlink_to(folder/'nowhere')
    return {p.name for p in folder.iterdir()}


def odd(folder: Path) -> set[str]:
    "Files that are unusual, and can be read"
    before = {p.name for p in folder.iterdir()}
    photo('L').save(folder/'grey.jpg')
    photo('RGBA').save(folder/'rgba.png')
    photo('CMYK').save(folder/'cmyk.jpg')
    photo('P').save(folder/'palette.gif')
    Image.new('RGB', (1, 1)).save(folder/'pixel.bmp')
    photo().save(folder/'jpeg_in_truth.png', format='JPEG')
    photo().save(folder/'UPPER.JPG')
    photo().save(folder/'Ünï çödé 图.png')
    return {p.name for p in folder.iterdir()} - before


def test_damaged_are_skipped_and_named(tmp_path, capsys):
    bad, good = damaged(tmp_path), odd(tmp_path)
    got = image_folder(tmp_path, size=24)
    assert set(got.files) == good and len(got) == len(good)
    assert {name for name, _ in got.skipped} == bad
    err = capsys.readouterr().err
    assert f"{len(bad)} of {len(bad) + len(good)} images can't be read" in err
    for name in bad:
        assert name in err
        assert name in message(load_image, tmp_path/name)
    why = dict(got.skipped)
    assert 'it is no image' in why['text.png']
    assert 'No such file' in why['link.jpg']
    assert 'decompression bomb' in why['bomb.png']
    assert 'truncated' in why['cut.jpg']


def test_all_damaged(tmp_path):
    bad = damaged(tmp_path)
    text = message(image_folder, tmp_path)
    assert text.startswith(f'None of {len(bad)} images can be read; the first: ')
    assert 'bomb.png' in text


def test_rows_stay_beside_their_labels(tmp_path):
    "Skipped images move neither the labels nor the names of the others"
    files = []
    for i in range(200):
        files.append(tmp_path/f'{i:03}.png')
        Image.new('L', (4, 4), i).save(files[-1])
        if i % 7 == 3:
            files[-1].write_text('damaged')
    got = load_images(files, 4, channels=1, y=range(200), root=tmp_path)
    assert got.x[:, 0, 0, 0].tolist() == got.y.tolist()
    assert [int(f[:3]) for f in got.files] == got.y.tolist()
    assert len(got) + len(got.skipped) == 200


def test_ctrl_c(tmp_path):
    "A Ctrl-C among thousands of images ends the program at once, and says what it was"
    noise = rng.integers(0, 256, (1000, 1000, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path/'a.png')
    code = ('import sys; from replearn_nb.data.images import load_images; '
            'print("go", flush=True); load_images([sys.argv[1]] * 3000, 8)')
    child = subprocess.Popen([sys.executable, '-c', code, tmp_path/'a.png'], text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout.readline() == 'go\n'
    time.sleep(1)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=10)
    assert child.returncode != 0 and 'KeyboardInterrupt' in err


def test_too_much_for_memory(tmp_path):
    assert 'No images were given' in message(load_images, [], 8)
    text = message(load_images, [tmp_path/'a.png'] * 1000, 10**6)
    assert 'choose a smaller size' in text
    assert 'pixels above 0, not 0' in message(load_images, [tmp_path/'a.png'], 0)
    assert 'above 0, not -5' in message(load_images, [tmp_path/'a.png'], -5)


def test_unknown_channels():
    assert 'or 1 (grey), not 4' in message(load_image, photo(), channels=4)


# Folders and labels

def make_folder(root: Path, names):
    for i, name in enumerate(names):
        (root/name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (10, 8), (i, i, i)).save(root/name)


def test_image_files(tmp_path):
    make_folder(tmp_path, ['b/2.png', 'a/1.JPEG', '3.webp', '.hidden/4.png',
                           'a/._1.png', '__MACOSX/5.png'])
    (tmp_path/'notes.txt').write_text('')
    (tmp_path/'b/loop').symlink_to(tmp_path)
    names = [f.relative_to(tmp_path).as_posix() for f in image_files(tmp_path)]
    assert names == ['3.webp', 'a/1.JPEG', 'b/2.png']
    os.mkdir(tmp_path/'empty')
    assert '.jpeg, .jpg' in message(image_files, tmp_path/'empty')
    assert 'No such file' in message(image_files, tmp_path/'missing')
    assert 'Not a directory' in message(image_files, tmp_path/'3.webp')


def test_other_files_are_counted_and_named(tmp_path, capsys):
    make_folder(tmp_path, ['a/1.png', 'b/2.png'])
    for name in 'a/3.jpe', '4', 'labels.csv', 'notes.txt', '.hidden', 'a/Thumbs.db':
        (tmp_path/name).write_bytes((tmp_path/'a/1.png').read_bytes())
    want = f'2 files in {tmp_path} are not taken for images, by the ends of their names'
    image_folder(tmp_path)
    assert capsys.readouterr().err.count(f'{want}: 4, a/3.jpe\n') == 1
    pre = ImagePreprocessing(8, 3, [0] * 3, [1] * 3)
    assert pre.count(tmp_path) == len(pre.prepare(tmp_path)) == 2
    assert capsys.readouterr().err.count(want) == 1


def test_linked_class_folders(tmp_path):
    make_folder(tmp_path/'store', ['cat/1.png', 'dog/1.png'])
    (tmp_path/'mine').mkdir()
    for name in 'cat', 'dog':
        (tmp_path/'mine'/name).symlink_to(tmp_path/'store'/name)
    assert image_folder(tmp_path/'mine').classes == ['cat', 'dog']


def test_unreadable_folder(tmp_path):
    make_folder(tmp_path, ['a/1.png'])
    os.chmod(tmp_path/'a', 0)
    try:
        if os.access(tmp_path/'a', os.R_OK):
            pytest.skip('this user may read everything')
        assert 'Permission denied' in message(image_files, tmp_path)
    finally:
        os.chmod(tmp_path/'a', 0o755)


def test_read_only_folder(tmp_path):
    make_folder(tmp_path, [f'{c}/{i}.png' for c in 'ab' for i in range(5)])
    before = sorted(tmp_path.rglob('*'))
    os.chmod(tmp_path, 0o555)
    try:
        assert len(own_images(tmp_path).images) == 10
    finally:
        os.chmod(tmp_path, 0o755)
    assert sorted(tmp_path.rglob('*')) == before  # nothing was written into it


@pytest.mark.parametrize('sizes, want', [
    ([(28, 28)] * 3, 28), ([(500, 375), (300, 400), (100, 90)], 224),
    ([(61, 70)], 56), ([(1, 1)], 1)])
def test_usual_size(tmp_path, sizes, want):
    for i, size in enumerate(sizes):
        Image.new('L', size).save(tmp_path/f'{i}.png')
    (tmp_path/'z.png').write_text('damaged')
    assert image_folder(tmp_path).x.shape[2:] == (want, want)


def test_split_folder(tmp_path):
    parts = {'train': 12, 'val': 4, 'test': 6}
    make_folder(tmp_path, [f'{p}/{c}/{i}.png' for p, n in parts.items()
                           for c in ('cat', 'dog') for i in range(n)]
                + [f'unlabeled/{i}.png' for i in range(5)])
    got = own_images(tmp_path)
    assert got.name == tmp_path.name and got.images.classes == ['cat', 'dog']
    for part, want in dict(train=24, valid=8, test=12, unlabelled=29).items():
        rows = getattr(got, part)
        assert len(rows) == want
        if part != 'unlabelled':
            folder = {got.images.files[i].split('/')[0] for i in rows}
            assert folder == {dict(valid='val').get(part, part)}


def test_test_folder_without_labels(tmp_path):
    "Images of a test folder stay away from pre-training, labelled or not"
    make_folder(tmp_path, [f'train/{c}/{i}.png' for c in 'ab' for i in range(10)]
                + [f'test/{i}.png' for i in range(5)])
    got = own_images(tmp_path)
    held = {i for i, f in enumerate(got.images.files) if f.startswith('test/')}
    assert len(held) == 5 and not held & set(got.unlabelled.tolist())
    assert len(got.test) == 4 and (got.part('test')[1] >= 0).all()


def labels(tmp_path, text):
    (tmp_path/'labels.csv').write_text(text)
    files = ['a/1.png', 'a/2.png', 'b/2.png', '3.png']
    return read_labels(tmp_path/'labels.csv', files)


@pytest.mark.parametrize('header', ['file,label', 'Filename,Class', 'id,image, target',
                                    'path,label,fold'])
def test_labels(tmp_path, header):
    row = {'id,image, target': '7,a/1.png, cat '}.get(header, 'a/1.png,cat')
    row += ',1' if header.endswith('fold') else ''
    assert labels(tmp_path, f'{header}\n{row}\n') == ['cat', '', '', '']


def test_label_rows(tmp_path, capsys):
    rows = '1.png,NA', './b/2.png,', 'a\\2.png,1.0', '3.png,1', 'x.png,dog'
    got = labels(tmp_path, '\n'.join(['file,label', *rows]))
    assert got == ['', '1', '', '1']
    err = capsys.readouterr().err
    assert '1 of 5 rows of' in err and 'name no image: x.png' in err
    assert '2 of 5 rows of' in err and 'have no label' in err


def test_missing_labels_of_json_lines_are_none(tmp_path):
    path = tmp_path/'labels.jsonl'
    path.write_text('{"file": "1.png", "label": "cat"}\n'
                    '{"file": "2.png", "label": null}\n{"file": "3.png"}\n')
    assert read_labels(path, ['1.png', '2.png', '3.png']) == ['cat', '', '']


@pytest.mark.parametrize('text, want', [
    ('file;label\n1.png;cat\n', 'its columns are: file;label'),
    ('file,name\n1.png,cat\n', 'no column label or labels or class'),
    ('file,label\n2.png,cat\n', 'which may be a/2.png or b/2.png'),
    ('file,label\n1.png,cat\na/1.png,dog\n',
     'a/1.png two labels: cat and dog, named 1.png and a/1.png'),
    ('file,label\n1.png,cat\n1.png,dog\n', 'a/1.png two labels: cat and dog'),
    ('file,label\nx/1.png,cat\n', "None of the files that"),
    ('file,label\nx.png,cat\n', "None of the files that"),
    ('file,label\n', "None of the files that"),
    ('', "labels.csv as csv: "),
    ('file,label\n"1.png,cat', "None of the files that"),
])
def test_wrong_labels(tmp_path, text, want):
    assert want in message(labels, tmp_path, text)


def by_definition(row: str, files: list[str]) -> set[int]:
    "Files that agree with a row in all parts that both have, and longest with it"
    row, files = row.split('/'), [f.split('/') for f in files]
    agree = {i: min(len(row), len(f)) for i, f in enumerate(files)
             if all(a == b for a, b in zip(row[::-1], f[::-1]))}  # noqa: B905
    if row in files:
        return {files.index(row)}
    return {i for i, n in agree.items() if n == max(agree.values())}


@pytest.mark.parametrize('seed', range(10))
def test_rows_find_files_by_definition(seed):
    g = np.random.default_rng(seed)
    trees = ['/'.join([*g.choice(['a', 'b', 'c'], g.integers(0, 4)), n])
             for n in g.choice(['1.png', '2.png', '3.png'], 60)]
    files = sorted({*trees[:12]})
    some = 0
    for row in trees:
        want = by_definition(row, files)
        if len(want) == 1:
            assert _rows([row, files[0]], files, 'x.csv')[0] == want.pop()
            some += 1
        elif want:
            text = message(_rows, [row], files, 'x.csv')
            a, b = re.search('may be (.*) or (.*): name', text).groups()
            assert {a, b} <= {files[i] for i in want}
        else:
            assert _rows([row, files[0]], files, 'x.csv')[0] is None
    assert some > 5


def test_labels_of_other_folders_are_not_taken(tmp_path, capsys):
    "Ten images of one site, and a table of both sites"
    make_folder(tmp_path/'img', [f'site2/{i}.png' for i in range(10)])
    rows = [f'{site}/{i}.png,{site}-{i % 2}' for site in ('site1', 'site2')
            for i in range(10)]
    (tmp_path/'both.csv').write_text('\n'.join(['file,label', *rows]))
    (tmp_path/'other.csv').write_text('\n'.join(['file,label', *rows[:10]]))
    got = image_folder(tmp_path/'img', 8, labels=tmp_path/'both.csv')
    assert got.classes == ['site2-0', 'site2-1'] and (got.y >= 0).all()
    assert '10 of 20 rows' in capsys.readouterr().err
    text = message(image_folder, tmp_path/'img', 8, labels=tmp_path/'other.csv')
    assert text.startswith('None of the files')


@pytest.mark.parametrize('write', [
    lambda f: str(f.resolve()), lambda f: f'D:\\photos\\{f.parent.name}\\{f.name}',
    lambda f: f'../img//{f.parent.name}/./{f.name}'])
def test_absolute_and_prefixed_paths(tmp_path, write):
    make_folder(tmp_path/'img', [f'{c}/{i}.png' for c in ('red', 'blue')
                                 for i in range(5)])
    files = image_files(tmp_path/'img')
    rows = [f'{write(f)},{f.parent.name}{f.stem}' for f in files]
    (tmp_path/'l.csv').write_text('\n'.join(['file,label', *rows]))
    got = image_folder(tmp_path/'img', 8, labels=tmp_path/'l.csv')
    assert [got.classes[y] for y in got.y] == [
        f.replace('/', '').removesuffix('.png') for f in got.files]


def test_one_form_of_unicode(tmp_path, capsys):
    "Names as a Mac writes them on disk, as everybody else does in the table, and back"
    for on_disk, in_table in (('NFD', 'NFC'), ('NFC', 'NFD')):
        folder = tmp_path/on_disk
        disk, table = (partial(unicodedata.normalize, f) for f in (on_disk, in_table))
        make_folder(folder, [disk(f'Gemüse_{i}.png') for i in range(4)])
        rows = [f'{table(f"Gemüse_{i}.png")},{(disk, table)[i % 2]("Früchte")}'
                for i in range(4)]
        (tmp_path/'l.csv').write_text('\n'.join(['file,label', *rows]))
        got = image_folder(folder, 8, labels=tmp_path/'l.csv')
        assert got.classes == ['Früchte'] and (got.y == 0).all()
    make_folder(tmp_path/'c', [unicodedata.normalize(f, f'{c}/{f}.png')
                               for f in ('NFC', 'NFD') for c in ('Früchte', 'Gemüse')])
    assert image_folder(tmp_path/'c', 8).classes == ['Früchte', 'Gemüse']
    assert not capsys.readouterr().err.count('name no image')


def test_printable_names():
    names = ['a.png', 'Ünï 图.png', 'a\tb', 'caf\udce9.png', 'a\nb', 'a\r\x85\u2028b']
    want = names[:3] + ['caf\\udce9.png', 'a\\nb', 'a\\r\\x85\\u2028b']
    assert [printable(n) for n in names] == want
    text = ''.join(printable(n) + '\n' for n in names)
    assert len(text.encode().decode().splitlines()) == len(names)


def test_missing_labels(tmp_path):
    text = message(read_labels, tmp_path/'no.csv', ['a.png'])
    assert 'No such file' in text and 'no.csv' in text
    (tmp_path/'binary.csv').write_bytes(rng.bytes(1000))
    assert 'binary.csv' in message(read_labels, tmp_path/'binary.csv', ['a.png'])
    photo().save(tmp_path/'a.png')
    assert 'a.png is an image' in message(read_labels, tmp_path/'a.png', ['a.png'])


# Splits

def test_class_folders_below_one_folder(tmp_path):
    make_folder(tmp_path, [f'all/{c}/{i}.png' for c in 'ab' for i in range(3)])
    assert image_folder(tmp_path).classes == ['a', 'b']
    make_folder(tmp_path/'s', [f'x/{p}/{c}/{i}.png' for p in ('training', 'testing')
                               for c in 'ab' for i in range(3)])
    assert len(own_images(tmp_path/'s').test) == 6


def check_split(s):
    y = s.images.y
    unlabelled, train, valid, test = (
        set(rows.tolist()) for rows in (s.unlabelled, s.train, s.valid, s.test))
    assert not unlabelled & valid and not unlabelled & test and not valid & test
    assert train <= unlabelled
    assert (y[s.train] >= 0).all() and (y[s.test] >= 0).all()


@pytest.mark.parametrize('seed', range(20))
def test_random_splits(seed):
    g = np.random.default_rng(seed)
    n, k = int(g.integers(30, 300)), int(g.integers(2, 6))
    y = np.r_[np.arange(k).repeat(3), g.integers(-1, k, n)]
    images = from_arrays(np.zeros((len(y), 2, 2), np.uint8), y, [*map(str, range(k))])
    s = split_images(images, seed=seed)
    check_split(s)
    counts = np.bincount(y[y >= 0])
    n_test = np.bincount(s.part('test')[1], minlength=k)
    assert (np.abs(n_test - np.maximum(1, .2 * counts)) <= 1).all()  # of each class
    everything = torch.cat([s.unlabelled, s.valid, s.test]).sort().values
    assert everything.tolist() == list(range(len(y)))
    again = split_images(images, seed=seed)
    assert torch.equal(s.test, again.test) and torch.equal(s.valid, again.valid)
    assert not torch.equal(s.test, split_images(images, seed=seed + 1).test)


def test_views_belong_to_the_data_and_not_to_its_name(tmp_path):
    make_folder(tmp_path/'digits', [f'{c}/{i}.png' for c in 'ab' for i in range(5)])
    own = own_images(tmp_path/'digits')
    assert own.name == 'digits' and own.views == 'simclr'
    assert digits().views == 'digits'


def test_the_seed_names_the_split():
    s = digits()
    check_split(s)
    assert s.test[:5].tolist() == [0, 1, 2, 5, 8]
    assert s.valid[:5].tolist() == [7, 9, 16, 28, 42]
    assert s.hash == '1bc023e855d3142d'


def test_hash_changes_with_a_pixel_or_a_label():
    x, y = np.zeros((9, 2, 2), np.uint8), [0, 1, 2] * 3
    first = split_images(from_arrays(x, y)).hash
    assert split_images(from_arrays(x, y)).hash == first
    assert split_images(from_arrays(x, [0, 2, 1] * 3)).hash != first
    x[0, 0, 0] = 1
    assert split_images(from_arrays(x, y)).hash != first
    assert split_images(from_arrays(x.reshape(9, 1, 2, 2), y)).hash != first


def test_too_small_to_split():
    def split(y, **kwargs):
        images = from_arrays(np.zeros((len(y), 2, 2), np.uint8), y)
        return split_images(images, **kwargs)

    check_split(split([0, 1] * 3))
    assert "only the class '0'" in message(split, [0] * 9)
    assert "no image of '1' left to train on" in message(split, [0] * 9 + [1] * 2)
    assert '2 images in 2 classes, and none is' in message(split, [0, 1] + [-1] * 9)
    assert 'too few images (6)' in message(split, [0, 1] * 3, test=1.)
    for share in float('nan'), -1, -.5:
        for part in 'test', 'valid':
            text = message(split, [0, 1] * 9, **{part: share})
            assert f'{part} is a share' in text and text.endswith(f'not {share}')
    assert 'too few images (20)' in message(split, [0, 1] * 10, test=.6, valid=.5)
    assert 'too few images (1)' in message(split, [-1])
    assert len(split([-1, -1]).unlabelled) == 1


# Data sets

def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    data = load_digits()
    got = digits().images
    np.testing.assert_allclose(got.x[:, 0].numpy(), data.images * 255 / 16, atol=.5)
    assert got.y.tolist() == data.target.tolist()


def at_hand(name):
    if not os.path.exists(os.path.join(os.environ.get('REPLEARN_DATA', 'none'), name)):
        pytest.skip(f'REPLEARN_DATA has no {name}')


def test_fashion_mnist():
    at_hand('fashion_mnist')
    s = fashion_mnist()
    check_split(s)
    assert s.test.tolist() == list(range(60_000, 70_000))
    assert s.part('valid')[1].bincount().tolist() == [500] * 10
    assert s.part('train')[1].bincount().tolist() == [5500] * 10


def make_cifar(root: Path):
    make_folder(root, [f'{part}/{c}/{i:04}.jpg' for c in CIFAR10
                       for part, n in (('train', 8), ('test', 3)) for i in range(n)])


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache'))
    monkeypatch.setenv('REPLEARN_DATA', str(tmp_path/'own'))
    monkeypatch.setenv('FASTAI_HOME', str(tmp_path/'fastai'))
    (tmp_path/'own/cifar10').mkdir(parents=True)
    return tmp_path/'cache/replearn_nb/cifar10'


def test_cifar10_from_tar(tmp_path, cache, monkeypatch, capsys):
    make_cifar(tmp_path/'c')
    tar = tmp_path/'own/cifar10/cifar10.tar.xz'
    with tarfile.open(tar, 'w:xz') as t:
        for part in 'train', 'test':
            t.add(tmp_path/'c'/part, part)
    s = cifar10()
    check_split(s)
    assert s.images.classes == CIFAR10 and s.images.x.shape == (110, 3, 32, 32)
    assert [len(s.train), len(s.valid), len(s.test)] == [70, 10, 30]
    kept, = cache.iterdir()
    with monkeypatch.context() as m:  # the second time, from the one file
        m.setattr(module, '_from_tar', None)
        assert cifar10().hash == s.hash
    kept.write_bytes(kept.read_bytes()[:-100])  # a damaged cache is made again
    assert cifar10().hash == s.hash and list(cache.iterdir()) == [kept]
    tar.write_bytes(tar.read_bytes()[:1000])
    assert "Can't read" in message(cifar10)
    tar.write_bytes(b'no tar')
    assert "Can't read" in message(cifar10)
    tarfile.open(tar, 'w:xz').close()
    assert f'{tar} holds no files' in message(cifar10)


def test_cifar10_without_a_cache(tmp_path, cache, capsys):
    make_cifar(tmp_path/'c')
    with tarfile.open(tmp_path/'own/cifar10/cifar10.tar.xz', 'w:xz') as t:
        for part in 'train', 'test':
            t.add(tmp_path/'c'/part, part)
    cache.parent.parent.write_text('a file in the place of the folder')
    assert len(cifar10().images) == 110
    assert 'will be decoded again next time' in capsys.readouterr().err


def test_another_tar(tmp_path, cache):
    make_folder(tmp_path/'c', ['train/cat/1.png', 'train/dog/1.png', 'test/cat/2.png'])
    with tarfile.open(tmp_path/'own/cifar10/cifar10.tar.xz', 'w:xz') as t:
        for part in 'train', 'test':
            t.add(tmp_path/'c'/part, part)
    assert 'not those of CIFAR-10' in message(cifar10)


def test_cifar10_by_fastai(tmp_path, cache, monkeypatch, capsys):
    "fastai's own download and unpacking, from a file in the place of its server"
    make_cifar(tmp_path/'cifar10')
    with tarfile.open(tmp_path/'cifar10.tgz', 'w:gz') as t:
        t.add(tmp_path/'cifar10', 'cifar10')
    from fastai.data import external
    external.fastai_cfg.cache_clear()
    monkeypatch.setattr(external.URLs, 'CIFAR', (tmp_path/'cifar10.tgz').as_uri())
    try:
        s = cifar10()
        assert len(s.images) == 110 and len(s.test) == 30
        assert capsys.readouterr().out == ''
        cifar10()
        next(cache.iterdir()).unlink()
        monkeypatch.setattr(external.URLs, 'CIFAR', 'http://127.0.0.1:9/other.tgz')
        text = message(cifar10)
        assert "Can't get CIFAR-10 from http://127.0.0.1:9" in text
        assert 'REPLEARN_DATA' in text
    finally:
        external.fastai_cfg.cache_clear()


# fastai's DataLoaders

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp('dls')
    make_folder(root, [f'{c}/{i}.png' for c in ('cat', 'dog') for i in range(20)])
    return root


def block(y=CategoryBlock, get_y=parent_label, **kwargs):
    return DataBlock((ImageBlock, y) if y else ImageBlock, get_items=get_image_files,
                     get_y=get_y if y else None, splitter=RandomSplitter(.5, seed=1),
                     item_tfms=Resize(8), **kwargs)


def test_fastai_dataloaders(folder):
    "All images once and as they are, though the loader shuffles, drops and augments"
    tfms = aug_transforms(max_lighting=.9, p_lighting=1.)
    dls = block(batch_tfms=tfms).dataloaders(folder, bs=16, num_workers=0)
    s = from_dls(dls)
    check_split(s)
    assert len(s.train) == 20 and len(s.valid) == len(s.test) == 10
    assert s.images.classes == ['cat', 'dog']
    grey = s.images.x[:, 0, 0, 0]  # each image has a grey of its own
    assert sorted(grey.tolist()) == list(range(40))
    assert torch.equal(s.images.y, (grey >= 20).long())
    assert type(s.images.x) is torch.Tensor and s.images.x.dtype == torch.uint8


def test_fastai_without_labels(folder):
    dls = block(y=None).dataloaders(folder, bs=16, num_workers=0)
    s = from_dls(dls)
    assert len(s.unlabelled) == 20 and len(s.valid) == 20 and len(s.test) == 0


def test_fastai_that_can_not_be_used(folder):
    norm = Normalize.from_stats([.5] * 3, [.5] * 3)
    dls = block(batch_tfms=norm).dataloaders(folder, bs=16, num_workers=0)
    assert 'not normalised yet' in message(from_dls, dls)
    dls = block(y=MultiCategoryBlock, get_y=lambda f: ['a', parent_label(f)])
    dls = dls.dataloaders(folder, bs=16, num_workers=0)
    assert 'one class per image' in message(from_dls, dls)


def test_torch_dataloaders():
    x, y = torch.randint(0, 256, (60, 3, 8, 8), dtype=torch.uint8), torch.arange(60) % 3
    data = torch.utils.data.TensorDataset(x, y)
    train, valid = torch.utils.data.random_split(data, [40, 20])
    dls = DataLoaders(*(torch.utils.data.DataLoader(d, 16) for d in (train, valid)))
    s = from_dls(dls)
    check_split(s)
    assert len(s.images) == 60 and len(s.train) == 40


def test_dataloaders_without_validation():
    x = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    full, empty = (torch.utils.data.DataLoader(torch.utils.data.TensorDataset(o), 2)
                   for o in (x, x[:0]))
    for loaders in [full], [full, empty], [empty, full]:
        assert 'images to validate on' in message(from_dls, DataLoaders(*loaders))


# Preprocessing

def test_normalise_in_inference_mode_and_then_in_training():
    pre = ImagePreprocessing(2, 1, [.123], [.456])
    with torch.inference_mode():
        pre.normalise(torch.zeros(1, 1, 2, 2))
    x = torch.zeros(1, 1, 2, 2, requires_grad=True)
    pre.normalise(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 1 / .456))


def test_fit_equals_torch():
    x = torch.randint(0, 256, (50, 3, 9, 9), dtype=torch.uint8)
    pre = ImagePreprocessing.fit(x)
    flat = x.double().transpose(0, 1).flatten(1) / 255
    torch.testing.assert_close(torch.tensor(pre.mean).double(), flat.mean(1))
    std = flat.std(1, correction=0)
    torch.testing.assert_close(torch.tensor(pre.std).double(), std)
    want = tv.normalize(x.float() / 255, pre.mean, pre.std)
    torch.testing.assert_close(pre.normalise(x), want)
    assert ImagePreprocessing.fit(x[:, :1] * 0).std == [1]


def test_kinds_of_items_agree(tmp_path):
    "One photo as a file, PIL image, array or tensor: alone, in a list, in a folder"
    photo().save(tmp_path/'a.png')
    pre = ImagePreprocessing(20, 3, [0] * 3, [1] * 3)
    want = pre.prepare(photo())
    chw = torch.from_numpy(COLOUR.copy())
    items = [tmp_path/'a.png', str(tmp_path/'a.png'), photo(), PHOTO, PHOTO / 255, chw]
    got = pre.prepare(items)
    assert got.shape == (6, 3, 20, 20)
    for item in got:
        assert torch.equal(item, want[0])
    for alone in items[:3] + [PHOTO[None], chw[None], chw[None] / 255, tmp_path]:
        assert torch.equal(pre.prepare(alone), want)
    assert pre.count(items) == 6 and pre.count(tmp_path) == 1 == pre.count(photo())
    assert torch.equal(pre.prepare(PHOTO), want) and pre.count(PHOTO) == 1
    assert 'with 1 or 3 channels' in message(pre.prepare, np.zeros((9, 9, 4)))


@pytest.mark.parametrize('bs', [1, 3, 64])
def test_batches_name_and_skip(tmp_path, bs, capsys):
    bad, good = damaged(tmp_path), odd(tmp_path)
    pre = ImagePreprocessing(16, 1, [0], [1])
    skipped = []
    batches = list(pre.batches(tmp_path, bs, skipped))
    assert {n for names, _ in batches for n in names} == good
    assert {n for n, _ in skipped} == bad
    for names, x in batches:
        assert len(names) == len(x) <= bs and x.shape[1:] == (1, 16, 16)
    assert "can't be read" in capsys.readouterr().err


def test_batches_stop_early(tmp_path):
    make_folder(tmp_path, [f'{i}.png' for i in range(50)])
    pre = ImagePreprocessing(8, 3, [0] * 3, [1] * 3)
    names, x = next(pre.batches(tmp_path, 2))
    assert names == ['0.png', '1.png'] and len(x) == 2


def test_batches_take_only_what_they_give(tmp_path, monkeypatch):
    "A folder may be larger than memory: reading stays a few batches ahead"
    read = []

    def watched(item, *args):
        read.append(item)
        return load_image(item, *args)

    monkeypatch.setattr(module, 'load_image', watched)
    make_folder(tmp_path, [f'{i:02}.png' for i in range(50)])
    batches = ImagePreprocessing(8, 3, [0] * 3, [1] * 3).batches(tmp_path, 5)
    next(batches)
    assert len(read) <= 15
    assert sum(len(x) for _, x in batches) == 45


@pytest.mark.parametrize('items, want', [
    ([], 'No images were given'), (np.zeros((0, 8, 8)), 'No images were given'),
    (3, 'not int'), (None, 'not NoneType'), ('no/such/file.png', 'No such file'),
    (np.zeros((2, 5, 8, 8)), 'not (2, 5, 8, 8)'), (np.zeros(8), 'not (8,)'),
    (np.full((2, 8, 8), 2.), 'in [2, 2]'), ([np.zeros((8, 8, 4))], 'can be read'),
])
def test_items_that_are_no_images(items, want):
    assert want in message(ImagePreprocessing(8, 3, [0] * 3, [1] * 3).prepare, items)


def test_as_uint8_dtypes():
    x = rng.integers(0, 256, (3, 4, 4))
    for dtype in np.uint16, np.int32, np.int64, np.uint8:
        assert as_uint8(x.astype(dtype))[:, 0].tolist() == x.tolist()
    assert as_uint8(x > 127).unique().tolist() == [0, 255]
    assert as_uint8((x / 255).astype(np.float16)).dtype == torch.uint8
    x = np.ascontiguousarray(x.astype(np.uint8))
    x.flags.writeable = False
    as_uint8(x)
    assert as_uint8(x[:, ::-1])[0, 0, 0].tolist() == x[0, -1].tolist()
    assert 'uint8 or floats' in message(as_uint8, np.full((1, 4, 4), -1))
    for dtype in '>u2', '>i4', '>f4':
        assert torch.equal(as_uint8((x > 127).astype(dtype)) > 0, as_uint8(x > 127) > 0)
    for dtype in object, np.longdouble, complex, str:
        a = x.astype(dtype)
        assert f'not {a.dtype}' in message(as_uint8, a)


@pytest.mark.parametrize('y, classes, want', [
    (['a', 'b'], ['a', 'b'], 'not <U1'), ([.5, 1.], ['a', 'b'], 'not float64'),
    ([0, np.nan], None, 'missing values'), (['a', np.nan], None, 'missing values'),
    (['a', None], None, 'missing values'), ([0, np.nan], ['a'], 'missing values')])
def test_classes_that_can_not_be(y, classes, want):
    assert want in message(from_arrays, np.zeros((2, 4, 4)), y, classes)


@pytest.mark.parametrize('y', [np.array([1, -1], '>i8'), torch.tensor([1, -1]),
                               np.array([1, -1], np.int8)])
def test_classes_of_any_whole_type(y):
    assert from_arrays(np.zeros((2, 4, 4)), y, ['a', 'b']).y.tolist() == [1, -1]


def test_show_images():
    axes = show_images(torch.rand(5, 3, 8, 8) * 2 - .5, ncols=4)
    assert axes.shape == (2, 4)
    assert show_images(np.zeros((1, 1, 8, 8), np.uint8)).shape == (1, 1)


def test_open_file():
    f = io.BytesIO()
    photo().save(f, 'PNG')
    f.name = 'member.png'
    np.testing.assert_array_equal(load_image(f), COLOUR)
    f = io.BytesIO(b'')
    f.name = 'member.png'
    assert 'member.png' in message(load_image, f)
