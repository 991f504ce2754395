"Frozen encoders over many items: batches, threads, and what must not depend on them"
import numpy as np
import pytest
import torch
from torch import nn

from replearn_nb.core import ReplearnError, local_seed
from replearn_nb.data.images import ImagePreprocessing
from replearn_nb.data.text import TextPreprocessing, train_sentencepieces
from replearn_nb.encoders.batches import by_length, run_batches, thread_map
from replearn_nb.encoders.transformer import bert, cramming, to_hf
from replearn_nb.representation import Representation

CPU = torch.device('cpu')


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def texts(n=300):
    "One to sixty words each"
    rng = np.random.default_rng(0)
    words = ['a', 'tree', 'turns', 'green', 'in', 'spring', 'and', 'birds', 'return']
    return [' '.join(rng.choice(words, rng.integers(1, 61))) for _ in range(n)]


@pytest.fixture(scope='module')
def tok():
    return train_sentencepieces(texts(), 40)


def text_rep(tok, make, max_len=64):
    with local_seed(0):
        encoder = make(tok.vocab_size, 2, 32, 4, max_len=max_len, pad=tok.pad)
        for p in encoder.parameters():
            p.data += .05 * torch.randn_like(p)
    return Representation(encoder.eval(), TextPreprocessing(tok, max_len))


@torch.no_grad()
def one_by_one(rep, items):
    "Each text alone, without padding, by definition"
    found = dict(mean=[], cls=[])
    for t in items:
        h = rep.encoder.forward_features(rep.preprocessing.prepare([t]))[0]
        found['mean'].append(h.mean(0))
        found['cls'].append(h[0])
    return {k: torch.stack(v) for k, v in found.items()}


@pytest.mark.parametrize('make', [bert, cramming])
def test_vectors_of_texts_depend_on_no_batch_and_come_in_order(make, tok, two_threads):
    rep, items = text_rep(tok, make), texts()
    want = one_by_one(rep, items)
    names = []
    for bs in 1, 7, 256:
        for pool in 'mean', 'cls':
            rep.encoder.pool = pool
            found = rep.embed(items, bs=bs, device='cpu', names=names)
            np.testing.assert_allclose(found, want[pool], atol=1e-5, rtol=0)
    assert names == [str(i) for i in range(300)] * 6


def test_both_poolings_in_one_pass(tok):
    rep, items = text_rep(tok, bert), texts(60)
    passes = []
    rep.encoder.blocks[0].register_forward_hook(lambda m, x, y: passes.append(len(y)))
    ids = rep.preprocessing.prepare(items)
    found = rep.encoder.pooled_features(ids, layers=range(3))
    assert sum(passes) == 60
    want = one_by_one(rep, items)
    for pool in 'mean', 'cls':
        torch.testing.assert_close(found[pool][-1], want[pool], atol=1e-5, rtol=0)
        for k in 0, 1:
            with torch.no_grad():
                h = rep.encoder.hidden_states(ids)[k]
                h = rep.encoder.pooled(h, ids, pool)
            torch.testing.assert_close(found[pool][k], h, atol=1e-5, rtol=0)


def test_vectors_of_texts_equal_transformers(tok):
    pytest.importorskip('transformers')
    rep, items = text_rep(tok, bert), texts(40)
    model, ids = to_hf(rep.encoder).eval(), rep.preprocessing.prepare(items)
    real = (ids != tok.pad).long()
    with torch.no_grad():
        h = model(ids, attention_mask=real).last_hidden_state
    want = (h * real[..., None]).sum(1) / real.sum(1, keepdim=True)
    np.testing.assert_allclose(rep.embed(items, device='cpu'), want, atol=1e-5, rtol=0)


def test_texts_go_through_the_encoder_nearly_without_padding(tok):
    rep, seen = text_rep(tok, bert), []
    rep.encoder.blocks[0].register_forward_hook(
        lambda m, x, y: seen.append(y.shape[0] * y.shape[1]))
    rep.embed(texts(), device='cpu')
    real = int((rep.preprocessing.prepare(texts()) != tok.pad).sum())
    assert real <= sum(seen) < 1.05 * real
    assert max(seen) <= 2048


def test_texts_are_tokenised_piece_by_piece(tok):
    "Of more texts than fit into memory, one part at a time is held as tokens"
    pre, seen = TextPreprocessing(tok, 64), []
    for names, x in pre.batches(texts(300), bs=2):
        seen.append(len(x))
        assert len(names) == len(x)
    assert seen == [128, 128, 44]


@pytest.mark.parametrize('bs,tokens', [(1, 99), (64, 1), (64, 500), (10**6, 10**6)])
def test_batches_by_length(bs, tokens):
    with local_seed(0):
        lengths = torch.randint(1, 200, (1000,))
    batches = by_length(lengths, bs, tokens)
    assert torch.equal(torch.cat(batches).sort().values, torch.arange(1000))
    for b in batches:
        low, high = int(lengths[b].min()), int(lengths[b].max())
        assert high <= low * 1.0625 and len(b) <= bs
        assert len(b) == 1 or len(b) * high <= tokens
    assert by_length(lengths[:0], bs, tokens) == []


def test_results_come_in_the_order_of_rows(two_threads):
    batches, sizes = list(torch.randperm(50).split(7)), []
    x = torch.rand(50, 3)
    assert torch.equal(run_batches(lambda i: x[i] * 2, batches, CPU, sizes.append),
                       x * 2)
    assert sizes == [7] * 7 + [1]


def test_threads_share_the_cores_and_give_them_back(two_threads):
    with thread_map(2) as each:
        assert set(each(lambda _: torch.get_num_threads(), range(9))) == {1}
    def fail(i):
        raise ReplearnError('no such row')
    with pytest.raises(ReplearnError, match='no such row'), thread_map(2) as each:
        list(each(fail, range(9)))
    found = []  # what a new thread begins with
    with thread_map(1) as each:
        assert each is map
    import threading
    t = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    t.start()
    t.join()
    assert found == [2]


def test_each_thread_computes_without_gradients_what_one_does(two_threads):
    with local_seed(0):
        encoder = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
                                nn.AdaptiveAvgPool2d(1), nn.Flatten())
        encoder.num_features = 8
        x = torch.randint(0, 256, (30, 3, 8, 8), dtype=torch.uint8)
    rep = Representation(encoder, ImagePreprocessing.fit(x))
    f = rep.features(x)
    assert not f.requires_grad
    torch.set_num_threads(1)
    torch.testing.assert_close(rep.features(x), f, atol=1e-5, rtol=0)
    torch.set_num_threads(2)
