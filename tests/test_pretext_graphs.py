"Pretext tasks on graphs: masks and contexts by brute force, learning, a round trip"
from functools import partial

import numpy as np
import pytest
import torch

pytest.importorskip('rdkit')
from rdkit import Chem  # noqa: E402

from replearn_nb.core import ReplearnError, local_seed, tensor_dls  # noqa: E402
from replearn_nb.data.molecules import embedded, read_graphs  # noqa: E402
from replearn_nb.encoders.gin import gin  # noqa: E402
from replearn_nb.pretext.base import pretrain  # noqa: E402
from replearn_nb.pretext.graphs import (  # noqa: E402
    attrmask_learner,
    context_learner,
    context_question,
    distances,
    edge_learner,
    infomax_learner,
    mask_atoms,
    masked_loss,
    random_pairs,
    supervised_learner,
    touching,
)
from replearn_nb.representation import Representation  # noqa: E402

@pytest.fixture(scope='module')
def mols():
    return embedded(120)


def encoder():
    with local_seed(0):
        return gin(layers=3, dim=16)


def atoms_of(graphs, i):
    start = int(graphs.starts[0][i])
    return range(start, start + int(graphs.n_atoms[i]))


def test_masks_have_the_right_number_and_hit_every_atom_alike(mols):
    g = mols.graphs[:20]
    hits = torch.zeros(len(g.x))
    with local_seed(0):
        for _ in range(1000):
            atoms = mask_atoms(g, .15)
            assert torch.equal(g.batch[atoms].bincount(),
                               (.15 * g.n_atoms + 1).long())
            hits[atoms] += 1
    p = ((.15 * g.n_atoms + 1).long() / g.n_atoms)[g.batch]
    z = (hits - 1000 * p) / (1000 * p * (1 - p)).clamp(min=1e-6).sqrt()
    assert z[p < 1].abs().max() < 4.5
    one, _ = read_graphs(['C', '[Na+].[Cl-]'])
    assert mask_atoms(one)[0] == 0


def test_hidden_atoms_and_bonds_are_out_of_sight(mols):
    dls = tensor_dls((mols.graphs,), (mols.graphs,), 40, 'cpu')
    learn = attrmask_learner(dls, encoder(), bonds=True, progress=False)
    seen = []

    def hook(module, args):
        seen.append(args[0])

    learn.model.register_forward_pre_hook(hook)
    with learn.no_bar(), learn.no_logging():
        learn.validate()
    g = seen[0]
    hidden = (g.x[:, 0] == 119).nonzero()[:, 0]
    assert torch.equal(g.batch[hidden].bincount(), (.15 * g.n_atoms + 1).long())
    edges = touching(g, hidden)
    assert (g.edge_attr[edges, 0] == 5).all()
    assert (g.edge_attr[:, 0] == 5).sum() == len(edges)
    assert (mols.graphs.x[:, 0] < 119).all()  # the data set itself is as it was


@pytest.mark.parametrize('k,r1,r2', [(5, 4, 7), (3, 1, 5), (2, 1, 2)])
def test_context_is_that_of_shortest_paths(mols, k, r1, r2):
    g = mols.graphs
    with local_seed(1):
        near, centres, context, anchors, owner = context_question(g, k, r1, r2)
    with local_seed(1):  # the same centres
        start = g.n_atoms.cumsum(0) - g.n_atoms
        roots = (torch.rand(len(g)) * g.n_atoms).long()
    n_near, n_context, elements, owners, asked = 0, 0, [], [], 0
    for i, s in enumerate(mols.smiles):
        d = Chem.GetDistanceMatrix(Chem.MolFromSmiles(s))[int(roots[i])]
        x = g.x[start[i]:start[i] + g.n_atoms[i], 0].numpy()
        anchor = (d > r1) & (d <= min(k, r2))
        if anchor.any():
            n_near += (d <= k).sum()
            n_context += ((d > r1) & (d <= r2)).sum()
            elements += x[anchor].tolist()
            owners += [asked] * int(anchor.sum())
            asked += 1
    assert (len(near.x), len(context.x)) == (n_near, n_context)
    assert len(centres) == asked and owner.tolist() == owners
    assert context.x[anchors, 0].tolist() == elements


def test_distances_are_rdkits(mols):
    g = mols.graphs
    first = g.n_atoms.cumsum(0) - g.n_atoms
    far = distances(g, first, 6)
    for i, s in enumerate(mols.smiles[:40]):
        d = Chem.GetDistanceMatrix(Chem.MolFromSmiles(s))[0]
        assert far[g.batch == i].tolist() == np.minimum(d, 7).tolist()


def test_pairs_without_a_bond(mols):
    with local_seed(0):
        a, b = random_pairs(mols.graphs)
    g = mols.graphs
    bonded = set(map(tuple, g.edge_index.T.tolist()))
    assert not bonded & set(zip(a.tolist(), b.tolist(), strict=True))
    assert (a != b).all() and torch.equal(g.batch[a], g.batch[b])
    assert len(a) > .5 * len(g.edge_attr) / 2


def test_loss_and_gradient_pass_over_missing_labels():
    y = torch.tensor([[1., float('nan')], [float('nan'), float('nan')]])
    pred = torch.zeros(2, 2, requires_grad=True)
    masked_loss(pred, y).backward()
    assert pred.grad.flatten().tolist() == pytest.approx([-.5, 0, 0, 0])
    assert masked_loss(pred, torch.full((2, 2), float('nan'))) == 0


@pytest.mark.parametrize('make', [
    attrmask_learner, lambda *a, **k: attrmask_learner(*a, bonds=True, **k),
    lambda *a, **k: context_learner(*a, k=3, r1=1, r2=4, **k), edge_learner,
    infomax_learner, lambda *a, **k: supervised_learner(*a, n_tasks=4, **k)],
    ids='attrmask bonds context edge infomax supervised'.split())
def test_learns_and_repeats_to_the_bit(make, mols):
    dls = tensor_dls((mols.graphs, mols.y), (mols.graphs, mols.y), 40, 'cpu')
    runs = []
    for _ in range(2):
        learn = make(dls, encoder(), seed=3, progress=False)
        pretrain(learn, 12, lr=3e-3)
        runs.append((learn.recorder.losses, learn.model.encoder.state_dict()))
    (losses, a), (again, b) = runs
    assert losses[-1] < losses[0]
    assert [float(o) for o in losses] == [float(o) for o in again]
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_what_is_left_is_a_representation(mols, tmp_path):
    dls = tensor_dls((mols.graphs,), (mols.graphs,), 40, 'cpu')
    learn = pretrain(attrmask_learner(dls, encoder(), progress=False), 1, lr=1e-3)
    rep = Representation.from_learner(learn, pretext=dict(name='attrmask'))
    skipped, names = [], []
    items = [*mols.smiles, 'nonsense']
    vectors = rep.embed(items, device='cpu', names=names, skipped=skipped)
    assert names == mols.smiles and skipped == [('nonsense', 'RDKit cannot read it')]
    again = Representation.load(rep.save(tmp_path/'r'))
    assert again.encoder.architecture == 'gin.gin'
    assert np.array_equal(again.embed(mols.smiles, bs=7, device='cpu').shape,
                          vectors.shape)
    np.testing.assert_array_equal(again.embed(items, device='cpu'), vectors)
    path = tmp_path/'own.smi'
    path.write_text('\n'.join(mols.smiles))
    np.testing.assert_array_equal(again.embed(path, device='cpu'), vectors)


def test_wrong_use_is_refused(mols):
    graphs = tensor_dls((mols.graphs,), (mols.graphs,), 40, 'cpu')
    with pytest.raises(ReplearnError, match='r1 < k and r1 < r2'):
        context_learner(graphs, encoder(), k=3, r1=3)
    with pytest.raises(ReplearnError, match='Batches have no labels'):
        pretrain(supervised_learner(graphs, encoder(), n_tasks=4, progress=False), 1,
                 1e-3)
    small, _ = read_graphs(['C', 'CC', 'CCO', 'N'])
    tiny = tensor_dls((small,), (small,), 4, 'cpu')
    with pytest.raises(ReplearnError, match='fewer than two of a batch of 4 do'):
        context_learner(tiny, encoder(), progress=False)


def test_context_passes_over_batches_with_nothing_to_compare(mols):
    small, _ = read_graphs([*mols.smiles[:2], 'C', 'CC', 'CCO', 'N', 'O', 'CO'])
    dls = tensor_dls((mols.graphs,), (small,), 2, 'cpu')
    learn = context_learner(dls, encoder(), k=3, r1=1, r2=4, progress=False)
    pretrain(learn, 1, 1e-3)  # of four batches to validate on, the first has pairs
    assert all(torch.tensor(learn.recorder.values[-1]).isfinite())
    dls = tensor_dls((mols.graphs,), (small[2:],), 60, 'cpu')
    learn = context_learner(dls, encoder(), k=3, r1=1, r2=4, progress=False)
    assert len(pretrain(learn, 1, 1e-3).recorder.losses) == 2


@pytest.mark.parametrize('make', [edge_learner, partial(
    supervised_learner, n_tasks=2)], ids=['edge', 'supervised'])
def test_batches_that_leave_nothing_to_ask_are_passed_over(make, mols):
    "A single atom, three atoms that are all bonded, molecules without a label"
    few, _ = read_graphs(['C', 'O', 'C1CC1', *mols.smiles[:3]])
    y = torch.full((6, 2), float('nan'))
    y[4:] = 1.
    dls = tensor_dls((mols.graphs, mols.y[:, :2]), (few, y), 1, 'cpu')
    learn = make(dls, encoder(), progress=False)
    with learn.no_bar(), learn.no_logging():
        assert all(torch.tensor(learn.validate()).isfinite())


def test_infomax_needs_two_molecules(mols):
    few, _ = read_graphs(mols.smiles[:5])
    dls = tensor_dls((mols.graphs,), (few,), 2, 'cpu')
    learn, seen = infomax_learner(dls, encoder(), progress=False), []
    learn.model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    with learn.no_bar(), learn.no_logging():
        assert all(torch.tensor(learn.validate()).isfinite())
    assert seen == [2, 2]  # the fifth is alone: its own summary would be the next one's
