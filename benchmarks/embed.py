"""Embedding with a frozen network beside the usual loop of a peer: items per second

    python benchmarks/embed.py [--rounds 5] [--out RESULT.json]

The same weights and the same raw items, in turns in one process; the time includes all
preparation. Texts: BERT-mini on docstrings, beside transformers' BertModel on batches
sorted by length (`ours_both`: the mean and [CLS]; the peer gives the mean). Images: a
ResNet-18 of timm on JPEGs, beside timm with a DataLoader of two workers. Molecules:
the GIN of five layers on SMILES, beside RDKit and PyTorch Geometric. The largest
difference between the vectors of the two is told.
"""
import os
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
import typer
from common import Device, Out, compare, write
from graphs import PeerGNN, plain
from PIL import Image
from torch_geometric.loader import DataLoader as GraphLoader
from torch_geometric.nn import global_mean_pool
from torchvision import transforms
from transformers import BertConfig, BertModel

from replearn_nb.core import get_device, local_seed
from replearn_nb.data.images import ImagePreprocessing
from replearn_nb.data.molecules import MoleculePreprocessing, assemble
from replearn_nb.data.text import TextPreprocessing, docstrings, train_sentencepieces
from replearn_nb.encoders.convnets import timm_encoder
from replearn_nb.encoders.gin import gin
from replearn_nb.encoders.transformer import SIZES, from_hf
from replearn_nb.representation import Representation

MEAN, STD = [.485, .456, .406], [.229, .224, .225]


def measure(embed, peer, rounds, unit, **more):
    "Rates of both, and how far their vectors are apart"
    apart = float(np.abs(embed() - peer()).max())
    runs = {k: lambda f=f: len(f())
            for k, f in dict(ours=embed, peer=peer, **more).items()}
    return compare(runs, rounds, unit) | dict(largest_difference=apart)


def texts(n, rounds, device, bs):
    "BERT-mini; the peer's loop is the one that its users write"
    items = docstrings().texts.texts
    tok = train_sentencepieces(items, 4000)
    items, size = random.Random(0).sample(items, n), SIZES['mini']
    with local_seed(0):
        model = BertModel(BertConfig(
            vocab_size=tok.vocab_size, hidden_size=size['width'],
            num_hidden_layers=size['depth'], num_attention_heads=size['heads'],
            intermediate_size=4 * size['width'], pad_token_id=tok.pad),
            add_pooling_layer=False).to(device).eval()
    pre = TextPreprocessing(tok, 128)
    rep = Representation(from_hf(model)[0].to(device), pre)

    @torch.no_grad()
    def peer():
        ids, vectors = tok.encode(items), np.empty((n, size['width']), np.float32)
        order = sorted(range(n), key=lambda i: len(ids[i]))
        for k in range(0, n, bs):
            rows = order[k:k + bs]
            x = pre.pad([ids[i] for i in rows]).long().to(device)
            real = (x != tok.pad).long()
            h = model(x, attention_mask=real).last_hidden_state
            mean = (h * real[..., None]).sum(1) / real.sum(1, keepdim=True)
            vectors[rows] = mean.cpu()
        return vectors

    return measure(
        lambda: rep.embed(items, device=str(device)), peer, rounds, 'texts',
        ours_both=lambda: rep.encoder.pooled_features(pre.prepare(items))['cls'][0])


def images(n, rounds, device, bs, size=224):
    "A ResNet-18; smooth random photographs of 320 x 320"
    with local_seed(0):
        model = timm_encoder('resnet18').to(device).eval()
        seeds = torch.randint(0, 256, (n, 8, 8, 3), dtype=torch.uint8).numpy()
    rep = Representation(model, ImagePreprocessing(size, 3, MEAN, STD))
    peers = timm.create_model('resnet18', num_classes=0).to(device).eval()
    peers.load_state_dict(model.state_dict())
    prepare = transforms.Compose([
        transforms.Resize((size, size)), transforms.ToTensor(),
        transforms.Normalize(MEAN, STD)])
    with tempfile.TemporaryDirectory() as d:
        for i, o in enumerate(seeds):
            Image.fromarray(o).resize((320, 320), Image.BICUBIC).save(f'{d}/{i:04}.jpg')
        files = sorted(Path(d).iterdir())
        loader = torch.utils.data.DataLoader(
            Files(files, prepare), bs, num_workers=2, persistent_workers=True)

        @torch.no_grad()
        def peer():
            return torch.cat([peers(x.to(device)).cpu() for x in loader]).numpy()

        return measure(lambda: rep.embed(files, device=str(device)), peer, rounds,
                       'images')


class Files(torch.utils.data.Dataset):
    "Images, opened as they are fetched"
    def __init__(self, files, prepare):
        self.files, self.prepare = files, prepare

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        return self.prepare(Image.open(self.files[i]).convert('RGB'))


def molecules(n, rounds, device, bs):
    "The network of Hu et al. (2020), from SMILES; ours finds no cache"
    smiles = assemble(n)
    with local_seed(0):
        rep = Representation(gin().to(device), MoleculePreprocessing())
        peers = PeerGNN().to(device).eval()
    peers.load_state_dict(rep.encoder.state_dict(), strict=False)

    def ours():
        with tempfile.TemporaryDirectory() as empty:
            os.environ['XDG_CACHE_HOME'] = empty
            return rep.embed(smiles, device=str(device))

    @torch.no_grad()
    def peer():
        return torch.cat([
            global_mean_pool(peers(data), data.batch).cpu()
            for data in (o.to(device) for o in GraphLoader(plain(smiles), bs))]).numpy()

    return measure(ours, peer, rounds, 'molecules')


def embed(
    n: int = 1000, n_images: int = 200, bs: int = 64, rounds: int = 5,
    device: Device = None, out: Out = None,
):
    "Texts, images and molecules per second, ours and the peers'; medians and ratios"
    started, device = time.perf_counter(), get_device(device)
    write(out, started, device, ['transformers', 'timm', 'torch_geometric', 'rdkit'],
          benchmark='embed', peer_batch=bs, texts=texts(n, rounds, device, bs),
          images=images(n_images, rounds, device, bs),
          molecules=molecules(4 * n, rounds, device, bs))


if __name__ == '__main__':
    typer.run(embed)  # `app` has the commands of graphs.py
