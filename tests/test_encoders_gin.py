"GIN: against PyTorch Geometric, permutations, batches, precision, odd molecules"
import pytest
import torch
from torch import nn

from replearn_nb.core import local_seed
from replearn_nb.encoders.gin import Neighbours, gin, load_published, pool_atoms

pytest.importorskip('rdkit')
from replearn_nb.data.molecules import assemble, read_graphs, to_pyg  # noqa: E402

@pytest.fixture(scope='module')
def smiles():
    return assemble(40, seed=0) + [
        '[Na+].[Cl-]', 'C', '[NH4+]', 'C' * 500, '[O-]C(=O)C[NH3+]', 'F/C=C/F']


@pytest.fixture(scope='module')
def graphs(smiles):
    return read_graphs(smiles)[0]


def trained():
    "An encoder whose batch norms are not trivial"
    with local_seed(0):
        encoder = gin(layers=3, dim=24)
        for norm in encoder.batch_norms:
            nn.init.normal_(norm.weight, 1, .1)
            norm.running_mean.normal_()
            norm.running_var.uniform_(.5, 2)
    return encoder.eval()


@torch.no_grad()
def test_batching_and_the_order_of_atoms_change_nothing(smiles, graphs):
    from rdkit import Chem
    encoder = trained()
    all_at_once = encoder(graphs)
    assert all_at_once.shape == (len(graphs), encoder.num_features)
    assert all_at_once.isfinite().all()
    one_by_one = torch.cat([encoder(g) for g in graphs.split(1)])
    torch.testing.assert_close(one_by_one, all_at_once, rtol=1e-5, atol=1e-5)
    renumbered = []
    for i, s in enumerate(smiles):
        mol = Chem.MolFromSmiles(s)
        g = torch.Generator().manual_seed(i)
        order = torch.randperm(mol.GetNumAtoms(), generator=g).tolist()
        renumbered.append((graphs[i], order))
    for i, (g, order) in enumerate(renumbered):
        new = torch.empty(len(order), dtype=torch.int64)
        new[order] = torch.arange(len(order))
        g.x, g.edge_index = g.x[order], new[g.edge_index]
        torch.testing.assert_close(encoder(g)[0], all_at_once[i], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_layer_is_that_of_pyg(graphs):
    pyg = pytest.importorskip('torch_geometric')

    class Peer(pyg.nn.MessagePassing):
        def forward(self, x, edge_index, bonds):
            return self.propagate(edge_index, x=x, bonds=bonds)

        def message(self, x_j, bonds):
            return x_j + bonds

    peer, layer, n = Peer(aggr='sum'), trained().gnns[0], len(graphs.x)
    x = torch.randn(n, 24, generator=torch.Generator().manual_seed(0))
    loops, loop_attr = torch.arange(n), torch.tensor([[4, 0]]).expand(n, 2)
    edges = torch.cat([graphs.edge_index, torch.stack([loops, loops])], 1)
    attr = torch.cat([graphs.edge_attr, loop_attr])
    bonds = layer.edge_embedding1(attr[:, 0]) + layer.edge_embedding2(attr[:, 1])
    want = layer.mlp(peer(x, edges, bonds))
    got = layer(x, Neighbours(graphs.edge_index, graphs.edge_attr, n))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def sum_of_messages(layer, x, graphs):
    "Neighbours' states and bonds, a row for each edge and each loop"
    loops = torch.arange(len(x))
    source, to = torch.cat([graphs.edge_index, torch.stack([loops, loops])], 1)
    attr = torch.cat([graphs.edge_attr, torch.tensor([[4, 0]]).expand(len(x), 2)])
    bonds = layer.edge_embedding1(attr[:, 0]) + layer.edge_embedding2(attr[:, 1])
    return torch.zeros_like(x).index_add(0, to, x[source] + bonds)


@torch.no_grad()
def test_gradients_are_those_of_messages_written_down(graphs):
    with torch.enable_grad():
        layer, n = trained().gnns[0], len(graphs.x)
        at = Neighbours(graphs.edge_index, graphs.edge_attr, n)
        x = torch.randn(n, 24, generator=torch.Generator().manual_seed(0))
        grads = []
        for way in 'ours', 'plain':
            layer.zero_grad()
            x_ = x.clone().requires_grad_()
            if way == 'ours':
                out = layer(x_, at)
            else:
                out = layer.mlp(sum_of_messages(layer, x_, graphs))
            out.square().mean().backward()
            grads.append([x_.grad, *(p.grad.clone() for p in layer.parameters())])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_whole_network_is_that_of_messages_written_down(graphs):
    encoder = trained().train()

    def plain():
        h = encoder.x_embedding1(graphs.x[:, 0]) + encoder.x_embedding2(graphs.x[:, 1])
        for i, (conv, norm) in enumerate(zip(encoder.gnns, encoder.batch_norms,
                                             strict=True)):
            h = norm(conv.mlp(sum_of_messages(conv, h, graphs)))
            h = h.relu() if i < 2 else h
        return h

    found = []
    for forward in plain, lambda: encoder.forward_features(graphs):
        encoder.zero_grad()
        out = forward()
        out.pow(3).mean().backward()
        found.append([out.detach(), *(p.grad.clone() for p in encoder.parameters())])
    assert len(found[0]) == 1 + len(list(encoder.parameters()))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4)


def test_pooling_is_that_of_pyg(graphs):
    pyg = pytest.importorskip('torch_geometric.nn')
    h = torch.randn(len(graphs.x), 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pool_atoms(h, graphs.batch, len(graphs)),
                               pyg.global_mean_pool(h, graphs.batch))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_nearly_full_precision(dtype, graphs):
    "Features and gradients under autocast, in training and in evaluation"
    for encoder in trained(), trained().train():
        found = []
        for enabled in False, True:
            encoder.zero_grad()
            with torch.autocast('cpu', dtype, enabled):
                out = encoder(graphs)
            out.float().square().mean().backward()
            grads = torch.cat([p.grad.flatten() for p in encoder.parameters()])
            found.append((out.detach().float(), grads))
        for full, half in zip(*found, strict=True):
            assert (half - full).norm() < .2 * full.norm()


def test_sums_are_taken_in_32_bits():
    "256 + 1 is 256 in bfloat16: a sum that is kept in 16 bits stops there"
    n = 1000
    hub = torch.stack([torch.arange(1, n), torch.zeros(n - 1, dtype=torch.int64)])
    at = Neighbours(hub, torch.zeros(n - 1, 2, dtype=torch.int64), n)
    x = torch.ones(n, 3, dtype=torch.bfloat16)
    assert at.sum(x)[0].tolist() == [n] * 3
    x[0] = 1000
    pooled = pool_atoms(x, torch.zeros(n, dtype=torch.int64), 1)
    assert pooled[0].tolist() == pytest.approx([1.999] * 3)


@torch.no_grad()
def test_takes_a_batch_of_pyg(graphs):
    data = pytest.importorskip('torch_geometric.data')
    encoder, listed = trained(), to_pyg(graphs)
    want = encoder(graphs)
    got = encoder(data.Batch.from_data_list(listed))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(encoder(listed[0]), want[:1], rtol=1e-5, atol=1e-5)


def test_names_are_those_of_the_published_weights():
    names = set(gin().state_dict())
    layer = ['mlp.0.weight', 'mlp.0.bias', 'mlp.2.weight', 'mlp.2.bias',
             'edge_embedding1.weight', 'edge_embedding2.weight']
    norm = 'weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked'
    assert names == {
        'x_embedding1.weight', 'x_embedding2.weight',
        *(f'gnns.{i}.{k}' for i in range(5) for k in layer),
        *(f'batch_norms.{i}.{k}' for i in range(5) for k in norm)}
    shapes = {k: tuple(v.shape) for k, v in gin().state_dict().items()}
    assert shapes['x_embedding1.weight'] == (120, 300)
    assert shapes['x_embedding2.weight'] == (3, 300)
    assert shapes['gnns.0.edge_embedding1.weight'] == (6, 300)
    assert shapes['gnns.0.mlp.0.weight'] == (600, 300)
    with local_seed(1):
        whole = {f'gnn.{k}': v for k, v in gin().state_dict().items()}
    whole |= {'graph_pred_linear.weight': torch.zeros(1, 300)}
    loaded = load_published(gin(), whole).state_dict()
    assert all(torch.equal(loaded[k], whole[f'gnn.{k}']) for k in loaded)
