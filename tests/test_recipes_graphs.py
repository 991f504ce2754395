"The recipe for molecules: a short run, one's own table, what is refused"
import json

import pandas as pd
import pytest
import torch

pytest.importorskip('rdkit')
from replearn_nb.core import ReplearnError  # noqa: E402
from replearn_nb.data.molecules import (  # noqa: E402
    canonical,
    embedded,
    from_smiles,
)
from replearn_nb.recipes import graphs  # noqa: E402
from replearn_nb.recipes.graphs import run, settings, split  # noqa: E402
from replearn_nb.representation import Representation  # noqa: E402

@pytest.fixture
def short(monkeypatch):
    "A preset of seconds"
    for k, v in dict(molecules=150, layers=2, dim=16, k=2, epochs=1, steps=4,
                     budgets=(3,), draws=2, forest=5, bs=60,
                     pretexts=('context', 'supervised+context')).items():
        monkeypatch.setitem(graphs.PRESETS['quick'], k, v)


METHODS = {'fingerprint+linear', 'fingerprint+forest', 'scratch', 'random+linear',
           'context+finetune', 'supervised+context+finetune'}


def test_short_run(short, tmp_path):
    report = run(out=str(tmp_path/'r'), device='cpu')
    assert set(report.table.method) == METHODS
    assert set(report.table.metric) == {'ROC-AUC'}
    assert {'scratch@3', 'supervised+context+finetune@3'} <= set(report.headline)
    table = pd.read_csv(tmp_path/'r'/'changes.csv')
    assert set(table.method) == {'context+finetune', 'supervised+context+finetune'}
    assert len(table) == 8 and (table.low <= table.high).all()
    for name in 'figure.png', 'changes.png', 'report.json':
        assert (tmp_path/'r'/name).stat().st_size > 500
    rep = Representation.load(tmp_path/'r'/'representation')
    assert rep.card['pretext']['name'] == 'supervised+context'
    assert rep.embed(['CCO'], device='cpu').shape == (1, 16)
    Representation.load(tmp_path/'r'/'others'/'context')
    assert not list((tmp_path/'r').glob('checkpoint*'))
    assert json.loads((tmp_path/'r'/'report.json').read_text())['recipe'] == 'graphs'


def test_own_table_with_missing_labels(short, tmp_path):
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
    assert set(pd.read_csv(tmp_path/'r'/'changes.csv').task) == {'toxic', 'active'}


def test_pretraining_never_sees_the_test():
    mols = embedded(80)
    again = [s for s in mols.smiles]  # all of them, the held ones too
    splits = split(mols, from_smiles('more', again))
    held = {mols.smiles[i] for i in [*splits.valid.tolist(), *splits.test.tolist()]}
    assert not set(canonical(splits.unlabelled.smiles)) & set(canonical(sorted(held)))
    assert len(splits.unlabelled) == len(splits.train)
    rows = torch.cat([splits.train, splits.valid, splits.test])
    assert sorted(rows.tolist()) == list(range(80))


@pytest.mark.parametrize('text,options,message', [
    ('mol,y\nC,1\n', dict(label_col='y'), "no column 'smiles'; its columns are: mol"),
    ('smiles,y\nC,1\nCC,0\n', {}, 'Name it with --label-col'),
    ('smiles,y\nC,1\nCC,1\n', dict(label_col='y'), 'one class only'),
    ('smiles,y\nC,1\nCC,2\nCCC,3\n', dict(label_col='y'), 'numbers for labels'),
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


def test_settings():
    with pytest.raises(ReplearnError, match='choose quick or full'):
        settings('huge')
    with pytest.raises(ReplearnError, match='epochs must be above 0'):
        settings('quick', epochs=-1)
