"The baseline of word counts: every script, labels of its budget only, quick"
import random
import time

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from replearn_nb.data.text import make_texts, split_texts
from replearn_nb.transfer import words as module
from replearn_nb.transfer.words import _fit_predict, tfidf_method, words

def splits_of(signs, classes, sep='', n=400):
    "Texts of chance signs, in each of which one tells the class"
    rng = random.Random(0)
    texts = [sep.join([*rng.choices(signs, k=6), classes[i % len(classes)],
                       *rng.choices(signs, k=rng.randint(1, 6))]) for i in range(n)]
    return split_texts(make_texts(texts, [f'c{i % len(classes)}' for i in range(n)]))


def accuracy(splits, budget, seed=0):
    (_, y), (_, y_test) = (splits.part(p) for p in ('train', 'test'))
    order = np.random.default_rng(seed).permutation(len(y))
    i = np.concatenate([order[y[order] == c][:budget] for c in y.unique()])
    return (tfidf_method(splits)(i, y[i], seed) == y_test.numpy()).mean()


@pytest.mark.parametrize('signs,classes,sep', [
    ([*'天地玄黄宇宙洪荒日月'], '好坏', ''), ([*'あいうえおかきくけこ'], 'のは', ''),
    ([*'กขคงจฉชซณดต'], 'พม', ''), ([*'bcdefghijk'], 'xy', ' '),
    ([*'😀😁😂🎈🎉🌍'], '❤💔', ''), ([*'😀😁😂🎈🎉🌍'], '❤💔', ' ')])
def test_one_sign_tells_the_class_in_every_script(signs, classes, sep):
    assert accuracy(splits_of(signs, classes, sep), 50) > .95


@pytest.mark.parametrize('texts', [['!', '?'], ['...', '!!'], ['a', 'b']])
def test_where_no_word_tells_the_commonest_class_is_answered(texts):
    "Or where the labelled texts hold no known word"
    s = split_texts(make_texts(texts * 50 + ['c'], ['x', 'y'] * 50 + ['']))
    (_, y), (t, _) = s.part('train'), s.part('test')
    i = torch.cat([(y == 0).nonzero()[:2], (y == 1).nonzero()[:5]]).flatten()
    found = tfidf_method(s)(i, y[i], 0)
    if texts == ['a', 'b']:
        assert found.tolist() == [int(o == 'b') for o in t]
    else:
        assert found.tolist() == [1] * len(t)
    assert tfidf_method(s)(i[2:], y[i[2:]], 0).tolist() == [1] * len(t)  # one class


def test_it_sees_only_the_labels_that_it_is_given():
    s = splits_of([*'bcdefghijk'], 'xyz', ' ')
    i = torch.arange(30)
    y = s.part('train')[1][i]
    found = tfidf_method(s)(i, y, 3)
    s.texts.y = s.texts.y.roll(1)  # all other labels are wrong now
    assert (tfidf_method(s)(i, y, 3) == found).all()


@pytest.mark.parametrize('budget', [1, 2, 3, 5])
def test_a_class_may_have_one_text_or_a_few(budget):
    s = splits_of([*'bcdefghijk'], 'xyz', ' ')
    y = s.part('train')[1]
    i = torch.cat([(y == c).nonzero()[:budget + c] for c in range(3)]).flatten()
    assert len(tfidf_method(s)(i, y[i], 2**40)) == len(s.test)


def test_coordinates_lose_nothing():
    "The probabilities are those of a regression on the counts themselves"
    from scipy.sparse import random as sparse
    x, test = (sparse(n, 500, .05, 'csr', random_state=n) for n in (60, 40))
    y = np.arange(60) % 3
    y[:58][y[:58] == 2] = 1  # one text of the class 2: no cross-validation
    y[59], y[58] = 2, 0
    want = LogisticRegression(C=10, tol=1e-6, max_iter=3000).fit(x, y).predict(test)
    assert (_fit_predict(x, y, test, 0) == want).mean() >= .95


def test_four_hundred_texts_take_moments():
    rng = np.random.default_rng(0)
    texts = [' '.join(f'w{k}' for k in rng.zipf(1.3, 40) % 5000) for _ in range(700)]
    s = split_texts(make_texts(texts, [f'c{i % 4}' for i in range(700)]))
    method, y = tfidf_method(s), s.part('train')[1][:400]
    start = time.process_time()
    method(np.arange(400), y, 0)
    assert time.process_time() - start < 2  # .2 on a quiet machine


def test_words():
    assert words('A “quoted” word—and café!') == ['a', 'quoted', 'word', 'and', 'café']
    assert words('x = 3') == ['x', '=', '3'] and words(' ... ') == []


def test_many_texts_take_the_sparse_way_to_the_same_answers(monkeypatch):
    splits, few = splits_of([*'bcdefghijk'], 'xy', ' '), np.arange(60)
    y = splits.part('train')[1][few]
    dense = tfidf_method(splits)(few, y, 0)
    monkeypatch.setattr(module, 'FEW', 10)
    assert (tfidf_method(splits)(few, y, 0) == dense).mean() > .97
