"The recipe bert on somebody's own texts: from the command line to the report"
import random
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from scipy import stats

from replearn_nb.core import ReplearnError, local_seed
from replearn_nb.data.entities import invented_entities
from replearn_nb.data.questions import invented_questions
from replearn_nb.data.text import (
    TextPreprocessing,
    make_texts,
    split_texts,
    train_sentencepieces,
)
from replearn_nb.encoders.transformer import bert
from replearn_nb.pretext.masked_lm import unigram_bits
from replearn_nb.recipes import bert as recipe
from replearn_nb.representation import Representation
from replearn_nb.transfer.finetune import finetune

SMALL = replace(recipe.PRESETS['tiny'], width=32, hidden=64, vocab_size=120, max_len=32,
                epochs=3, bs=16, read=32, steps=8, budgets=(2, 5, 500), draws=2)
TOPICS = dict(sea='wave salt fish boat tide', wood='tree leaf deer moss path')
METHODS = ['tfidf+linear', 'scratch', 'random+linear', 'bert+linear', 'bert+finetune']


def reviews(n=80, seed=0):
    rng = random.Random(seed)
    for i in range(n):
        topic = ('sea', 'wood')[i % 2]
        words = rng.choices(TOPICS[topic].split() + 'the a and of in'.split(), k=12)
        yield ' '.join(words), topic


def own_splits():
    return split_texts(make_texts(*zip(*reviews(), strict=True)), name='own')


def untrained():
    "A small representation of these texts, with new weights"
    tok = train_sentencepieces([t for t, _ in reviews()], 80)
    with local_seed(0):
        encoder = bert(tok.vocab_size, 1, 32, 2, max_len=32, pad=tok.pad)
    return Representation(encoder, TextPreprocessing(tok, 32), dict(
        seed=0, pretext=dict(name='bert')))


@pytest.fixture
def table(tmp_path):
    path = tmp_path/'reviews.csv'
    path.write_text('words,topic\n' + ''.join(f'{t},{c}\n' for t, c in reviews()))
    return path


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(recipe.PRESETS, 'quick', SMALL)


@pytest.mark.parametrize('variant', ['bert', 'cramming'])
def test_run_on_a_table(table, tmp_path, variant):
    more = tmp_path/'more.txt'
    more.write_text('\n'.join(t for t, _ in reviews(60, seed=1)))
    out = tmp_path/'run'
    report = recipe.run(out=out, data=str(table), text_col='words', variant=variant,
                        unlabelled=str(more), device='cpu')
    assert list(report.table.method.unique()) == METHODS
    assert set(report.table.budget) == {2, 5}  # nobody has 500
    told = report.headline
    mean = report.table.groupby(['method', 'budget']).score.mean()
    for b in 2, 5:
        ours, scratch, words = (mean[m, b] for m in (
            'bert+finetune', 'scratch', 'tfidf+linear'))
        assert told[f'over_scratch@{b}'] == pytest.approx(ours - scratch, abs=1e-4)
        assert told[f'over_tfidf@{b}'] == pytest.approx(ours - words, abs=1e-4)
    assert 0 < told['bits_per_masked_token'] < 7
    rep = Representation.load(out/'representation')
    assert rep.card['data']['unlabelled'] > 100 and rep.card['scores'] == told
    assert rep.encoder.architecture == f'transformer.{variant}'
    assert rep.embed(['salt and the tide'], device='cpu').shape == (1, 32)


def test_texts_without_labels_are_only_read(tmp_path):
    path = tmp_path/'texts.txt'
    path.write_text('\n'.join(t for t, _ in reviews()))
    report = recipe.run(out=tmp_path/'run', data=str(path), device='cpu')
    assert not report.scores and report.headline['unigram_bits'] > 0
    assert (tmp_path/'run'/'representation'/'tokenizer.model').exists()


def scores(tables, draws=5):
    "A table of scores: each method's at each budget, with a little noise"
    plain = 'tfidf+linear', 'scratch'
    rng = np.random.default_rng(0)
    noise = rng.normal(0, .01, (draws, 1)) * np.ones(3)
    return pd.DataFrame([
        dict(method=m, pretrained=m not in plain, budget=b, seed=s, pretraining=p,
             score=v + noise[s, 0])
        for m, (means, pretrainings) in tables.items() for b, v in means.items()
        for s in range(draws) for p in range(pretrainings)])


def test_headline_tells_harm_as_it_tells_gain():
    "Word counts are ahead at 2, level with 5 at 8; nothing else reaches 32"
    words, ours = {2: .5, 8: .8, 32: .9}, {2: .4, 8: .65, 32: .95}
    df = scores({'tfidf+linear': (words, 1), 'gaps+finetune': (ours, 2),
                 'scratch': ({k: v - .2 for k, v in ours.items()}, 1)})
    reps = [SimpleNamespace(name='gaps', card=dict(pretext=dict(
        bits_per_masked_token=b, unigram_bits=8.))) for b in (5., 6.)]
    told = recipe.headline(df, reps)
    assert told['bits_per_masked_token'] == 5.5 and told['unigram_bits'] == 8
    assert told['labels_saved@2'] == 'at most 1'
    assert told['labels_saved@8'] == '0.5' and told['labels_saved@32'] == 'more than 1'
    for b, lead in {2: -.1, 8: -.15, 32: .05}.items():
        for end in '', ', low', ', high':  # the noise is that of the draws alone
            assert told[f'over_tfidf@{b}{end}'] == pytest.approx(lead, abs=2e-3)
            assert told[f'over_scratch@{b}{end}'] == pytest.approx(.2, abs=2e-3)
        assert told[f'gaps+finetune@{b}'] == pytest.approx(ours[b], abs=.01)


def test_a_lead_is_measured_draw_by_draw():
    "With one pre-training: the t-interval of the paired differences"
    gap = np.array([.1, .3, .2, .0, .4, .1])
    df = pd.concat([pd.DataFrame(dict(
        method=m, budget=5, seed=range(6), pretraining=0, score=s)) for m, s in (
            ('a', np.linspace(0, 9, 6) + gap), ('b', np.linspace(0, 9, 6)))])
    row = recipe.leads(df, 'a', 'b').loc[5]
    low, high = stats.t.interval(.95, 5, gap.mean(), stats.sem(gap))
    assert row.tolist() == pytest.approx([gap.mean(), low, high])
    back = recipe.leads(df, 'b', 'a').loc[5]
    assert back.tolist() == pytest.approx([-gap.mean(), -high, -low])


def test_pre_trainings_that_differ_widen_the_interval():
    one = scores({'a': ({5: .5}, 3), 'b': ({5: .4}, 1)})
    two = one.assign(score=one.score + .05 * one.pretraining * (one.method == 'a'))
    narrow, wide = (recipe.leads(df, 'a', 'b').loc[5] for df in (one, two))
    assert wide.high - wide.low > 10 * (narrow.high - narrow.low)


def test_several_pre_trainings(table, tmp_path):
    "Each has its own row of scores; the first is that of a run with one"
    kwargs = dict(data=str(table), text_col='words', device='cpu')
    one = recipe.run(out=tmp_path/'one', **kwargs)
    two = recipe.run(out=tmp_path/'two', seeds=2, **kwargs)
    df = two.table
    count = df.groupby('method')[['pretraining', 'seed']].nunique()
    assert set(count.seed) == {2}  # all have the same draws
    assert count.pretraining.to_dict() == {
        m: 1 if m in METHODS[:2] else 2 for m in METHODS}
    pd.testing.assert_frame_equal(df[df.pretraining == 0].reset_index(drop=True),
                                  one.table)
    wide = df.pivot_table('score', ['method', 'budget', 'seed'], 'pretraining').dropna()
    for method in METHODS[2:4]:  # the network at random is another one, too
        assert (wide.loc[method][0] != wide.loc[method][1]).any()
    first, saved = (Representation.load(r.folder/'representation').card
                    for r in (one, two))
    assert first['sha256'] == saved['sha256'] and saved['seed'] == 0


@pytest.fixture
def tasks(monkeypatch):
    "Settings of few steps: all labels too, invented names and questions"
    sets = dict(wnut17=invented_entities(30, 1), wikiann=invented_entities(40, 2),
                squad=invented_questions(20, facts=1))
    for name, splits in sets.items():
        monkeypatch.setattr(recipe, name, partial(replace, splits, name=name))
    monkeypatch.setattr(recipe.experiment, 'load', lambda cfg, seed: own_splits())
    monkeypatch.setitem(recipe.PRESETS, 'quick', replace(
        SMALL, variant='bert', epochs=1, steps=2, tune_epochs=3, budgets=(2, 5, 0),
        tasks=True))


def save_published(folder, model):
    pieces = '[PAD] [UNK] [CLS] [SEP] [MASK]'.split() + sorted(
        {w for t, _ in reviews() for w in t.split()})
    config = transformers.BertConfig(
        vocab_size=len(pieces), hidden_size=32, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=64, max_position_embeddings=40)
    with local_seed(0):
        made = model(config).eval()
    made.save_pretrained(folder)
    (folder/'vocab.txt').write_text('\n'.join(pieces))
    return made


def test_names_and_answers_and_a_published_bert(tasks, tmp_path):
    "All labels, names, answers, and a published BERT beside it"
    save_published(tmp_path/'theirs', transformers.BertForMaskedLM)
    report = recipe.run(out=tmp_path/'run', device='cpu',
                        beside=str(tmp_path/'theirs'))
    table, told = report.table, report.headline
    assert list(table.method.unique()) == [
        *METHODS, 'published+linear', 'published+finetune']
    assert set(table.budget) == {0, 2, 5} and set(report.few.budget) == {2, 5}
    of_all = table[table.budget == 0].groupby('method').score
    assert set(of_all.size()) == {2}
    ours = of_all.mean()['bert+finetune']
    assert told['bert+finetune@all'] == pytest.approx(ours, abs=1e-4)
    assert {'over_scratch@all', 'published+finetune@5'} <= set(told)
    assert not [k for k in told if k.endswith('@0')]
    found = pd.DataFrame(report.tables['names and answers'])
    assert set(found.method) == {'scratch', 'bert+finetune'}
    assert set(found.seed) == set(range(5))
    assert set(found.task) == {'wnut17 F1', 'wikiann F1', 'squad F1', 'squad EM'}
    mean = found.groupby(['method', 'task']).score.mean()
    for task in set(found.task):
        ours, scratch = mean['bert+finetune', task], mean['scratch', task]
        assert told[f'gain on {task}'] == pytest.approx(ours - scratch, abs=1e-4)
        assert told[f'gain on {task}, low'] <= told[f'gain on {task}']
    assert Representation.load(tmp_path/'run'/'representation').card['scores'] == told


def test_names_and_answers_that_are_there_are_not_measured_again(
        tasks, tmp_path, stop_at):
    whole = recipe.run(out=tmp_path/'whole', device='cpu')
    calls = stop_at(recipe, '_scores', 5)
    with pytest.raises(KeyboardInterrupt):
        recipe.run(out=tmp_path/'cut', device='cpu')
    again = recipe.run(out=tmp_path/'cut', device='cpu')
    assert len(calls) == 5 + 3 * 5 * 2 - 4  # sets, seeds, methods
    assert again.scores == whole.scores and again.headline == whole.headline
    assert again.tables == whole.tables


def test_more_labels_get_more_steps(monkeypatch):
    "Three epochs of all, not fewer than the preset's steps"
    seen = []

    def spy(net, head, x, y, *, steps, **kwargs):
        seen.append((len(y), steps))
        return finetune(net, head, x, y, steps=1, **kwargs)
    monkeypatch.setattr(recipe, 'finetune', spy)
    cfg, splits = replace(SMALL, steps=2, tune_epochs=3), own_splits()
    rep = untrained()
    x, y = recipe.token_ids(rep, splits), splits.part('train')[1]
    scratch = recipe.trained_method(rep, x, 2, cfg, torch.device('cpu'), scratch=True)
    for rows in np.arange(len(y)), np.array([0, int((y != y[0]).nonzero()[0])]):
        scratch(rows, y[rows], 0)
    assert seen == [(len(y), 3 * len(y) // 32), (2, 2)] and 3 * len(y) // 32 > 2


def test_transfer_scores_a_representation_on_other_texts(table, tmp_path):
    rep = recipe.run(out=tmp_path/'a', data=str(table), text_col='words', device='cpu')
    rep = Representation.load(rep.folder/'representation')
    report = recipe.transfer(rep, data=str(table), text_col='words', out=tmp_path/'b',
                             device='cpu')
    assert list(report.table.method.unique()) == [METHODS[0], *METHODS[2:4]]
    mean = report.table.groupby(['method', 'budget']).score.mean()
    assert report.headline['bert+linear@5'] == pytest.approx(
        mean['bert+linear', 5], abs=1e-4)
    assert mean['bert+linear', 20] > .9  # two topics with words of their own
    (tmp_path/'t.txt').write_text('\n'.join(t for t, _ in reviews()))
    with pytest.raises(ReplearnError, match='t.txt has no labels'):
        recipe.transfer(rep, data=str(tmp_path/'t.txt'), out=tmp_path/'c')
    assert not (tmp_path/'c').exists()


def test_a_published_bert_gives_its_own_vectors(tmp_path):
    theirs = save_published(tmp_path/'theirs', transformers.BertModel)
    rep = recipe.published(str(tmp_path/'theirs'), 16)
    ids = rep.preprocessing.prepare(['salt and the tide'])
    with torch.no_grad():
        want = theirs(ids.long()[:, :6]).last_hidden_state.mean(1)
    found = torch.tensor(rep.embed(['salt and the tide'], device='cpu'))
    torch.testing.assert_close(found, want, atol=1e-5, rtol=0)
    new = rep.untrained().state_dict()
    assert new.keys() == rep.encoder.state_dict().keys()
    assert not torch.equal(new['tokens.weight'], rep.encoder.tokens.weight)


def test_what_is_no_published_bert_is_said(tmp_path, monkeypatch):
    with pytest.raises(ReplearnError, match="no folder 'nowhere'"):
        recipe.published('nowhere')
    (tmp_path/'a').mkdir()
    with pytest.raises(ReplearnError, match='has no vocab.txt'):
        recipe.published(str(tmp_path/'a'))
    (tmp_path/'a'/'vocab.txt').write_text('x')
    with pytest.raises(ReplearnError, match='holds no BERT'):
        recipe.published(str(tmp_path/'a'))
    save_published(tmp_path/'b', transformers.BertModel)
    with open(tmp_path/'b'/'vocab.txt', 'a') as f:
        f.write('\nmore')
    with pytest.raises(ReplearnError, match='The tokenizer is of another model'):
        recipe.published(str(tmp_path/'b'))


def test_a_loss_that_is_no_number_ends_the_run(table, tmp_path):
    with pytest.raises(ReplearnError, match='no longer a number in epoch'):
        recipe.run(out=tmp_path/'r', data=str(table), text_col='words', lr=1e30,
                   device='cpu')
    assert not (tmp_path/'r').exists()


def labelled(n):
    return 'text,label\n' + ''.join(f'{t},{c}\n' for t, c in reviews(n))


@pytest.mark.parametrize('text,args,message', [
    ('words,topic\na,b\n', [], 'its columns are: words, topic'),
    ('text,label\none,a\ntwo,a\nthree,a\n', [], "only the class 'a'"),
    (labelled(8), ['--preset', 'tiny'],
     "training examples of 'sea'; the smallest budget is 5"),
    (labelled(8), ['--label-col', 'star'], 'no column star'),
    ('text,label\n,\n,\n', [], 'too few texts (0)'),
    (labelled(40), ['--vocab-size', '5'], 'finds no vocabulary in'),
], ids=['column', 'one class', 'few', 'label', 'empty', 'vocabulary'])
def test_bad_tables_are_refused_in_a_sentence(text, args, message, tmp_path, capsys):
    from replearn_nb.cli import main
    path = tmp_path/'t.csv'
    path.write_text(text)
    with pytest.raises(SystemExit) as done:
        main(['run', 'bert', '--data', str(path), '--out', str(tmp_path/'r'), *args])
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert done.value.code == 1 and message in said
    assert 'bug' not in said and not (tmp_path/'r').exists()


def test_mixed_encodings_and_long_texts_are_read(tmp_path, capsys):
    rows = [f'{t},{c}'.encode() for t, c in reviews()]
    rows[0] = 'café und Meer,sea'.encode('latin-1')
    rows[1] = b'tree ' * 500 + b',wood'  # far longer than the model
    rows[2] = b'salt\0 fish,sea'
    path = tmp_path/'t.csv'
    path.write_bytes(b'text,label\n' + b'\n'.join(rows))
    report = recipe.run(out=tmp_path/'run', data=str(path), device='cpu')
    assert list(report.table.method.unique()) == METHODS
    said = capsys.readouterr().err
    assert '1 lines not in UTF-8' in said and 'NULs' in said


@pytest.mark.parametrize('given', [dict(unlabelled='more.txt'), dict(text_col='t'),
                                   dict(label_col='t', data='docstrings')])
def test_what_goes_with_own_texts_is_not_ignored(given):
    with pytest.raises(ReplearnError, match='docstrings has its own texts and labels'):
        recipe.run(**given)


def test_the_head_begins_with_the_frequencies():
    "Before any training it needs as many bits as somebody who knows them"
    cfg, splits = SMALL, own_splits()
    tok = train_sentencepieces(splits.part('unlabelled')[0], cfg.vocab_size)
    learn = recipe.make_learner(splits, tok, cfg, torch.device('cpu'))
    p = learn.model.head.bias.detach().exp()
    assert p.sum() == pytest.approx(1, abs=1e-4)
    assert p[tok.pad] < p[tok.encode(['the'])[0][0]]
    ids = learn.dls.train.tensors[0]
    with learn.no_logging(), learn.no_bar():
        bits = learn.validate(dl=learn.dls.train)[0] / np.log(2)
    assert bits == pytest.approx(unigram_bits(ids, ids, tok), abs=.35)


def test_methods_see_no_labels_but_those_drawn():
    "All other labels turned round, validation ones too, and nothing changes"
    rep, device = untrained(), torch.device('cpu')
    cfg, found = replace(SMALL, steps=2), []
    y = own_splits().part('train')[1]
    few = np.array([int((y == c).nonzero()[0]) for c in (0, 1)])
    for turn in False, True:
        splits = own_splits()
        if turn:
            rest = np.setdiff1d(np.arange(len(splits.texts)), splits.train[few])
            splits.texts.y[rest] = 1 - splits.texts.y[rest]
        methods = recipe.methods(dict(bert=rep), 0, splits, cfg, device)
        found.append({m.name: np.asarray(m.fit(few, y[few], 0)) for m in methods})
    assert list(found[0]) == METHODS
    for m, prediction in found[0].items():
        assert (prediction == found[1][m]).all(), m
    truth = own_splits().part('test')[1].numpy()
    assert (found[0]['tfidf+linear'] == truth).mean() > .6
