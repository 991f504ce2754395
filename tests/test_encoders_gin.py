"GIN and its peers: against PyTorch Geometric, permutations, batches, odd molecules"
import pytest
import torch
from torch import nn

from replearn_nb.core import local_seed
from replearn_nb.encoders.gin import CONVS, Neighbours, gin, load_published, pool_atoms

pytest.importorskip('rdkit')
from replearn_nb.data.molecules import assemble, read_graphs, to_pyg  # noqa: E402

VARIANTS = [dict(conv=c) for c in CONVS] + [dict(jk=j) for j in (
    'sum', 'max', 'concat')] + [dict(pooling=p) for p in ('sum', 'max', 'attention')]


@pytest.fixture(scope='module')
def smiles():
    return assemble(40, seed=0) + [
        '[Na+].[Cl-]', 'C', '[NH4+]', 'C' * 500, '[O-]C(=O)C[NH3+]', 'F/C=C/F']


@pytest.fixture(scope='module')
def graphs(smiles):
    return read_graphs(smiles)[0]


def trained(**kwargs):
    "An encoder whose batch norms are not trivial"
    with local_seed(0):
        encoder = gin(**(dict(layers=3, dim=24) | kwargs))
        for norm in encoder.batch_norms:
            nn.init.normal_(norm.weight, 1, .1)
            norm.running_mean.normal_()
            norm.running_var.uniform_(.5, 2)
    return encoder.eval()


@pytest.mark.parametrize('kwargs', VARIANTS, ids=str)
@torch.no_grad()
def test_batching_and_the_order_of_atoms_change_nothing(kwargs, smiles, graphs):
    from rdkit import Chem
    encoder = trained(**kwargs)
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


def peer_layer(conv):
    "The same layer with PyTorch Geometric"
    pyg = pytest.importorskip('torch_geometric')

    class Peer(pyg.nn.MessagePassing):
        def forward(self, x, edge_index, bonds):
            return self.propagate(edge_index, x=x, bonds=bonds)

        def message(self, x_j, bonds):
            return x_j + bonds

    return Peer(aggr=dict(gin='sum', graphsage='mean')[conv])


@pytest.mark.parametrize('conv', ['gin', 'graphsage'])
@torch.no_grad()
def test_layer_is_that_of_pyg(conv, graphs):
    peer, layer = peer_layer(conv), trained(conv=conv).gnns[0]
    n = len(graphs.x)
    x = torch.randn(n, 24, generator=torch.Generator().manual_seed(0))
    loops, loop_attr = torch.arange(n), torch.tensor([[4, 0]]).expand(n, 2)
    edges = torch.cat([graphs.edge_index, torch.stack([loops, loops])], 1)
    attr = torch.cat([graphs.edge_attr, loop_attr])
    bonds = layer.edge_embedding1(attr[:, 0]) + layer.edge_embedding2(attr[:, 1])
    if conv == 'gin':
        want = layer.mlp(peer(x, edges, bonds))
    else:
        want = nn.functional.normalize(peer(layer.linear(x), edges, bonds), dim=1)
    got = layer(x, Neighbours(graphs.edge_index, graphs.edge_attr, n))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('conv', ['gcn', 'gat'])
@torch.no_grad()
def test_layer_without_bonds_is_that_of_pyg(conv, graphs):
    pyg = pytest.importorskip('torch_geometric.nn')
    layer, n = trained(conv=conv).gnns[0], len(graphs.x)
    for table in layer.edge_embedding1, layer.edge_embedding2:
        table.weight.zero_()
    x = torch.randn(n, 24, generator=torch.Generator().manual_seed(0))
    if conv == 'gcn':
        peer = pyg.GCNConv(24, 24, bias=False)
        peer.lin.weight.copy_(layer.linear.weight)
        layer.linear.bias.zero_()
    else:
        peer = pyg.GATConv(24, 24, heads=2, concat=False)
        peer.lin.weight.copy_(layer.weight_linear.weight)
        layer.weight_linear.bias.zero_()
        peer.att_dst.copy_(layer.att[..., :24])  # the atom itself
        peer.att_src.copy_(layer.att[..., 24:])  # its neighbour
    got = layer(x, Neighbours(graphs.edge_index, graphs.edge_attr, n))
    torch.testing.assert_close(got, peer(x, graphs.edge_index), rtol=1e-5, atol=1e-5)


def plain_gcn(layer, x, edges, bonds, to):
    "What atom `to` gets: its neighbours' states and bonds by the roots of degrees"
    degree = [sum(b == i for _, b in edges) for i in range(len(x))]
    return sum((layer.linear(x[a]) + bonds[k]) / (degree[a] * degree[to]) ** .5
               for k, (a, b) in enumerate(edges) if b == to)


def plain_gat(layer, x, edges, bonds, to):
    "The mean over heads of messages, neighbour and bond, by the softmax of scores"
    heads = []
    for h in range(2):
        one = slice(24 * h, 24 * h + 24)
        states = layer.weight_linear(x)[:, one]
        messages = torch.stack([states[a] + bonds[k, one]
                                for k, (a, b) in enumerate(edges) if b == to])
        pairs = torch.cat([states[to].expand_as(messages), messages], 1)
        scores = nn.functional.leaky_relu(pairs @ layer.att[0, h], .2)
        heads.append(scores.softmax(0) @ messages)
    return sum(heads) / 2 + layer.bias


@pytest.mark.parametrize('conv,plain', [('gcn', plain_gcn), ('gat', plain_gat)])
@torch.no_grad()
def test_layer_with_bonds_is_that_of_messages_written_down(conv, plain, graphs):
    layer, g = trained(conv=conv).gnns[0], graphs[[0, 1, 40, 41, 45]]
    n, generator = len(g.x), torch.Generator().manual_seed(0)
    for p in layer.parameters():
        p.copy_(torch.randn(p.shape, generator=generator) / 3)
    x = torch.randn(n, 24, generator=generator)
    edges = [*zip(*g.edge_index.tolist(), strict=True), *((i, i) for i in range(n))]
    attr = torch.cat([g.edge_attr, torch.tensor([[4, 0]]).expand(n, 2)])
    bonds = layer.edge_embedding1(attr[:, 0]) + layer.edge_embedding2(attr[:, 1])
    want = torch.stack([plain(layer, x, edges, bonds, i) for i in range(n)])
    got = layer(x, Neighbours(g.edge_index, g.edge_attr, n))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


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
                bonds = (layer.edge_embedding1(at.attr[:, 0])
                         + layer.edge_embedding2(at.attr[:, 1]))
                total = torch.zeros(n, 24).index_add(0, at.to, x_[at.source] + bonds)
                out = layer.mlp(total)
            out.square().mean().backward()
            grads.append([x_.grad, *(p.grad.clone() for p in layer.parameters())])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('jk', ['last', 'concat'])
def test_whole_network_is_that_of_messages_written_down(jk, graphs):
    encoder, n = trained(jk=jk).train(), len(graphs.x)
    at = Neighbours(graphs.edge_index, graphs.edge_attr, n)

    def plain():
        h = encoder.x_embedding1(graphs.x[:, 0]) + encoder.x_embedding2(graphs.x[:, 1])
        states = [h]
        for i, (conv, norm) in enumerate(zip(encoder.gnns, encoder.batch_norms,
                                             strict=True)):
            bonds = (conv.edge_embedding1(at.attr[:, 0])
                     + conv.edge_embedding2(at.attr[:, 1]))
            total = torch.zeros_like(h).index_add(0, at.to, h[at.source] + bonds)
            h = norm(conv.mlp(total))
            h = h.relu() if i < 2 else h
            states.append(h)
        return h if jk == 'last' else torch.cat(states, 1)

    found = []
    for forward in plain, lambda: encoder.forward_features(graphs):
        encoder.zero_grad()
        out = forward()
        out.pow(3).mean().backward()
        found.append([out.detach(), *(p.grad.clone() for p in encoder.parameters())])
    assert len(found[0]) == 1 + len(list(encoder.parameters()))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('mode', ['mean', 'sum', 'max'])
def test_pooling_is_that_of_pyg(mode, graphs):
    pyg = pytest.importorskip('torch_geometric.nn')
    h = torch.randn(len(graphs.x), 8, generator=torch.Generator().manual_seed(0))
    peer = dict(mean=pyg.global_mean_pool, sum=pyg.global_add_pool,
                max=pyg.global_max_pool)[mode]
    torch.testing.assert_close(pool_atoms(h, graphs.batch, len(graphs), mode),
                               peer(h, graphs.batch), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_attention_pooling_is_that_of_pyg(graphs):
    aggr = pytest.importorskip('torch_geometric.nn.aggr')
    encoder = trained(pooling='attention')
    h = torch.randn(len(graphs.x), 24, generator=torch.Generator().manual_seed(0))
    peer = aggr.AttentionalAggregation(encoder.gate)
    torch.testing.assert_close(encoder.pool(h, graphs), peer(h, graphs.batch),
                               rtol=1e-5, atol=1e-5)
    first = graphs.batch == 0  # and by hand
    share = encoder.gate(h[first]).softmax(0)
    torch.testing.assert_close(encoder.pool(h, graphs)[0], (share * h[first]).sum(0))


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
