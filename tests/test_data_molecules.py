"Molecules: features beside a plain RDKit loop, the cache, identity, splits, odd input"
import gzip
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
    canonical,
    check_split,
    embedded,
    from_smiles,
    group_labels,
    moleculenet,
    overlap,
    random_split,
    read_csv,
    read_graphs,
    scaffold_split,
    zinc,
)

Chem = pytest.importorskip('rdkit.Chem')

ODD = ['[Na+].[Cl-]', 'C', '[NH4+]', 'C' * 500, '[O-]C(=O)C[NH3+]', '*C',
       'F/C=C/F', 'F/C=C\\F', 'C[C@H](N)O', 'C[C@@H](N)O', 'N->[Pt](Cl)Cl', '[H][H]',
       'C~C', 'C$C', 'F/C=C\\[C@@](F)(Cl)C#N', '[2H]C', 'S(F)(F)(F)(F)(F)F']


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
    ('', [], 'it is empty'),
])
def test_a_table_that_cannot_be_meant(tmp_path, text, labels, message):
    path = tmp_path/'mols.csv'
    path.write_text(text)
    with pytest.raises(ReplearnError) as e:
        read_csv(path, label_cols=labels)
    assert message in str(e.value)


FILES = {  # name -> bytes, what stands there
    'names.smi': (b'CCO ethanol\n\nC\tmethane gas\nc1ccccc1  benzene |c:1|\n',
                  ['CCO', 'C', 'c1ccccc1']),
    'mark.smi': (b'\xef\xbb\xbfCCO a\rCCN b\r\rCCC\r', ['CCO', 'CCN', 'CCC']),
    'windows.SMILES': (b'CCO\r\nCCN\r\n', ['CCO', 'CCN']),
    'sixteen.txt': ('CCO \xe9thanol\nCCN\n'.encode('utf-16'), ['CCO', 'CCN']),
    'zipped.smi.gz': (gzip.compress(b'CCO\n\nCCN\n'), ['CCO', 'CCN']),
    'sixteen.csv': ('n,smiles\n1,CCO\n2,CCN\n'.encode('utf-16'), ['CCO', 'CCN']),
    'zipped.tsv.gz': (gzip.compress(b'n\tSMILES\n1\tCCO\n2\tCCN\n'), ['CCO', 'CCN']),
    'a.jsonl': (b'{"smiles": "CCO"}\n{"smiles": "CCN"}\n', ['CCO', 'CCN'])}


@pytest.mark.parametrize('name', FILES)
def test_files_are_read_as_they_stand(name, tmp_path):
    data, smiles = FILES[name]
    (tmp_path/name).write_bytes(data)
    assert as_smiles(tmp_path/name) == smiles
    assert MoleculePreprocessing().count(tmp_path/name) == len(smiles)


@pytest.mark.parametrize('name,data,message', [
    ('x.sdf', b'\n\n\n  1  0  0\nM  END\n> <SMILES>\nC\n\n$$$$\n', 'x.sdf is not read'),
    ('x', b'CCO\n', 'x is not read: molecules come as SMILES in a file that ends in'),
    ('x.zip', b'PK', 'x.zip is not read'),
    ('x.smi', b'\n \n', 'has no SMILES: it is empty'),
    ('x.smi.gz', b'CCO\n', "Can't read .*x.smi.gz"),
    ('x.smi', 'CCO\nC\n'.encode('utf-16-le'), 'perhaps in UTF-16 without'),
    ('x.csv', b'smiles;y\nC;1\n', 'no column smiles')])
def test_files_that_are_not_read(name, data, message, tmp_path):
    (tmp_path/name).write_bytes(data)
    with pytest.raises(ReplearnError, match=message):
        as_smiles(tmp_path/name)


def test_smiles_from_wherever_they_are(tmp_path, monkeypatch):
    table = pd.DataFrame(dict(structure=['CCO', 'C'], smiles=['O', 'N']))
    table.to_csv(tmp_path/'a.csv')
    assert as_smiles(tmp_path/'a.csv', 'structure') == ['CCO', 'C']
    assert as_smiles(('C', 'N')) == as_smiles(pd.Series(['C', 'N'])) == ['C', 'N']
    monkeypatch.chdir(tmp_path)
    (tmp_path/'CO').write_text('N')
    for one in 'F/C=C/F', '[Na+].[Cl-]', 'C' * 500, 'CO', '.':  # 'CO' is a file, too
        assert as_smiles(one) == [one]
    with pytest.raises(ReplearnError, match='a.csv is no SMILES: a file is named by a'):
        as_smiles('a.csv')
    for name in 'none.smi', 'none.tsv':  # a path is never taken for a molecule
        with pytest.raises(ReplearnError, match=f"Can't read .*{name}: No such file"):
            as_smiles(tmp_path/name)


def test_a_molecule_too_large_is_left_out_alone(capsys):
    mols = from_smiles('mine', ['C' * 33_000, 'CCO', 'C' * 32_767])
    assert [len(s) for s in mols.smiles] == [3, 32_767]
    assert mols.graphs.edge_index.min() == 0
    assert (mols.graphs[1].edge_index.diff(dim=0).abs() == 1).all()  # a chain
    assert 'it has 33,000 atoms, more than 32,767' in capsys.readouterr().err


def read_labels(tmp_path, text):
    (tmp_path/'mols.csv').write_text(text)
    return read_csv(tmp_path/'mols.csv', label_cols=['y'])


def test_labels_by_the_one_rule_and_what_is_said_of_them(tmp_path, capsys):
    cells = ['N/A', '1.0', '-1', '1', '', 'None', '#n/a', '-1.0', 'nan', '1.00']
    mols = read_labels(tmp_path, 'smiles,y\n' + ''.join(
        f'{"C" * (i + 1)},{c}\n' for i, c in enumerate(cells)))
    nan = float('nan')
    want = [nan, 1, 0, 1, nan, nan, nan, 0, nan, 1]
    assert mols.kind == 'classification'
    assert np.array_equal(mols.y[:, 0].numpy(), want, equal_nan=True)
    assert capsys.readouterr().err == (
        "mols.csv: the column 'y' has two classes: 0 is '-1' (rows: 2), 1 is '1' "
        '(rows: 3); labels missing: 5\n')
    mols = read_labels(tmp_path, 'smiles,y\nC,.5\nCC,\nCCC,1e3\nCN,2\n')
    assert mols.kind == 'regression' and mols.y[2] == 1000
    assert ('has 3 values: they are learned as numbers, not as classes; labels '
            'missing: 1' in capsys.readouterr().err)


def test_many_columns_are_told_in_few_lines(tmp_path, capsys):
    table = pd.DataFrame({f't{i}': [0, 1] for i in range(30)}).assign(smiles=['C', 'N'])
    table.to_csv(tmp_path/'m.csv')
    read_csv(tmp_path/'m.csv', label_cols=[f't{i}' for i in range(30)])
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 6 and said[-1] == 'm.csv: and 25 more columns'


def test_rows_of_one_molecule_that_contradict_each_other_are_counted(tmp_path, capsys):
    mols = read_labels(tmp_path, 'smiles,y\n[CH3:1][OH:2],1\n[CH3:2][OH:1],0\n'
                       'c1ccccc1,1\nC1=CC=CC=C1,1\nCCO ethanol,1\nOCC,\n'
                       '[Na+].[Cl-],0\n[Cl-].[Na+],1\n')
    assert len(mols) == 8  # all are kept
    assert ('mols.csv: molecules with rows of both classes: 2, e.g. CO\n'
            in capsys.readouterr().err)


SAME = [  # each line is one molecule
    'CO OC [CH3:1][OH:2] [CH3:2][OH:1] [H]OC [H:3][O:1][CH3:2] C(O) [CH3][OH]',
    'c1ccccc1 C1=CC=CC=C1 c1:c:c:c:c:c:1 [cH:1]1[cH:2][cH:3][cH:4][cH:5][cH:6]1',
    '[Na+].CC(=O)[O-] CC([O-])=O.[Na+] [CH3:7]C([O-])=O.[Na+:1]',
    'CN(=O)=O C[N+](=O)[O-] C[N+]([O-])=O',
    'C[C@H](N)O N[C@@H](C)O [CH3:1][C@H:2]([NH2:4])[OH:3] O[C@H](C)N',
    'F/C=C/F F\\C=C\\F [F:1]/[CH:2]=[CH:3]/[F:4]',
    'CC(C)O [CH3:1][C@H:2]([CH3:3])O',  # the maps make no stereocentre
    '[2H]C [H][C]([2H])([H])[H]', '*C C* [*:1]C C[*:3]']
OTHER = ['C', '[13CH4]', '[2H]C', '[CH3-]', '[CH3+]', 'CO', 'CC(=O)O', 'CC(=O)[O-]',
         'CC(=O)[O-].[Na+]', 'CC(=O)[O-].[K+]', 'CC(=O)O[Na]', 'C[C@H](N)O',
         'C[C@@H](N)O', 'CC(N)O', 'F/C=C/F', 'F/C=C\\F', 'FC=CF', 'Oc1ccccn1',
         'O=c1cccc[nH]1', '*C', '[1*]C']


@pytest.mark.parametrize('same', SAME)
def test_one_molecule_however_it_is_written(same):
    writings = same.split()
    writings += [f'{writings[0]} a name', f'{writings[0]} |$a;b$| x']
    assert len(set(canonical(writings))) == 1
    x = read_graphs(writings)[0]
    features = {tuple(sorted(map(tuple, x[i].x.tolist()))) for i in range(len(x))}
    assert len({tuple(a for a, _ in f) for f in features}) == 1  # the same atoms
    bits = molecules.fingerprints(writings)
    assert (bits == bits[0]).all()


def test_other_molecules_stay_apart():
    assert len(set(canonical(OTHER))) == len(OTHER)


def mapped(s, seed):
    "The same molecule with its atoms numbered, written in another order"
    mol = Chem.MolFromSmiles(s)
    numbers = [*range(1, mol.GetNumAtoms() + 1)]
    random.Random(seed).shuffle(numbers)
    for a, i in zip(mol.GetAtoms(), numbers, strict=True):
        a.SetAtomMapNum(i)
    return Chem.MolToSmiles(mol)


@pytest.mark.parametrize('split', [scaffold_split, random_split])
def test_no_split_is_deceived_by_map_numbers(split):
    "Each molecule twice, mapped in two ways; identity is found out independently"
    smiles = assemble(100, seed=6)
    both = [mapped(s, k) for k in (1, 2) for s in smiles]
    parts = split(both)
    sides = [{i % 100 for i in p.tolist()} for p in parts]
    assert sum(map(len, sides)) == 100 and all(sides)
    check_split(both, *parts)
    assert overlap(both[:100], smiles) == sorted(smiles)
    with pytest.raises(ReplearnError, match='100 molecules stand on both sides'):
        check_split(both, torch.arange(100), torch.arange(100, 200))


def test_a_molecule_has_one_scaffold_however_it_is_written():
    "RDKit keeps cis and trans where a chain was cut off, or not, by the writing"
    stilbestrol = [r'CC\C(c1ccc(O)cc1)=C(\CC)c2ccc(O)cc2',
                   'c1c(ccc(c1)/C(CC)=C(/c1ccc(cc1)O)CC)O']
    assert len(set(canonical(stilbestrol))) == 1
    assert len(set(molecules._scaffolds(stilbestrol))) == 2
    smiles = [stilbestrol[0], 'Cc1ccccc1', 'CCc1ccccc1', stilbestrol[1]]
    check_split(smiles, *scaffold_split(smiles, .5, .25))


def test_pretext_labels_are_functional_groups_alone():
    y, names = group_labels(assemble(200, seed=1))
    assert names and all(n.startswith('fr_') for n in names)
    assert y.shape == (200, len(names))


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
