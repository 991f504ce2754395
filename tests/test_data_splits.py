"Splits of any data: parts that share nothing, and the same for a seed for ever"
import hashlib
from functools import partial

import numpy as np
import pytest
import torch

from replearn_nb.core import ReplearnError
from replearn_nb.data.entities import invented_entities
from replearn_nb.data.images import digits, own_images
from replearn_nb.data.questions import invented_questions
from replearn_nb.data.splits import PARTS, Splits
from replearn_nb.data.text import docstrings, make_texts, split_texts

class Things:
    "Examples without a class"
    noun = 'thing'

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, rows):
        return rows.tolist()


class Classed(Things):
    def __init__(self, y):
        super().__init__(len(y))
        self.y = torch.tensor(y)
        self.classes = [*map(str, range(max(y) + 1))]


def fingerprint(splits):
    "8 hex digits over the indices of each part, in their order"
    return [hashlib.sha256(repr(getattr(splits, p).tolist()).encode()).hexdigest()[:8]
            for p in PARTS if isinstance(getattr(splits, p), torch.Tensor)]


def a_folder(path):
    "Two classes of unlike size and some images without one"
    from PIL import Image

    for i in range(39):
        file = path/('cat' if i < 23 else 'dog' if i < 34 else '')/f'{i}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new('L', (4, 4), 6 * i).save(file)
    return own_images(path)


def molecules():
    pytest.importorskip('rdkit')
    from replearn_nb.data.molecules import embedded, random_split, split_molecules

    return split_molecules(embedded(200), by=partial(random_split, train=.6, valid=.1))


def scaffolds():
    pytest.importorskip('rdkit')
    from replearn_nb.data.molecules import embedded, split_molecules

    return split_molecules(embedded(200))


def numbered():
    texts = [f'text {i}' for i in range(97)]
    return split_texts(make_texts(texts, [f'c{i % 3}' if i % 7 else '' for i in
                                          range(97)]), seed=2)


# The first 8 hex digits of each part's indices, written down before there was one
# `Splits` for all data
AS_EVER = {
    'digits': ['c84dabec', 'c84dabec', '7a142f57', 'e993b1fa'],
    'numbered': ['1c30ed34', 'b2fdc69e', '8bb5325f', '1a3898b5'],
    'molecules': ['b066f67a', '9d05087c', 'a90f21d6'],
    'scaffolds': ['2c1b07fb', '82273b55', '3ebfb9d9'],
    'invented_entities': ['8b930b84', '8b930b84', '583721be', '880a8f25'],
    'invented_questions': ['c228e737', 'c228e737', '10f9184c', '0747b1bb'],
    'docstrings': ['f5f01f42', '7d573641', '801f01ee', 'c91a8c4b'],
    'a_folder': ['11b8cca5', '58ad6562', '8cb037ff', '2c7cb2ef']}
DOCSTRINGS = '7bd04c0cfce596a3'  # `hash` of the library that they are of


@pytest.mark.parametrize('load', [
    digits, numbered, molecules, scaffolds, invented_entities, invented_questions],
    ids=lambda f: f.__name__)
def test_a_seed_names_the_same_indices_as_ever(load):
    assert fingerprint(load()) == AS_EVER[load.__name__]


def test_a_folder_too(tmp_path):
    assert fingerprint(a_folder(tmp_path)) == AS_EVER['a_folder']


def test_docstrings_too():
    "Of the library that the indices were written down for"
    splits = docstrings()
    if splits.hash != DOCSTRINGS:
        pytest.skip('another version of the standard library')
    assert fingerprint(splits) == AS_EVER['docstrings']


@pytest.mark.parametrize('seed', range(10))
def test_parts_share_nothing_and_hold_everything(seed):
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(40, 200)), int(rng.integers(2, 5))
    y = [*range(k)] * 3 + rng.integers(-1, k, n).tolist()
    for data in Classed(y), Things(n):
        s = Splits.draw(data, seed=seed)
        rows = torch.cat([s.unlabelled, s.valid, s.test]).sort().values
        assert rows.tolist() == list(range(len(data)))
        assert set(s.train.tolist()) <= set(s.unlabelled.tolist())
        again = Splits.draw(data, seed=seed)
        assert all(torch.equal(getattr(s, p), getattr(again, p)) for p in PARTS)
        assert not torch.equal(s.test, Splits.draw(data, seed=seed + 1).test)


def test_shares_and_numbers():
    y = [0, 1] * 50
    for test, valid in (.2, .1), (20, 10):
        s = Splits.draw(Classed(y), valid, test)
        assert [len(getattr(s, p)) for p in PARTS] == [70, 70, 10, 20]
    s = Splits.draw(Classed(y), .1, .2, of_rest=True)
    assert [len(getattr(s, p)) for p in PARTS] == [72, 72, 8, 20]
    s = Splits.draw(Things(50), 0, 0)
    assert [len(getattr(s, p)) for p in PARTS] == [50, 50, 0, 0]
    s = Splits.draw(Classed([0, 1] * 20 + [-1] * 20), parts=['train'] * 30
                    + ['test'] * 10 + ['train'] * 20)
    assert s.test.tolist() == list(range(30, 40)) and len(s.unlabelled) == 47
    s = Splits.draw(Things(10), parts=['test', *['train'] * 7, 'unlabelled', 'valid'])
    assert (s.test.tolist(), s.valid.tolist()) == ([0], [9])
    assert s.unlabelled.tolist() == [*range(1, 9)]
    assert s.train.tolist() == [*range(1, 8)]
    assert s.part('test') == [0]
    s = Splits.draw(Things(30), parts=['train'] * 10 + ['unlabelled'] * 20)
    assert [len(getattr(s, p)) for p in PARTS] == [27, 7, 1, 2]


def test_a_group_is_in_one_part():
    groups = [i // 3 for i in range(60)]
    s = Splits.draw(Things(60), groups=groups, seed=3)
    parts = [{groups[i] for i in getattr(s, p)} for p in ('train', 'valid', 'test')]
    assert [len(p) for p in parts] == [14, 2, 4] and len(set.union(*parts)) == 20


@pytest.mark.parametrize('data, options, says', [
    (Classed([0] * 9), {}, "mine has only the class '0'"),
    (Classed([0] * 9 + [1] * 2), {}, "no thing of '1' left to train on"),
    (Classed([0] * 9 + [1] * 2), {}, r'1 to validate, 1 to test\): it needs 3'),
    (Classed([*range(40)]), {}, '40 things in 40 classes, and none is left to train'),
    (Things(9), dict(test=1.), r'mine has too few things \(9\)'),
    (Things(0), {}, r'mine has too few things \(0\)'),
    (Things(9), dict(valid=-1), 'valid is a share of the things or a number of them'),
    (Things(9), dict(test=float('nan')), 'test is a share .* not nan')])
def test_what_cannot_be_split_is_said(data, options, says):
    with pytest.raises(ReplearnError, match=says):
        Splits.draw(data, name='mine', **options)
