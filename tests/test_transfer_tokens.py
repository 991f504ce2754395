"Names in text: rows and words, loss and F1 by hand, what is learnt, what is refused"
import random
import sys

import numpy as np
import pytest
import torch

pytest.importorskip('seqeval')
from replearn_nb.core import ReplearnError, local_seed  # noqa: E402
from replearn_nb.data.entities import bio, entities, invented_entities  # noqa: E402
from replearn_nb.data.text import TextPreprocessing, WordPieces, train_sentencepieces  # noqa: E402
from replearn_nb.encoders.transformer import bert, cramming  # noqa: E402
from replearn_nb.pretext.masked_lm import IGNORE  # noqa: E402
from replearn_nb.transfer.finetune import finetune  # noqa: E402
from replearn_nb.transfer.labels import Method, label_efficiency  # noqa: E402
from replearn_nb.transfer.tokens import (  # noqa: E402
    Gazetteer,
    TokenHead,
    TokenProbe,
    draw_sentences,
    entity_f1,
    entity_task,
    tag_names,
    token_features,
    word_rows,
)

@pytest.fixture(scope='module')
def splits():
    return invented_entities(300, seed=0)


@pytest.fixture(scope='module')
def pre(splits):
    texts = [' '.join(w) for w in splits.data.words]
    return TextPreprocessing(train_sentencepieces(texts, 200), 40)


@pytest.fixture(scope='module')
def encoder(pre):
    with local_seed(0):
        return bert(pre.tok.vocab_size, 1, 32, 2, max_len=40, pad=pre.tok.pad)


@pytest.mark.parametrize('max_len', [4, 7, 16, 40])
def test_each_word_has_one_place_and_the_pieces_it_should(pre, max_len):
    rng = random.Random(0)
    words = [[rng.choice(['a', 'Banana', 'x' * 30, '\u200d', '☃', 'of', '\x00'])
              for _ in range(rng.randint(0, 30))] for _ in range(40)]
    small, tok = TextPreprocessing(pre.tok, max_len), pre.tok
    ids, first = word_rows(words, small)
    assert int(first.sum()) == sum(map(len, words)) and ids.shape[1] <= max_len
    flat = [w for s in words for w in s]
    starts = ids[first].tolist()
    for word, start in zip(flat, starts, strict=True):
        assert start == (tok.encode([word])[0] or [tok.unk])[0]
    assert ((ids == tok.cls).sum(1) == 1).all() and ((ids == tok.sep).sum(1) == 1).all()
    if max_len == 40:  # words fit, so all of their pieces are there
        pieces = [tok.encode([w])[0] or [tok.unk] for w in flat]
        inner = ids[~torch.isin(ids, torch.tensor([tok.cls, tok.sep, tok.pad]))]
        assert inner.tolist() == [p for w in pieces for p in w]


def test_wordpieces_continue_after_the_first():
    vocab = b'[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nwash\n##ing\n##ton\nis\n'
    pre = TextPreprocessing(WordPieces(vocab), 12)
    ids, first = word_rows([['Washington', 'is'], ['is']], pre)
    assert ids.tolist() == [[2, 5, 6, 7, 8, 3], [2, 8, 3, 0, 0, 0]]
    assert first.int().tolist() == [[0, 1, 0, 0, 1, 0], [0, 1, 0, 0, 0, 0]]


def test_f1_by_counting():
    "Against sets of (sentence, first, last, kind)"
    rng, every = random.Random(1), tag_names(['a', 'b'])
    for _ in range(50):
        n = rng.randint(1, 5)
        truth, found = ([rng.choices(['O', *every], k=6) for _ in range(n)]
                        for _ in range(2))
        t, f = ({(i, *e) for i, tags in enumerate(y) for e in entities(bio(tags))}
                for y in (truth, found))
        want = 2 * len(t & f) / max(1, len(t) + len(f))
        assert entity_f1(truth, found) == pytest.approx(want)
    assert entity_f1([['B-a']], [['O']]) == 0 == entity_f1([['O']], [['B-a']])


def test_the_loss_sees_first_pieces_alone():
    with local_seed(0):
        logits = torch.randn(2, 4, 3)
    y = torch.tensor([[IGNORE, 2, IGNORE, 1, IGNORE], [IGNORE, 0, IGNORE, IGNORE, 9]])
    logp = logits.log_softmax(-1)
    want = -(logp[0, 1, 2] + logp[0, 3, 1] + logp[1, 1, 0]) / 3
    loss = TokenHead(['x'], None).loss
    assert float(loss(logits, y)) == pytest.approx(float(want), abs=1e-6)
    moved = logits.clone()
    moved[:, [0, 2]] += 5
    assert loss(moved, y) == loss(logits, y)


def test_draws_are_nested_and_hold_a_name(splits):
    tags = splits.part('train')[1]
    for seed in range(20):
        some = draw_sentences(tags, 10, seed)
        assert entities(tags[some[0]]) and len(set(some)) == 10
        assert (draw_sentences(tags, 4, seed) == some[:4]).all()
    first = {int(draw_sentences(tags, 1, s)[0]) for s in range(20)}
    assert len(first) > 10


def test_features_do_not_depend_on_the_batch(splits, pre, encoder):
    words = splits.part('valid')[0]
    a = token_features(encoder, pre, words, bs=1, device='cpu')
    b = token_features(encoder, pre, words, bs=64, device='cpu')
    assert [len(x) for x in a] == [len(w) for w in words]
    torch.testing.assert_close(torch.cat(a), torch.cat(b), atol=1e-5, rtol=1e-4)
    first_layer = token_features(encoder, pre, words, layer=0, device='cpu')
    assert not torch.allclose(torch.cat(first_layer), torch.cat(a))


def test_a_probe_becomes_a_head(splits, pre, encoder):
    train, valid = splits.part('train'), splits.part('valid')
    x, x_valid = (token_features(encoder, pre, p[0], device='cpu')
                  for p in (train, valid))
    probe = TokenProbe.fit(x, train[1], splits.kinds)
    guess = probe.predict(x_valid)
    assert [len(t) for t in guess] == [len(t) for t in valid[1]]
    logits = probe.head()(torch.cat(x_valid))
    assert [probe.names[i] for i in logits.argmax(1)] == sum(guess, [])
    with pytest.raises(ReplearnError, match="There is no label 'B-firm'"):
        TokenProbe.fit(x, train[1], ['person'])


def test_it_learns_what_position_and_context_say(pre):
    "`no Name` is in no name, `mister Name` is a person, as long as it lasts"
    rng, words, tags = random.Random(0), [], []
    for _ in range(120):
        names = [rng.choice(['Ba', 'Lo', 'Mi']) for _ in range(rng.randint(1, 3))]
        person = rng.random() < .5
        words.append(['met' if person else 'no', *names])
        tags.append(['O', *(['B-p'] + ['I-p'] * (len(names) - 1) if person
                            else ['O'] * len(names))])
    with local_seed(1):
        encoder = cramming(pre.tok.vocab_size, 1, 32, 2, max_len=40, pad=pre.tok.pad)
    parts = [(words[a:b], tags[a:b]) for a, b in ((0, 80), (80, 120))]
    tuned = finetune(encoder, TokenHead(['p'], pre), *parts[0], steps=300, bs=16,
                     lr=1e-2, device='cpu')
    assert entity_f1(parts[1][1], tuned.predict(parts[1][0])) > .95
    table = Gazetteer.fit(*parts[0]).predict(parts[1][0])
    assert entity_f1(parts[1][1], table) < .9


def test_training_begins_where_the_probe_ended(splits, pre, encoder):
    train, test = splits.part('train'), splits.part('test')
    x, x_test = (token_features(encoder, pre, part[0], device='cpu')
                 for part in (train, test))
    probe = TokenProbe.fit(x, train[1], splits.kinds)
    tuned = finetune(encoder, TokenHead(splits.kinds, pre, probe.head()), *train,
                     steps=2, lr=0., device='cpu')
    assert tuned.predict(test[0]) == probe.predict(x_test)
    with pytest.raises(ReplearnError, match=r'shape \(7, 32\), and has \(7, 9\)'):
        finetune(encoder, TokenHead(splits.kinds, pre, torch.nn.Linear(9, 7)), *train)


def test_in_a_figure_over_sentences(splits):
    task = entity_task(splits)
    words = [splits.part(p)[0] for p in ('train', 'test')]

    def table(labelled, tags, seed):
        return Gazetteer.fit([words[0][i] for i in labelled], tags).predict(words[1])

    method = Method('words+gazetteer', table)
    df = label_efficiency(task, [method], [5, 50], 2, progress=False)
    assert np.isfinite(df.score).all() and len(df) == 4


def test_errors_come_before_the_work(splits, pre, encoder, monkeypatch):
    train = splits.part('train')
    other = TextPreprocessing(
        train_sentencepieces([' '.join(w) for w in splits.data.words], 90), 40)
    with pytest.raises(ReplearnError, match='The tokenizer is of another model: it'):
        finetune(encoder, TokenHead(splits.kinds, other), *train)
    with pytest.raises(ReplearnError, match='Each word needs one label'):
        finetune(encoder, TokenHead(splits.kinds, pre), train[0], train[1][:-1])
    with pytest.raises(ReplearnError, match='There is no word in 0 sentences'):
        finetune(encoder, TokenHead(splits.kinds, pre), [], [])
    with pytest.raises(ReplearnError, match='longer than the 40'):
        token_features(encoder, TextPreprocessing(pre.tok, 99), [['word'] * 200])
    monkeypatch.setitem(sys.modules, 'seqeval', None)  # as if it were not installed
    with pytest.raises(ReplearnError, match=r"pip install 'replearn_nb\[entities\]'"):
        entity_f1([['O']], [['O']])
