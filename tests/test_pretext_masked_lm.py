"Masked language modelling: mask statistics, its loss beside the peer's, its run"
import math

import pytest
import torch
from masked_lm_run import learner
from processes import check_kills, check_ranks

from replearn_nb.core import ReplearnError, local_seed, tensor_dls
from replearn_nb.data.text import (
    TextPreprocessing,
    make_texts,
    split_texts,
    train_sentencepieces,
)
from replearn_nb.encoders.transformer import SIZES, bert, cramming, to_hf
from replearn_nb.pretext.base import pretrain
from replearn_nb.pretext.masked_lm import (
    IGNORE,
    BertAdamW,
    MaskedLM,
    choose_masked,
    fill_in,
    mask_tokens,
    masked_lm_learner,
    masked_loss,
    unigram_bits,
)
from replearn_nb.representation import Representation

SPECIAL, ORDINARY = torch.arange(5), torch.arange(5, 500)


@pytest.mark.parametrize('rate', [.15, .25, .5])
def test_mask_statistics(rate):
    "The shares within four standard errors, and never a special token"
    drawn = free = masked = same = 0
    with local_seed(0):
        ids = torch.randint(0, 500, (64, 50))
        ids[:8, 7:] = 0  # rows that are mostly padding
        for _ in range(100):
            where, real = choose_masked(ids, SPECIAL, rate)
            seen, target = mask_tokens(ids, where, real, 4, ORDINARY)
            old, now = ids.gather(1, where)[real], seen.gather(1, where)[real]
            assert torch.equal(target[real], old) and (target[~real] == IGNORE).all()
            assert not torch.isin(old, SPECIAL).any()
            assert not torch.isin(now[now != 4], SPECIAL).any()
            untouched = torch.ones_like(ids).scatter(1, where, (~real).long()).bool()
            assert torch.equal(seen[untouched], ids[untouched])
            drawn += len(old)
            free += int((~torch.isin(ids, SPECIAL)).sum())
            masked += int((now == 4).sum())
            same += int((now == old).sum())

    def near(share, want, n):
        assert abs(share - want) < 4 * math.sqrt(want * (1 - want) / n)

    near(drawn / free, rate, free)
    near(masked / drawn, .8, drawn)
    near(same / drawn, .1 + .1 / len(ORDINARY), drawn)


def test_every_token_of_a_row_is_drawn_as_often_as_the_next():
    ids, hits = torch.full((4000, 20), 9), torch.zeros(20)
    ids[:, 0] = 2
    with local_seed(1):
        where, real = choose_masked(ids, SPECIAL)
    hits.scatter_add_(0, where[real], torch.ones(int(real.sum())))
    assert hits[0] == 0
    assert (hits[1:] - 600).abs().max() < 5 * math.sqrt(600 * .85)


def test_masks_are_new_each_epoch_and_the_same_in_validation():
    learn, seen = learner(), []
    masking = learn.masking
    hide = masking._hide

    def spy():
        hide()
        seen.append((masking.learn.training, masking.learn.xb[2].clone()))
    masking._hide = spy
    pretrain(learn, 2, 1e-3)
    train = [w for training, w in seen if training]
    valid = [w for training, w in seen if not training]
    n = len(train) // 2
    assert not any(torch.equal(a, b) for a in train[:n] for b in train[n:])
    assert len(valid) == 2 and torch.equal(*valid)


def test_loss_equals_the_peers():
    pytest.importorskip('transformers')
    with local_seed(0):
        model = MaskedLM(bert(60, 2, 32, 2, max_len=20)).eval()
        ids = torch.randint(5, 60, (4, 20))
    where, real = choose_masked(ids, SPECIAL, .3)
    seen, target = mask_tokens(ids, where, real, 4, torch.arange(5, 60))
    labels = torch.full_like(ids, IGNORE).scatter(1, where, target)
    peer = to_hf(model.encoder, model.head).eval()
    with torch.no_grad():
        ours = masked_loss(model(seen, torch.ones_like(ids), where), target)
        want = peer(seen, attention_mask=torch.ones_like(ids), labels=labels).loss
    assert float(ours) == pytest.approx(float(want), abs=1e-5)


def test_vectors_are_not_decayed():
    model = MaskedLM(cramming(50)), MaskedLM(bert(50))
    for m in model:
        before = {n: p.clone() for n, p in m.named_parameters()}
        opt = BertAdamW(m.parameters(), lr=.1, weight_decay=.5)
        for p in m.parameters():
            p.grad = torch.zeros_like(p)
        opt.step()
        for n, p in m.named_parameters():
            want = before[n] * (.95 if p.ndim > 1 else 1)
            torch.testing.assert_close(p.detach(), want), n


def test_decay_survives_what_fastai_sets():
    learn = learner()
    pretrain(learn, 1, 1e-3, wd=.3)
    groups = learn.opt.opt.param_groups
    assert {g['decays']: g['weight_decay'] for g in groups} == {True: .3, False: 0.}
    assert all((p.ndim > 1) == g['decays'] for g in groups for p in g['params'])
    n = sum(p.numel() for g in groups for p in g['params'])
    assert n == sum(p.numel() for p in learn.model.parameters())


@pytest.mark.parametrize('kwargs', [dict(precision='bf16'), dict(accumulate=2)])
def test_precision_and_accumulation_learn(kwargs):
    learn = pretrain(learner(**kwargs), 6, 3e-3)
    valid = [loss for _, loss, _ in learn.recorder.values]
    assert valid[-1] < valid[0] - .1
    assert next(learn.model.parameters()).dtype == torch.float32


def test_it_learns_to_copy():
    "Each row is a text twice: to guess a token, look at its other half"
    with local_seed(0):
        half = torch.randint(5, 40, (400, 8)).int()
    ids, doc = half.repeat(1, 2), torch.ones(400, 16).short()
    dls = tensor_dls((ids, doc), (ids[:50], doc[:50]), bs=50, device='cpu')
    tok = learner().masking.tok
    with local_seed(0):
        encoder = cramming(40, 2, 64, 4, max_len=16)
    learn = masked_lm_learner(dls, encoder, tok, progress=False)
    pretrain(learn, 25, 1e-2)
    assert learn.recorder.values[-1][2] > .6
    assert learn.recorder.values[-1][1] / math.log(2) < unigram_bits(ids, ids, tok) / 2


def test_the_tokenizer_of_another_model_is_refused():
    tok = train_sentencepieces(['some words in a text', 'and some other words'] * 9, 40)
    ids = torch.full((8, 16), 6).int(), torch.ones(8, 16).short()
    with pytest.raises(ReplearnError, match='tokenizer is of another model'):
        masked_lm_learner(tensor_dls(ids, ids, 4, 'cpu'), bert(99), tok)
    big = ids[0] + 500, ids[1]
    encoder = bert(tok.vocab_size, pad=tok.pad)
    with pytest.raises(ReplearnError, match='hold token 506'):
        masked_lm_learner(tensor_dls(big, big, 4, 'cpu'), encoder, tok)


def test_a_saved_text_representation_is_equal_to_the_bit(tmp_path):
    texts = [f'word{i % 7} and word{i % 3} and so on' for i in range(60)]
    tok = train_sentencepieces(texts, 60)
    dls = split_texts(make_texts(texts)).dls(4, tok, 32, 'cpu')
    with local_seed(0):
        encoder = bert(tok.vocab_size, **SIZES['tiny'], max_len=32, pad=tok.pad)
    learn = pretrain(masked_lm_learner(dls, encoder, tok, progress=False), 2, 1e-3)
    rep = Representation.from_learner(learn)
    items = ['word1 and word2', 'so on', 'and so on and so on']
    a = rep.embed(items, device='cpu')
    folder = rep.save(tmp_path/'rep')
    assert (folder/'tokenizer.model').read_bytes() == tok.data
    b = Representation.load(folder)
    assert isinstance(b.preprocessing, TextPreprocessing)
    assert (b.embed(items, device='cpu') == a).all() and a.shape == (3, 128)
    (folder/'tokenizer.model').write_bytes(b'other')
    with pytest.raises(ReplearnError, match='damaged, or the tokenizer of another'):
        Representation.load(folder)
    (folder/'tokenizer.model').unlink()
    with pytest.raises(ReplearnError, match='tokenizer.model is missing'):
        Representation.load(folder)
    guesses = fill_in(learn.model, learn.preprocessing, 'word1 ___ so on', top=3)
    assert len(guesses) == 1 and len(guesses[0]) == 3


def test_a_killed_run_ends_as_if_it_had_never_stopped(tmp_path):
    check_kills('masked_lm_run.py', tmp_path, [3])


def test_two_processes_equal_one(tmp_path):
    "The same loss and gradients, though the ranks have unequal numbers of masks"
    check_ranks('masked_lm_ranks.py', tmp_path)
