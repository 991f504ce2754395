"Molecules: features beside a plain RDKit loop, the cache, splits, odd input, PyG"
import os
import random
import time
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from replearn_nb.core import ReplearnError, tensor_dls
from replearn_nb.data import molecules
from replearn_nb.data.molecules import (
    BONDS,
    CHIRALITIES,
    DIRECTIONS,
    MoleculePreprocessing,
    Molecules,
    as_smiles,
    assemble,
    check_split,
    embedded,
    from_pyg,
    from_smiles,
    moleculenet,
    overlap,
    random_split,
    read_csv,
    read_graphs,
    read_smi,
    scaffold_split,
    to_pyg,
    zinc,
)

Chem = pytest.importorskip('rdkit.Chem')

ODD = ['[Na+].[Cl-]', 'C', '[NH4+]', 'C' * 500, '[O-]C(=O)C[NH3+]', '*C',
       'F/C=C/F', 'F/C=C\\F', 'C[C@H](N)O', 'C[C@@H](N)O', 'N->[Pt](Cl)Cl', '[H][H]']


@pytest.fixture(scope='module')
def smiles():
    return assemble(300, seed=1) + ODD


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    return tmp_path


def plain(s):
    "One molecule as anybody would write it down"
    mol = Chem.MolFromSmiles(s)
    x = [[a.GetAtomicNum() - 1 if a.GetAtomicNum() else 118,
          CHIRALITIES.get(str(a.GetChiralTag()), 0)] for a in mol.GetAtoms()]
    edges = set()
    for b in mol.GetBonds():
        i, j = b.GetBeginAtomIdx(), b.GetEndAtomIdx()
        kind = (BONDS.get(str(b.GetBondType()), 0),
                DIRECTIONS.get(str(b.GetBondDir()), 0))
        edges |= {(i, j, *kind), (j, i, *kind)}
    return x, edges


def test_features_are_those_of_a_plain_loop(smiles):
    graphs, bad = read_graphs(smiles)
    assert not bad and len(graphs) == len(smiles)
    for i, s in enumerate(smiles):
        g, (x, edges) = graphs[i], plain(s)
        assert g.x.tolist() == x
        assert len(g.edge_attr) == len(edges)
        assert set(map(tuple, torch.cat([g.edge_index.T, g.edge_attr], 1).tolist())
                   ) == edges


def test_slices_are_the_molecules_in_any_order(smiles):
    graphs, _ = read_graphs(smiles)
    order = torch.randperm(len(graphs), generator=torch.Generator().manual_seed(0))
    part = graphs[order[:40]]
    for k, i in enumerate(order[:40]):
        a, b = part[k], graphs[i]
        for name in 'x', 'edge_index', 'edge_attr':
            assert torch.equal(getattr(a, name), getattr(b, name))
    assert torch.equal(part.batch, torch.arange(40).repeat_interleave(part.n_atoms))
    # edges are sorted by where they end
    assert (part.edge_index[1].diff() >= 0).all()
    assert len(graphs[torch.tensor([], dtype=torch.int64)]) == 0


def test_batches_of_a_data_loader(smiles):
    graphs, _ = read_graphs(smiles)
    y = torch.arange(len(graphs))
    dls = tensor_dls((graphs, y), (graphs, y), 32, 'cpu')
    for g, rows in dls.train:
        assert len(g) == len(rows) == 32
        assert torch.equal(g.x, graphs[rows].x)
    assert sum(len(g) for g, _ in dls.valid) == len(graphs)


def test_processes_and_the_cache_change_nothing(cache, monkeypatch):
    smiles = assemble(700, seed=2) * 3 + ['nonsense', 'C>>C']
    once, bad = read_graphs(smiles, cache=False)
    first, bad1 = read_graphs(smiles)
    monkeypatch.setattr(molecules, '_features', None)  # not called again
    second, bad2 = read_graphs(smiles)
    for g in first, second:
        for name in 'x', 'edge_index', 'edge_attr', 'n_atoms', 'n_edges':
            assert torch.equal(getattr(g, name), getattr(once, name))
    assert bad == bad1 == bad2 == [(2100, 'RDKit cannot read it'),
                                   (2101, 'it is a reaction, not a molecule')]


def test_chunks_of_another_size_change_nothing(monkeypatch):
    smiles = [*assemble(30, seed=2), 'nonsense', '', *assemble(30, seed=3)]
    whole, bad = read_graphs(smiles)
    monkeypatch.setattr(molecules, 'CHUNK', 7)  # nine chunks; the bad are in the fifth
    again, bad7 = read_graphs(smiles, cache=False)
    assert bad == bad7 and [i for i, _ in bad] == [30, 31]
    assert torch.equal(whole.x, again.x)


def test_a_damaged_cache_is_read_anew(cache):
    smiles = assemble(700, seed=2) * 3
    graphs, _ = read_graphs(smiles)
    file, = cache.rglob('*.safetensors')
    file.write_bytes(file.read_bytes()[:1000])
    assert torch.equal(read_graphs(smiles)[0].x, graphs.x)


def test_a_cache_that_cannot_be_written_is_no_fault(tmp_path, monkeypatch, capsys):
    (tmp_path/'file').touch()
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'file'))
    smiles = ['CCO', 'C'] * 1000
    assert len(read_graphs(smiles)[0]) == 2000
    assert 'read again next time' in capsys.readouterr().err


def test_a_chunk_for_every_core():
    pids = molecules.parallel(_pid, range(2039))  # as many as BBBP has
    assert len(pids) >= 4
    if molecules.sys.platform == 'linux' and len(os.sched_getaffinity(0)) > 1:
        assert os.getpid() not in pids and len(set(pids)) > 1


def _pid(items):
    time.sleep(.05)
    return os.getpid()


def test_rdkits_log_is_not_shown(capfd):
    smiles = ['[H].CCO', 'c1ccccc1', 'CN(C)(C)(C)C'] * 2
    Chem.MolFromSmiles(smiles[0])
    assert 'not removing hydrogen' in capfd.readouterr().err  # it would be
    mols = from_smiles('mine', smiles, show=0)
    scaffold_split(mols.smiles)
    random_split(mols.smiles)
    molecules.fingerprints(mols.smiles)
    said = capfd.readouterr().err
    assert said.splitlines() == ['mine: 2 of 6 SMILES are left out:  and 2 more']


def test_unreadable_smiles_are_counted_and_named(capsys):
    mols = from_smiles('mine', ['CCO', 'C(', '', None, 'CC>>CO', 'c1ccccc1'])
    assert len(mols) == 2
    assert [why for _, why in mols.skipped] == [
        'RDKit cannot read it', 'it is empty', 'it is empty',
        'it is a reaction, not a molecule']
    said = capsys.readouterr().err
    assert "mine: 4 of 6 SMILES are left out: 'C(' (RDKit cannot read it)" in said
    with pytest.raises(ReplearnError, match='None of 2 SMILES can be read'):
        from_smiles('mine', ['C(', 'x'])


def test_a_table_of_ones_own(tmp_path):
    path = tmp_path/'mols.csv'
    path.write_text('id,structure,toxic,active,logS\n1,CCO,no,1,.5\n'
                    '2,[Na+].[Cl-],yes,,1\n3,CC,,-1,\n4,C(,yes,1,2\n')
    mols = read_csv(path, 'structure', ['toxic', 'active'])
    assert mols.tasks == ['toxic', 'active'] and len(mols) == 3
    assert np.array_equal(mols.y.numpy(), [[0, 1], [1, np.nan], [np.nan, 0]], True)
    assert mols.kind == 'classification'
    assert read_csv(path, 'structure', ['logS']).kind == 'regression'
    assert read_csv(path, 'structure').y.shape == (3, 0)
    table = pd.read_csv(path, dtype=str).rename(columns=str.upper)
    for name, write in dict(tsv=partial(table.to_csv, sep='\t'), csv=table.to_csv,
                            jsonl=partial(table.to_json, orient='records',
                                          lines=True)).items():
        write(tmp_path/f'other.{name}')
        other = read_csv(tmp_path/f'other.{name}', 'structure', ['Toxic', 'ACTIVE'])
        assert torch.equal(other.y.nan_to_num(9), mols.y.nan_to_num(9)), name


def test_few_numbers_are_said_to_be_no_classes(tmp_path, capsys):
    path = tmp_path/'mols.csv'
    path.write_text('smiles,y\nC,0\nCC,1\nCCC,2\n')
    assert read_csv(path, label_cols=['y']).kind == 'regression'
    assert "mols.csv: the column 'y' has 3 values: they are learned as numbers" in (
        capsys.readouterr().err)
    path.write_text('smiles,y\n' + ''.join(f'{"C" * i},{i}\n' for i in range(1, 20)))
    read_csv(path, label_cols=['y'])
    assert not capsys.readouterr().err


@pytest.mark.parametrize('text,labels,message', [
    ('smile,y\nC,1\n', ['y'], "no column smiles; its columns are: smile, y"),
    ('smiles,y\nC,1\n', ['z'], "no column z; its columns are: smiles, y"),
    ('smiles,y\nC,1\nCC,1\n', ['y'], "the column 'y' has one class only, 1"),
    ('smiles,y\nC,\nCC,\n', ['y'], "the column 'y' has no label"),
    ('smiles,y\nC,a\nCC,b\nCCC,c\n', ['y'], "'y' has 3 values, among them 'a'"),
    ('smiles,y,z\nC,1,1\nCC,0,2\nCCC,1,3\n', ['y', 'z'], 'y: classification, z: reg'),
    ('smiles,y\nxx,1\nyy,0\n', ['y'], "None of 2 SMILES can be read; the first: 'xx'"),
    ('smiles,y\n', ['y'], 'has a header and no rows'),
    ('', [], 'No columns to parse'),
])
def test_a_table_that_cannot_be_meant(tmp_path, text, labels, message):
    path = tmp_path/'mols.csv'
    path.write_text(text)
    with pytest.raises(ReplearnError) as e:
        read_csv(path, label_cols=labels)
    assert message in str(e.value)


def test_files_of_smiles(tmp_path):
    path = tmp_path/'a.smi'
    path.write_text('CCO ethanol\n\nC\tmethane\n')
    assert read_smi(path) == ['CCO', 'C']
    assert MoleculePreprocessing().count(path) == 2
    path.write_text('\n')
    with pytest.raises(ReplearnError, match='has no SMILES'):
        read_smi(path)
    with pytest.raises(ReplearnError, match="Can't read"):
        read_smi(tmp_path/'none.smi')


def test_smiles_from_wherever_they_are(tmp_path):
    table = pd.DataFrame(dict(structure=['CCO', 'C'], smiles=['O', 'N']))
    table.to_csv(tmp_path/'a.csv')
    table.to_csv(tmp_path/'a.tsv.gz', sep='\t')
    table.to_json(tmp_path/'a.jsonl', orient='records', lines=True)
    (tmp_path/'a').write_text('O\nN\n')
    for name in 'a.csv', 'a.tsv.gz', 'a.jsonl', 'a':
        assert as_smiles(str(tmp_path/name)) == as_smiles(tmp_path/name) == ['O', 'N']
    assert as_smiles(tmp_path/'a.csv', 'structure') == ['CCO', 'C']
    for one in 'F/C=C/F', '[Na+].[Cl-]', 'C' * 500:
        assert as_smiles(one) == [one]
    for name in 'none', 'none.tsv':  # a path is never taken for a molecule
        with pytest.raises(ReplearnError, match=f"Can't read .*{name}: No such file"):
            as_smiles(tmp_path/name)


def test_scaffold_split_keeps_scaffolds_together(smiles):
    from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles
    parts = scaffold_split(smiles)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(smiles)))
    sides = [{MurckoScaffoldSmiles(smiles=smiles[i], includeChirality=True)
              for i in p.tolist()} for p in parts]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    assert all(torch.equal(a, b) for a, b in zip(
        parts, scaffold_split(smiles), strict=True))
    shares = [len(p) / len(smiles) for p in parts]
    assert shares == pytest.approx([.8, .1, .1], abs=.03)
    check_split(smiles, *parts)


def test_random_split_keeps_writings_of_one_molecule_together(smiles):
    rng = random.Random(0)
    again = [Chem.MolToSmiles(Chem.MolFromSmiles(s), doRandom=True, canonical=False)
             for s in smiles]
    both = smiles + again
    rng.shuffle(both)
    a, b = random_split(both, seed=0), random_split(both, seed=1)
    assert not torch.equal(a[0], b[0])
    check_split(both, *a)
    assert overlap([both[i] for i in a[0]], [both[i] for i in a[2]]) == []
    with pytest.raises(ReplearnError, match='on both sides of the split'):
        check_split(both, torch.arange(len(both) // 2),
                    torch.arange(len(both) // 2, len(both)))


def test_embedded_molecules_are_the_same_everywhere_and_have_labels():
    a, b = embedded(120, seed=4), embedded(120, seed=4)
    assert isinstance(a, Molecules) and a.hash == b.hash
    assert a.hash != embedded(120, seed=5).hash
    assert a.y.mean(0).tolist() == pytest.approx([.5] * 4, abs=.01)
    weights = [Chem.Descriptors.MolWt(Chem.MolFromSmiles(s)) for s in a.smiles]
    assert 150 < np.median(weights) < 500  # as drugs weigh


def test_there_and_back_through_pyg(smiles):
    data = pytest.importorskip('torch_geometric.data')
    graphs, _ = read_graphs(smiles)
    listed = to_pyg(graphs)
    shuffled = [data.Data(x=d.x, edge_index=d.edge_index.flip(1),
                          edge_attr=d.edge_attr.flip(0)) for d in listed]
    for given in listed, data.Batch.from_data_list(shuffled):
        again = from_pyg(given)
        for name in 'x', 'edge_index', 'edge_attr', 'n_atoms', 'n_edges', 'batch':
            assert torch.equal(getattr(again, name), getattr(graphs, name))


@pytest.mark.parametrize('name,n,tasks,kind', [
    ('bbbp', 2039, 1, 'classification'), ('sider', 1427, 27, 'classification'),
    ('esol', 1128, 1, 'regression'), ('freesolv', 642, 1, 'regression')])
def test_moleculenet(name, n, tasks, kind):
    try:
        mols = moleculenet(name)
    except ReplearnError as e:
        pytest.skip(str(e))
    assert (len(mols), len(mols.tasks), mols.kind) == (n, tasks, kind)


def test_zinc_has_each_molecule_once(tmp_path, monkeypatch):
    "As it is written first; what RDKit cannot read is left out"
    (tmp_path/'a.txt').write_text('OCC\nnonsense\nc1ccccc1\n')
    (tmp_path/'b.txt').write_text('CCO\nC1=CC=CC=C1\nCCN\n')
    monkeypatch.setattr(molecules, 'fetch', lambda name: [
        tmp_path/('a.txt' if name == 'zinc_jtnn' else 'b.txt')])
    assert zinc().smiles == ['OCC', 'c1ccccc1', 'CCN']
    assert zinc(2).smiles == ['OCC', 'c1ccccc1']


def test_bace_and_clintox(tmp_path, monkeypatch):
    "Tables as their server has them: SMILES in `mol`, other columns beside the labels"
    (tmp_path/'bace.csv').write_text(
        'mol,CID,Class,Model,pIC50\nCCO,a,1,Train,9.1\nCCN,b,0,Test,4.2\n')
    rows = [('CCO', 1, 0), ('CCN', 0, 1)]
    pd.DataFrame(rows, columns=['smiles', 'FDA_APPROVED', 'CT_TOX']).to_csv(
        tmp_path/'clintox.csv.gz', index=False)
    monkeypatch.setattr(molecules, 'fetch', lambda _, file: tmp_path/file)
    bace, clintox = moleculenet('bace'), moleculenet('clintox')
    assert bace.tasks == ['Class'] and bace.y.tolist() == [[1], [0]]
    assert clintox.tasks == ['FDA_APPROVED', 'CT_TOX']
    assert clintox.y.tolist() == [[1, 0], [0, 1]]
