"""Pre-training on molecules beside PyTorch Geometric, and featurisation beside RDKit

    python benchmarks/graphs.py speed [--bs 256] [--out RESULT.json]
    python benchmarks/graphs.py features [--out RESULT.json]

Speed: attribute masking with the paper's GIN (5 layers of 300) in float32; the peer is
the same network of PyG's message passing with PyG's DataLoader, a mask drawn for each
molecule. In turns in one process; and the floor: forward, backward and step alone, on a
batch that stays. Features: SMILES to graphs, beside a plain loop.
"""
import os
import tempfile
import time

import torch
import torch.nn.functional as F
from common import Device, Out, app, compare, train_on, write
from rdkit import Chem
from torch import nn
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import add_self_loops

from replearn_nb.core import get_device, local_seed, tensor_dls
from replearn_nb.data.molecules import (
    BONDS,
    CHIRALITIES,
    DIRECTIONS,
    assemble,
    read_graphs,
    to_pyg,
)
from replearn_nb.encoders.gin import gin
from replearn_nb.pretext.base import pretrain
from replearn_nb.pretext.graphs import attrmask_learner

class PeerConv(MessagePassing):
    "The paper's layer with PyG: a message is a neighbour's state plus the bond's"
    def __init__(self, dim):
        super().__init__(aggr='add')
        self.mlp = nn.Sequential(
            nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))
        self.edge_embedding1 = nn.Embedding(6, dim)
        self.edge_embedding2 = nn.Embedding(3, dim)

    def forward(self, x, edge_index, edge_attr):
        edge_index, _ = add_self_loops(edge_index, num_nodes=len(x))
        loops = edge_attr.new_tensor([[4, 0]]).expand(len(x), 2)
        attr = torch.cat([edge_attr, loops])
        bonds = self.edge_embedding1(attr[:, 0]) + self.edge_embedding2(attr[:, 1])
        return self.propagate(edge_index, x=x, bonds=bonds)

    def message(self, x_j, bonds):
        return x_j + bonds

    def update(self, total):
        return self.mlp(total)


class PeerGNN(nn.Module):
    "The paper's network with PyG"
    def __init__(self, layers=5, dim=300):
        super().__init__()
        self.x_embedding1 = nn.Embedding(120, dim)
        self.x_embedding2 = nn.Embedding(3, dim)
        self.gnns = nn.ModuleList(PeerConv(dim) for _ in range(layers))
        self.batch_norms = nn.ModuleList(nn.BatchNorm1d(dim) for _ in range(layers))
        self.head = nn.Linear(dim, 119)

    def forward(self, data):
        h = self.x_embedding1(data.x[:, 0]) + self.x_embedding2(data.x[:, 1])
        for i, (conv, norm) in enumerate(zip(self.gnns, self.batch_norms, strict=True)):
            h = norm(conv(h, data.edge_index, data.edge_attr))
            h = F.relu(h) if i + 1 < len(self.gnns) else h
        return h


class Masked(torch.utils.data.Dataset):
    "PyG's graphs, each masked as it is fetched"
    def __init__(self, graphs):
        self.data = to_pyg(graphs)

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        d = self.data[i]
        rows = torch.randperm(len(d.x))[:int(.15 * len(d.x) + 1)]
        x = d.x.clone()
        x[rows] = torch.tensor([119, 0])
        mask = torch.zeros(len(d.x), dtype=torch.bool)
        mask[rows] = True
        return Data(x=x, edge_index=d.edge_index, edge_attr=d.edge_attr, mask=mask,
                    element=d.x[:, 0])


def ours(graphs, bs, device):
    "Train with replearn_nb"
    with local_seed(0):
        encoder = gin()
    dls = tensor_dls((graphs,), (graphs[:8],), bs, device)  # the peer validates on none
    learn = attrmask_learner(dls, encoder, progress=False)

    def train():
        pretrain(learn, 1, 1e-3, 0.)
        return len(dls.train) * bs
    return train


def peer(graphs, bs, device, workers):
    "Train with PyG, as its examples do"
    with local_seed(0):
        model = PeerGNN().to(device)
    opt = torch.optim.Adam(model.parameters(), 1e-3)
    loader = DataLoader(Masked(graphs), bs, shuffle=True, drop_last=True,
                        num_workers=workers, persistent_workers=workers > 0)

    def train():
        model.train()
        for data in loader:
            data = data.to(device)
            value = F.cross_entropy(model.head(model(data)[data.mask]),
                                    data.element[data.mask])
            opt.zero_grad()
            value.backward()
            opt.step()
        return len(loader) * bs
    return train


def floor(graphs, bs, device, steps):
    "Forward, backward and step of our network, on a batch that stays"
    with local_seed(0):
        model = nn.ModuleList([gin(), nn.Linear(300, 119)]).to(device)
    opt, batch = torch.optim.Adam(model.parameters(), 1e-3), graphs[:bs].to(device)
    rows = torch.arange(0, len(batch.x), 6, device=device)
    answer = batch.x[rows, 0]

    def loss():
        h = model[0].forward_features(batch)
        return F.cross_entropy(model[1](h[rows]), answer)

    def train():
        train_on(loss, opt, steps, device)
        return steps * bs
    return train


@app.command()
def speed(
    bs: int = 256, steps: int = 0, rounds: int = 5, workers: int = 0,
    device: Device = None, out: Out = None,
):
    "Graphs per second of ours, PyG and the floor, in turns; medians and ratios"
    started, device = time.perf_counter(), get_device(device)
    steps = steps or (100 if device.type == 'cuda' else 4)
    graphs, _ = read_graphs(assemble(min(bs * steps, 5000)))
    graphs = graphs[torch.arange(bs * steps) % len(graphs)]
    runs = dict(ours=ours(graphs, bs, device), pyg=peer(graphs, bs, device, workers),
                floor=floor(graphs, bs, device, steps))
    write(out, started, device, ['rdkit', 'torch_geometric'], benchmark='graphs speed',
          batch=bs, steps=steps, workers=workers,
          atoms_a_graph=round(len(graphs.x) / len(graphs), 1),
          **compare(runs, rounds, 'graphs'))


def plain(smiles):
    "A PyG graph for each SMILES, as one writes it down"
    graphs = []
    for s in smiles:
        mol = Chem.MolFromSmiles(s)
        x = [[a.GetAtomicNum() - 1, CHIRALITIES.get(str(a.GetChiralTag()), 0)]
             for a in mol.GetAtoms()]
        edges, attr = [], []
        for b in mol.GetBonds():
            i, j = b.GetBeginAtomIdx(), b.GetEndAtomIdx()
            kind = [BONDS.get(str(b.GetBondType()), 0),
                    DIRECTIONS.get(str(b.GetBondDir()), 0)]
            edges += [[i, j], [j, i]]
            attr += [kind, kind]
        graphs.append(Data(
            x=torch.tensor(x), edge_index=torch.tensor(edges).reshape(-1, 2).T,
            edge_attr=torch.tensor(attr).reshape(-1, 2)))
    return graphs


@app.command()
def features(n: int = 8000, rounds: int = 3, out: Out = None):
    "Molecules per second: ours, ours from its cache, and a plain loop, in turns"
    started, smiles = time.perf_counter(), assemble(n)

    def read(cache):
        os.environ['XDG_CACHE_HOME'] = cache
        return len(read_graphs(smiles)[0])

    def first():
        with tempfile.TemporaryDirectory() as empty:
            return read(empty)

    with tempfile.TemporaryDirectory() as kept:
        facts = compare(dict(ours=first, plain=lambda: len(plain(smiles)),
                             ours_cached=lambda: read(kept)), rounds, 'molecules')
    write(out, started, 'cpu', ['rdkit', 'torch_geometric'], molecules=n,
          benchmark='graphs features', **facts)


if __name__ == '__main__':
    app()
