"The recipe for molecules: a short run, one's own table, what is refused"
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

pytest.importorskip('rdkit')
from replearn_nb.core import ReplearnError  # noqa: E402
from replearn_nb.data.molecules import (  # noqa: E402
    canonical,
    embedded,
    from_smiles,
    random_split,
    scaffold_split,
    split_molecules,
)
from replearn_nb.recipes import graphs  # noqa: E402
from replearn_nb.representation import Representation  # noqa: E402
from replearn_nb.transfer.report import sentences  # noqa: E402
from replearn_nb.transfer.tasks import draw_entries  # noqa: E402

SHORT = replace(
    graphs.PRESETS['tiny'], molecules=150, layers=2, dim=16, k=2, steps=4, budgets=(3,),
    trees=5, bs=60, pretexts=('context', 'supervised+context'))
SETS = 'bbbp', 'tox21', 'sider', 'toxcast'
SEVERAL = replace(SHORT, molecules=None, sets=SETS, tune_epochs=1, way='finetune')
CPU = torch.device('cpu')
run, transfer = replace(graphs.experiment, presets=dict(
    quick=SHORT, several=SEVERAL)).functions()


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "A run that was not interrupted"
    return run(out=tmp_path_factory.mktemp('whole')/'run', device='cpu')


PLAIN = {'fingerprint+linear', 'fingerprint+forest', 'groups+linear', 'scratch'}
EACH_TIME = {'random+linear', 'context+finetune', 'supervised+context+finetune',
             'supervised+context+linear'}
METHODS = PLAIN | EACH_TIME


def changed(report):
    return pd.DataFrame(report.tables['changes'])


def test_short_run(whole):
    report = whole
    assert set(report.table.method) == METHODS
    assert report.metric == 'ROC-AUC' and report.axis == 'labels per class'
    told = report.headline
    best = report.method
    assert best == 'supervised+context+linear'
    assert {'scratch@3', 'groups+linear@3', f'{best}@3', 'labels_saved@3'} <= set(told)
    mean = report.table.groupby('method').score.mean()
    assert float(told['gain@3'].split()[0]) == pytest.approx(
        mean[best] - mean['scratch'], abs=1e-3)
    table = changed(report)
    assert set(table.method) == EACH_TIME - {'random+linear'} and len(table) == 12
    for name in 'figure.png', 'changes.png':
        assert (report.folder/name).stat().st_size > 500
    rep = Representation.load(report.folder/'representation')
    assert rep.card['pretext']['name'] == 'supervised+context'
    assert rep.embed(['CCO'], device='cpu').shape == (1, 16)
    Representation.load(report.folder/'others'/'context')


def test_several_pretrainings(whole, tmp_path):
    "The first is that of one; what needs no pre-training is measured once"
    report = run(out=str(tmp_path/'r'), device='cpu', seeds=2)
    found = report.table.groupby('method').pretraining.agg(set)
    assert all(found[m] == {0} for m in PLAIN)
    assert all(found[m] == {0, 1} for m in EACH_TIME)
    first = report.table[report.table.pretraining == 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(first, whole.table)
    for m in EACH_TIME:
        a, b = (report.table[(report.table.method == m)
                             & (report.table.pretraining == p)].score for p in (0, 1))
        assert (a.to_numpy() != b.to_numpy()).any(), m
    assert set(changed(report).pretrainings) == {2}
    for folder in 'representation', 'others/context':
        card = Representation.load(tmp_path/'r'/folder).card
        assert card['seed'] == 0


def test_no_label_is_seen_beside_the_budget():
    "Methods predict the same when all other labels are turned round"
    splits = split_molecules(embedded(150),
                             by=partial(random_split, train=.6, valid=.1))
    reps = graphs.pretrain_all(splits.unlabelled, SHORT, CPU)
    y = splits.mols.y
    labelled = draw_entries(y[splits.train], 3, 0)
    seen = torch.zeros_like(y[splits.train]).bool().flatten()
    seen[torch.as_tensor(labelled)] = True
    other = 1 - y
    other[splits.train] = torch.where(seen.view_as(y[splits.train]), y[splits.train],
                                      1 - y[splits.train])
    turned = replace(splits, data=replace(splits.mols, y=other))
    found = []
    for s in splits, turned:
        found.append({m.name: graphs.predict(m.fit, s, labelled, 0)
                      for m in graphs.methods(reps, 0, s, SHORT, CPU)})
    assert set(found[0]) == METHODS
    for name in METHODS:
        assert torch.equal(found[0][name], found[1][name]), name


def test_the_split_is_not_a_matter_of_the_name():
    "Molecules named as the embedded ones are split by scaffold like any others"
    mols = from_smiles('brics', FAR)
    splits = split_molecules(mols)
    for p, rows in zip(('train', 'valid', 'test'), scaffold_split(FAR), strict=True):
        assert torch.equal(getattr(splits, p), rows)
    own = graphs.load_splits(replace(SHORT, molecules=100))
    assert len(own.train) == 60 and len(own.test) == 30


def test_what_is_looked_at_is_a_sample():
    "Sorted by size, as files may be, a twentieth is not the smallest ones"
    mols = embedded(300)
    mols = mols[mols.graphs.n_atoms.argsort()]
    learn = graphs.step_learner('attrmask', graphs.new_encoder(SHORT), mols, SHORT, CPU)
    sizes = [dl.tensors[0].n_atoms.float() for dl in learn.dls]
    assert len(sizes[1]) == 15
    assert abs(sizes[0].mean() - sizes[1].mean()) < mols.graphs.n_atoms.float().std()


def test_the_random_network_sees_a_sample():
    "Batch norms fitted to 2048 of 4096 molecules know the last ones too"
    mols = embedded(150)
    splits = split_molecules(mols, by=partial(random_split, train=.6, valid=.1))
    atoms = mols.graphs.n_atoms
    small, large = (mols[torch.full((2048,), int(i))]
                    for i in (atoms.argmin(), atoms.argmax()))
    both = from_smiles('both', small.smiles + large.smiles)
    rep = graphs.pretrain_all(splits.unlabelled, SHORT, CPU)['context']
    a, b, c = (graphs.random_features(rep, replace(splits, unlabelled=m), CPU)['test']
               for m in (small, both, both))
    assert torch.equal(b, c)
    assert (a - b).abs().max() > .1


def test_own_table_with_missing_labels(tmp_path):
    mols = embedded(160)
    y = pd.DataFrame(mols.y.numpy()[:, :2], columns=['toxic', 'active'])
    y.loc[::5, 'active'] = None
    y['structure'] = mols.smiles
    y.to_csv(tmp_path/'mols.csv', index=False)
    more = tmp_path/'more.smi'
    more.write_text('\n'.join([*embedded(100, seed=9).smiles, 'nonsense']))
    report = run(out=str(tmp_path/'r'), data=str(tmp_path/'mols.csv'), device='cpu',
                 smiles_col='structure', label_col='toxic, active',
                 pretrain_on=str(more))
    assert report.data == 'mols.csv' and set(report.table.method) == METHODS
    assert set(changed(report).task) == {'toxic', 'active'}


def test_transfer_scores_a_representation_on_other_molecules(whole, tmp_path):
    rep = whole.folder/'representation'
    mols = embedded(160, seed=3)
    y = pd.DataFrame(mols.y.numpy()[:, :1], columns=['toxic'])
    y.assign(smiles=mols.smiles).to_csv(tmp_path/'mols.csv', index=False)
    rep, table = Representation.load(rep), str(tmp_path/'mols.csv')
    report = transfer(rep, data=table, label_col='toxic', out=tmp_path/'t',
                      device='cpu')
    name = 'supervised+context+linear'
    assert list(report.table.method.unique()) == [
        'fingerprint+linear', 'fingerprint+forest', 'groups+linear', 'random+linear',
        name]
    told = report.headline['seen_in_pretraining']
    assert told.startswith('not known of ') and report.method == name
    mean = report.table.groupby('method').score.mean()
    assert report.headline[f'{name}@3'] == pytest.approx(mean[name], abs=1e-4)
    with pytest.raises(ReplearnError, match='Name it with --label-col'):
        transfer(rep, data=table, out=tmp_path/'u')
    assert not (tmp_path/'u').exists()


def test_on_its_own_table_the_test_was_not_seen(tmp_path):
    "The split is the same, whatever the column of labels"
    table = labelled(FAR).assign(z=lambda t: 1 - t.y)
    table.to_csv(tmp_path/'mols.csv', index=False)
    path = str(tmp_path/'mols.csv')
    folder = run(out=str(tmp_path/'r'), data=path, label_col='y', device='cpu').folder
    rep = Representation.load(folder/'representation')
    report = transfer(rep, data=path, label_col='z', out=tmp_path/'t', device='cpu')
    n = len(scaffold_split(FAR)[2])
    assert report.headline['seen_in_pretraining'] == f'0 of {n} test molecules'
    table[:120].to_csv(tmp_path/'half.csv', index=False)
    splits = graphs.load_splits(SHORT, data=str(tmp_path/'half.csv'), label_col='y')
    told = graphs.seen_before(rep, splits)['seen_in_pretraining']
    assert told.startswith('not known')


def test_pretraining_never_sees_the_test():
    mols = embedded(80)
    again = [s for s in mols.smiles]  # all of them, the held ones too
    splits = split_molecules(mols, from_smiles('more', again),
                             partial(random_split, train=.6))
    held = {mols.smiles[i] for i in [*splits.valid.tolist(), *splits.test.tolist()]}
    assert not set(canonical(splits.unlabelled.smiles)) & set(canonical(sorted(held)))
    assert len(splits.unlabelled) == len(splits.train)
    rows = torch.cat([splits.train, splits.valid, splits.test])
    assert sorted(rows.tolist()) == list(range(80))


@pytest.mark.parametrize('text,options,message', [
    ('mol,y\nC,1\n', dict(label_col='y'), "no column smiles; its columns are: mol"),
    ('smiles,y\nC,1\nCC,0\n', {}, 'Name it with --label-col'),
    ('smiles,y\nC,1\nCC,1\n', dict(label_col='y'), 'one class only'),
    ('smiles,y\nx,1\ny,0\n', dict(label_col='y'), 'None of 2 SMILES can be read'),
    ('smiles,y\nC,1\nCC,0\n', dict(label_col='y', pretrain_on='none.smi'),
     "Can't read none.smi"),
])
def test_refuses_before_any_work(tmp_path, text, options, message):
    path = tmp_path/'mols.csv'
    path.write_text(text)
    with pytest.raises(ReplearnError) as e:
        run(out=str(tmp_path/'r'), data=str(path), device='cpu', **options)
    assert message in str(e.value)
    assert not (tmp_path/'r').exists()


@pytest.fixture
def no_work(monkeypatch):
    "Pre-training is a fault"
    def fail(*args, **kwargs):
        raise AssertionError('work has begun')

    for name in 'pretrain', 'moleculenet', 'zinc':
        monkeypatch.setattr(graphs, name, fail)


@pytest.mark.parametrize('preset,options,message', [
    ('several', dict(pretrain_on='none.smi'), 'These settings have their own'),
    ('several', dict(label_col='y'), 'These settings have their own molecules'),
    ('quick', dict(smiles_col='x'), 'The quick preset has its own molecules and'),
    ('quick', dict(label_col='y'), 'The quick preset has its own molecules and'),
    ('quick', dict(data='bbbp', label_col='y'), 'bbbp has its own molecules and'),
    ('quick', dict(data='bbbp', smiles_col='y', pretrain_on='more.smi'),
     'bbbp has its own molecules and'),
    ('quick', dict(data='none.tsv', label_col='y'), 'There is no file none.tsv'),
    ('quick', dict(data='tox12'), 'There is no file tox12, and no data set'),
])
def test_options_are_not_ignored(preset, options, message, no_work, tmp_path,
                                 monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'bbbp').mkdir()  # a folder is no table
    with pytest.raises(ReplearnError, match=message):
        run(preset, out=str(tmp_path/'r'), device='cpu', **options)
    assert not (tmp_path/'r').exists()


RINGS = [f'{"C" * i}c1cc{x}cc1' for x in ('c', 'n') for i in range(30)]
CHAINS = ['C' * i + x for i in range(1, 31) for x in 'ON']
FAR = embedded(160).smiles  # almost each with a scaffold of its own


def labelled(smiles, **parts):
    "Two classes that take turns, but for the parts named: what is given"
    y = [i % 2 for i in range(len(smiles))]
    rows = dict(zip(('train', 'valid', 'test'), scaffold_split(smiles), strict=True))
    for part, value in parts.items():
        for i in rows[part].tolist():
            y[i] = value
    return pd.DataFrame(dict(smiles=smiles, y=y))


@pytest.mark.parametrize('table,message', [
    (labelled(CHAINS), "none of the 60 molecules of mols.csv for the part 'train'"),
    (labelled(FAR[:15]), 'needs 20 molecules outside .*; mols.csv has 12'),
    (labelled(FAR, test=1), "No task .* labels of both classes in the part 'test'"),
    (labelled(FAR, train=1), 'only 0 training labels of one class'),
    (labelled(FAR, test=None).assign(y=lambda t: t.y * t.index),
     "No task of mols.csv has labels in the part 'test'"),
    (labelled(RINGS[:30]), "none of the 30 molecules of mols.csv for the part 'train'"),
], ids='chains small test train numbers rings'.split())
def test_what_cannot_be_measured_is_not_begun(table, message, no_work, tmp_path):
    table.to_csv(tmp_path/'mols.csv', index=False)
    with pytest.raises(ReplearnError, match=message):
        run(out=str(tmp_path/'r'), data=str(tmp_path/'mols.csv'), label_col='y',
            device='cpu')


def test_more_molecules_must_be_others(no_work, tmp_path):
    table = labelled(FAR)
    table.to_csv(tmp_path/'mols.csv', index=False)
    _, *held = scaffold_split(FAR)
    more = tmp_path/'more.smi'
    more.write_text('\n'.join(FAR[i] for i in torch.cat(held)))
    with pytest.raises(ReplearnError, match='needs 20 molecules .*; more.smi has 0'):
        run(out=str(tmp_path/'r'), data=str(tmp_path/'mols.csv'), label_col='y',
            pretrain_on=str(more), device='cpu')


def test_molecules_too_small_for_context_are_refused_at_once(no_work):
    with pytest.raises(ReplearnError, match='beyond 1 bonds; fewer than two'):
        graphs.pretrain_all(from_smiles('small', ['C', 'N', 'CC', 'CO'] * 10),
                            replace(SHORT, bs=10), CPU)


def test_forty_molecules_are_enough(tmp_path):
    labelled(FAR[:40]).to_csv(tmp_path/'mols.csv', index=False)
    report = run(out=str(tmp_path/'r'), data=str(tmp_path/'mols.csv'), label_col='y,',
                 device='cpu')
    assert set(report.table.method) == METHODS


def test_more_molecules_from_a_table(tmp_path):
    pd.DataFrame(dict(structure=FAR)).to_csv(tmp_path/'more.tsv', sep='\t')
    report = run(out=str(tmp_path/'r'), smiles_col='structure', device='cpu',
                 pretrain_on=str(tmp_path/'more.tsv'))
    card = Representation.load(tmp_path/'r'/'representation').card
    assert report.data == 'brics' and card['data']['name'] == 'more.tsv'


@pytest.fixture
def sets(monkeypatch):
    "Several data sets of few molecules"
    mols = embedded(120)
    sets = {name: replace(mols[torch.arange(i * 10, i * 10 + 80)], name=name)
            for i, name in enumerate(SETS)}
    sets['tox21'].y[::3, 1] = float('nan')
    monkeypatch.setattr(graphs, 'moleculenet', sets.get)
    monkeypatch.setattr(graphs, 'zinc', lambda limit: mols)
    return sets


def test_several_data_sets(sets, tmp_path, stop_at):
    shown = plt.get_fignums()
    report = run('several', out=str(tmp_path/'r'), device='cpu')
    check_several(report, sets)
    assert plt.get_fignums() == shown

    calls = stop_at(graphs, 'finetune', 15)  # in the third of four data sets
    with pytest.raises(KeyboardInterrupt):
        run('several', out=str(tmp_path/'cut'), device='cpu')
    again = run('several', out=str(tmp_path/'cut'), device='cpu')
    assert len(calls) == 1 + 4 * 2 * 3  # the one that was stopped; sets, seeds, methods
    assert again.scores == report.scores and again.headline == report.headline
    assert again.tables == report.tables


def check_several(report, sets):
    table = report.table  # of the means over the data sets
    assert set(table.method) == METHODS and set(table.budget) == {0}
    seeds = table.groupby('method').seed.nunique()
    assert seeds['scratch'] == 2
    assert set(seeds[seeds.index.str.endswith(('linear', 'forest'))]) == {1}
    mean = table.groupby('method').score.mean()
    told, name = report.headline, 'supervised+context+finetune'
    gain, low, high = (told[f'gain on mean of the sets{k}']
                       for k in ('', ', low', ', high'))
    assert low < gain < high
    assert gain == pytest.approx(mean[name] - mean['scratch'], abs=1e-4)
    each = [told[f'{name} on {s}'] for s in sets]
    assert mean[name] == pytest.approx(sum(each) / 4, abs=1e-4)
    table = changed(report)
    assert set(table.task) == {*sets, 'mean of the sets'} and len(table) == 15
    assert {r['task'] for r in report.tables['each set']} == set(sets)
    for file in 'figure.png', 'changes.png':
        assert (report.folder/file).stat().st_size > 500
    assert 'gain on mean of the sets: ' in ' '.join(sentences(report))
    rep = Representation.load(report.folder/'representation')
    held = [s for mols in sets.values() for s in split_molecules(mols).held]
    assert rep.card['data']['unlabelled'] == 120 - len(set(canonical(held)))


def test_single_tasks_of_a_stopped_run_are_kept(whole, tmp_path, stop_at):
    "The headline and the heat map are those of a run that was never stopped"
    stop_at(graphs, 'finetune', 3)
    with pytest.raises(KeyboardInterrupt):
        run(out=str(tmp_path/'cut'), device='cpu')
    again = run(out=str(tmp_path/'cut'), device='cpu')
    assert again.headline == whole.headline and again.tables == whole.tables


def test_labels_that_are_numbers(tmp_path):
    mols = embedded(150)
    size = mols.graphs.n_atoms.numpy() * 100.
    pd.DataFrame(dict(smiles=mols.smiles, weight=size)).to_csv(tmp_path/'mols.csv')
    report = run(out=str(tmp_path/'r'), data=str(tmp_path/'mols.csv'), device='cpu',
                 label_col='weight')
    assert report.metric == 'RMSE' and not report.higher_is_better
    assert set(report.few.budget) == {3} and set(report.table.method) == METHODS
    mean = report.table.groupby('method').score.mean()
    assert 0 < mean['fingerprint+forest'] < 2 * size.std()  # in the column's unit
    assert sentences(report)[0].startswith('With 3 labels per task ')
    assert 'RMSE by labels per task' in str(report)
    assert report.figure().axes[0].get_xlabel() == 'labels per task'
    table = changed(report).set_index('method')
    assert (table.task == 'weight').all()
    better = mean['scratch'] - mean['context+finetune']  # less error is a gain
    assert table.change['context+finetune'] == pytest.approx(better)
