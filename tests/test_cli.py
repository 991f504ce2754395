"The command: what it writes, what it says of wrong input, what an interruption leaves"
import importlib
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from dataclasses import replace
from typing import Annotated

import numpy as np
import pandas as pd
import pytest
import torch
from documents import script
from PIL import Image

from replearn_nb import cli, core
from replearn_nb.core import ReplearnError
from replearn_nb.data.images import digits
from replearn_nb.recipes import simclr
from replearn_nb.recipes.book import BOOK, Chapter
from replearn_nb.representation import CARD, Representation

QUICK = replace(simclr.PRESETS['tiny'], epochs=1, budgets=(1, 2))


@pytest.fixture
def replearn(capsys):
    "Run the command here; gives its exit code and what it printed"
    def call(*args):
        with pytest.raises(SystemExit) as end:
            cli.main([str(a) for a in args])
        out = capsys.readouterr()
        return end.value.code, out.out, out.err.strip()
    return call


@pytest.fixture(autouse=True)
def short(monkeypatch):
    "A preset that takes seconds"
    monkeypatch.setitem(simclr.PRESETS, 'quick', QUICK)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # these networks are too small to share
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    "Sixty small photographs of two classes, and a CSV that says the same"
    folder = tmp_path_factory.mktemp('photos')
    rng, rows = np.random.default_rng(0), []
    for i in range(60):
        kind = 'dark' if i % 2 else 'light'
        x = rng.integers(0, 128, (20, 24, 3), dtype=np.uint8) + (i % 2 == 0) * 127
        (folder/'classes'/kind).mkdir(parents=True, exist_ok=True)
        (folder/'flat').mkdir(exist_ok=True)
        image = Image.fromarray(x.astype(np.uint8))
        image.save(folder/'classes'/kind/f'{i}.png')
        image.save(folder/'flat'/f'{i}.png')
        rows.append((f'{i}.png', kind))
    df = pd.DataFrame(rows, columns=['file', 'label'])
    df.to_csv(folder/'labels.csv', index=False)
    return folder


@pytest.fixture(scope='module')
def rep(tmp_path_factory):
    "A saved representation of digits"
    folder = tmp_path_factory.mktemp('rep')/'representation'
    splits, cfg = digits(), QUICK
    learn = simclr.make_learner(splits, cfg, torch.device('cpu'))
    simclr.pretrain(learn, 1, 1e-3)
    simclr.keep(learn, splits, cfg, 0).save(folder)
    return folder


def test_run_writes_report_figure_and_representation(replearn, tmp_path):
    code, out, err = replearn('run', 'simclr', '--out', tmp_path/'r', '--device', 'cpu')
    assert code == 0, err
    assert sorted(p.name for p in (tmp_path/'r').iterdir()) == [
        'figure.png', 'report.json', 'representation']
    report = json.loads((tmp_path/'r'/'report.json').read_text())
    assert list(report['seconds']) == ['pretrain', 'transfer', 'total']
    assert {s['method'] for s in report['scores']} == {
        'raw+linear', 'raw+knn', 'scratch', 'scratch+small_convnet', 'random+linear',
        'simclr+knn', 'simclr+linear', 'simclr+finetune'}
    assert {'simclr+linear@1', 'labels_saved@1'} <= set(report['headline'])
    assert 'simclr+linear' in out
    loaded = Representation.load(tmp_path/'r'/'representation')
    assert loaded.card['scores'] == report['headline']
    assert loaded.card['data']['hash'] == digits().hash
    code, out, _ = replearn('show', tmp_path/'r')
    assert code == 0 and 'simclr+linear' in out


@pytest.mark.parametrize('args', [
    ('--data', 'classes'), ('--data', 'flat', '--labels', 'labels.csv')])
def test_own_images(replearn, photos, tmp_path, args):
    args = [photos/a if a[:2] != '--' else a for a in args]
    code, _, err = replearn('run', 'simclr', *args, '--out', tmp_path/'r')
    assert code == 0, err
    report = json.loads((tmp_path/'r'/'report.json').read_text())
    scores = pd.DataFrame(report['scores'])
    linear = scores[(scores.method == 'raw+linear') & (scores.budget == 2)]
    assert linear.score.mean() > .9  # light and dark are easy to tell apart


def test_own_images_without_labels(replearn, photos, tmp_path):
    code, out, err = replearn('run', 'simclr', '--data', photos/'flat', '--out',
                              tmp_path/'r')
    assert code == 0, err
    assert json.loads((tmp_path/'r'/'report.json').read_text())['scores'] == []
    v = Representation.load(tmp_path/'r'/'representation').embed(photos/'flat')
    assert v.shape == (60, 256)


def test_embed(replearn, rep, photos, tmp_path):
    for out in 'v.npy', 'v.parquet':
        code, said, err = replearn('embed', rep, photos/'flat', '-o', tmp_path/out)
        assert code == 0 and '60 vectors of 256 numbers' in said, err
    v = np.load(tmp_path/'v.npy')
    names = (tmp_path/'v.names.txt').read_text().split()
    df = pd.read_parquet(tmp_path/'v.parquet')
    assert list(df.name) == names and sorted(names)[0] == '0.png'
    np.testing.assert_array_equal(df.drop(columns='name').to_numpy(), v)
    one = Representation.load(rep).embed(photos/'flat'/names[7])
    np.testing.assert_allclose(one[0], v[7], atol=1e-5)


def test_embed_names_that_are_no_lines_of_utf8(replearn, rep, photos, tmp_path):
    "As many names as vectors, whatever a file is called, and each beside its own"
    folder = tmp_path/'odd'
    shutil.copytree(photos/'flat', folder)
    odd = {os.fsdecode(b'caf\xe9.png'): 'caf\\udce9.png', 'a\nb.png': 'a\\nb.png',
           'with blank.PNG': 'with blank.PNG', 'Ünï 图.png': 'Ünï 图.png'}
    for i, name in enumerate(odd):
        os.rename(folder/f'{i}.png', folder/name)
    for out in 'v.npy', 'v.parquet':
        code, said, err = replearn('embed', rep, folder, '-o', tmp_path/out)
        assert code == 0 and '60 vectors' in said, err
    names = (tmp_path/'v.names.txt').read_text(encoding='utf-8').split('\n')[:-1]
    v = np.load(tmp_path/'v.npy')
    assert len(names) == len(v) == 60 and set(odd.values()) < set(names)
    assert pd.read_parquet(tmp_path/'v.parquet').name.tolist() == names
    model = Representation.load(rep)
    for name, shown in odd.items():
        one = model.embed(folder/name)
        np.testing.assert_allclose(one[0], v[names.index(shown)], atol=1e-5)


@pytest.mark.parametrize('stops', ['write_text', 'np.save', 'replace'])
def test_vectors_and_names_are_replaced_together(tmp_path, monkeypatch, stops):
    "A fault while one is written leaves the older two as they were"
    cli.write_npy(str(tmp_path/'v.npy'), np.zeros((2, 3)), ['a', 'b'])
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert set(before) == {'v.npy', 'v.names.txt'}

    def fail(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    where = dict([('write_text', (cli.Path, 'write_text')), ('np.save', (np, 'save')),
                  ('replace', (os, 'replace'))])
    with monkeypatch.context() as m, pytest.raises(ReplearnError, match='No space'):
        m.setattr(*where[stops], fail)
        cli.write_npy(str(tmp_path/'v.npy'), np.ones((3, 3)), ['a', 'b', 'c'])
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_embed_refuses_where_it_can_not_write(replearn, rep, photos, tmp_path,
                                              monkeypatch):
    "Before the work: nothing is embedded"
    monkeypatch.setattr(Representation, 'load', None)
    (tmp_path/'file').touch()
    (tmp_path/'d.npy').mkdir()
    (tmp_path/'e.names.txt').mkdir()
    for out, says in {'file/v.npy': 'file is a file', 'd.npy': 'd.npy: it is a folder',
                      'e.npy': 'e.names.txt: it is a folder'}.items():
        code, _, err = replearn('embed', rep, photos/'flat', '-o', tmp_path/out)
        assert code == 1 and says in sentence(err)
    monkeypatch.setattr(os, 'access', lambda *_: False)  # as root may do all
    code, _, err = replearn('embed', rep, photos/'flat', '-o', tmp_path/'n/o/v.npy')
    assert code == 1 and 'no permission to write' in sentence(err)


def test_upper_case_endings(replearn, rep, photos, tmp_path):
    code, _, err = replearn('embed', rep, photos/'flat'/'1.png', '-o', tmp_path/'V.NPY')
    assert code == 0 and np.load(tmp_path/'V.NPY').shape == (1, 256), err
    assert (tmp_path/'V.names.txt').read_text() == f"{photos/'flat'/'1.png'}\n"


def test_embed_says_what_is_left_out(replearn, rep, photos, tmp_path):
    shutil.copytree(photos/'flat', tmp_path/'d')
    (tmp_path/'d'/'3.png').write_text('damaged')
    (tmp_path/'d'/'4.heic').touch()
    code, said, err = replearn('embed', rep, tmp_path/'d', '-o', tmp_path/'v.npy')
    assert code == 0 and said.strip().endswith('1 left out')
    assert "1 of 60 images can't be read and are skipped: 3.png" in err
    assert 'not taken for images, by the ends of their names: 4.heic' in err
    assert len((tmp_path/'v.names.txt').read_text().split()) == 59


TABLE = 'id,comment,canonical_smiles\na,a good film,CCO\nb,,CCN\nc,a bad film,C1\n'


@pytest.mark.parametrize('kind, option, column, want', [
    ('text', '--text-col', 'comment', ['0', '2']),
    ('molecules', '--smiles-col', 'canonical_smiles', ['CCO', 'CCN'])])
def test_embed_a_column(replearn, tmp_path, monkeypatch, kind, option, column, want):
    "The column that is named, and names that lead back to the rows"
    if kind == 'molecules':
        pytest.importorskip('rdkit')
        from replearn_nb.data.molecules import MoleculePreprocessing as Preprocessing
        pre = Preprocessing()
    else:
        from replearn_nb.data.text import TextPreprocessing, WordPieces
        pieces = '[PAD] [UNK] [CLS] [SEP] [MASK] a good bad film'.split()
        pre = TextPreprocessing(WordPieces('\n'.join(pieces).encode()), 9)

    class Network(torch.nn.Linear):
        num_features = 1

        def forward(self, x):
            return torch.ones(len(x), 1)

    made = Representation(Network(1, 1), pre)
    made.save(tmp_path/'rep')
    monkeypatch.setattr(Representation, 'load', lambda where: made)
    (tmp_path/'t.csv').write_text(TABLE)
    args = 'embed', tmp_path/'rep', tmp_path/'t.csv', '-o', tmp_path/'v.npy'
    code, said, err = replearn(*args, option, column)
    assert code == 0 and f'{len(want)} vectors' in said and 'left out' in said, err
    assert (tmp_path/'v.names.txt').read_text().split() == want
    code, _, err = replearn(*args, option, 'nothing')
    assert code == 1 and 'no column nothing; its columns are: id, comment' in err
    other = '--smiles-col' if kind == 'text' else '--text-col'
    code, _, err = replearn(*args, other, column)
    assert code == 2 and sentence(err) == (
        f"replearn embed {tmp_path/'rep'} has no option {other}: choose --out, "
        f'--device, --bs, {option}')


@pytest.mark.parametrize('encoding', ['ascii', 'cp1252', 'cp437', 'utf-8'])
def test_any_encoding_of_the_terminal(rep, photos, tmp_path, encoding):
    "A real process: what the terminal has no sign for becomes a question mark"
    out = tmp_path/'Ünï 图.npy'
    program = 'from replearn_nb.cli import main; main()'
    done = subprocess.run(
        [sys.executable, '-c', program, 'embed', rep, photos/'flat'/'1.png', '-o', out],
        env=os.environ | {'PYTHONIOENCODING': encoding}, capture_output=True)
    assert done.returncode == 0, done.stderr
    want = str(out).encode(encoding, 'replace')
    assert b'1 vectors of 256 numbers in ' + want in done.stdout


def test_transfer(replearn, rep, photos, tmp_path):
    code, out, err = replearn('transfer', rep, '--data', photos/'classes', '--out',
                              tmp_path/'t')
    assert code == 0, err
    report = json.loads((tmp_path/'t'/'report.json').read_text())
    assert report['recipe'] == 'transfer'
    assert {s['method'] for s in report['scores']} == {
        'raw+linear', 'raw+knn', 'random+linear', 'simclr+knn', 'simclr+linear'}


def test_transfer_scores_no_data_that_nobody_named(
        replearn, rep, tmp_path, monkeypatch):
    "A preset has data of its own; a saved representation is scored on what is asked"
    monkeypatch.chdir(tmp_path)
    code, _, err = replearn('transfer', rep)
    assert code == 2 and "Missing option '--data'" in err
    assert not (tmp_path/'runs').exists()


def sentence(err):
    "What was said, if it is one line, after lines of progress"
    lines = [o for o in err.splitlines() if not re.match(r'[\w -]+: \d+/\d+', o)]
    assert len(lines) == 1 and 'Traceback' not in err, err
    return lines[0]


@pytest.mark.parametrize('args, says', [
    (('run', 'simclr', '--data', 'no/such/folder'), 'no/such/folder'),
    (('run', 'simclr', '--data', '{empty}'), 'no image'),
    (('run', 'simclr', '--data', '{flat}', '--labels', 'no.csv'), 'no.csv'),
    (('run', 'simclr', '--data', '{flat}', '--labels', '{wrong}'), 'colour, when'),
    (('run', 'simclr', '--data', '{labels}'), 'labels.csv'),
    *((('run', c.name, '--preset', 'huge'),
       "no preset 'huge': choose tiny or quick or medium or full")
      for c in BOOK if c.recipe),
    (('run', 'simclr', '--epochs', '0'), 'epochs must be at least 1, not 0'),
    (('run', 'simclr', '--device', 'abacus'), "no device 'abacus'"),
    (('run', 'simclr', '--out', '{labels}'), 'labels.csv'),
    (('embed', '{rep}', 'no/such'), 'There is no file or folder no/such'),
    (('embed', '{rep}', '{empty}'), 'no image'),
    (('embed', '{rep}', '{flat}', '-o', 'v.csv'), '.npy or .parquet'),
    (('embed', '{empty}', '{flat}'), 'holds no representation'),
    (('embed', '{labels}', '{flat}'), 'is a file: name the folder'),
    (('embed', '{sound}', '{flat}'), "card.json: This replearn_nb knows no modality"),
    (('transfer', '{sound}', '--help'), "knows no modality 'sound': if you defined it"),
    (('embed', '{silent}', '{flat}'), "card.json lacks the field 'modality'"),
    (('embed', 'nowhere', '{flat}'), "There is no folder 'nowhere'"),
    (('transfer', 'nowhere', '--data', '{flat}'), "There is no folder 'nowhere'"),
    (('transfer', '{rep}', '--data', '{flat}'),
     'flat has no labels to score with: give --labels'),
    (('show', '{empty}'), 'report.json'),
])
def test_wrong_input(replearn, photos, rep, tmp_path, monkeypatch, args, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'empty').mkdir()
    (tmp_path/'wrong.csv').write_text('colour,when\nred,now\n')
    card = json.loads((rep/CARD).read_text())
    del card['modality']
    for name, own in dict(sound=dict(modality='sound'), silent={}).items():
        shutil.copytree(rep, tmp_path/name)
        (tmp_path/name/CARD).write_text(json.dumps(card | own))
    places = dict(empty=tmp_path/'empty', flat=photos/'flat', rep=rep,
                  labels=photos/'labels.csv', wrong=tmp_path/'wrong.csv',
                  sound=tmp_path/'sound', silent=tmp_path/'silent')
    code, _, err = replearn(*[a.format(**places) for a in args])
    assert code == 1 and says in sentence(err)
    made = {'empty', 'wrong.csv', 'sound', 'silent', 'runs'}
    left = {p.name for p in tmp_path.iterdir()} - made
    assert not left, 'nothing is left behind'
    assert not (tmp_path/'runs').exists() or not any((tmp_path/'runs').iterdir())


@pytest.mark.parametrize('args, says', [
    (('run', 'labels', '--epochs', '3'),
     'replearn run labels has no option --epochs: choose --preset, --out, --seed, '
     '--seeds, --device, --images, --animals, --study-steps, --draws, '
     '--network-draws, --width, --steps'),
    (('run', '--epochs', '3', 'simclr'),
     'replearn run has no option --epochs: give it after RECIPE'),
    (('embed', '-o', 'v.npy', '{rep}', '.'),
     'replearn embed has no option -o: give it after REPRESENTATION'),
    (('embed', '{rep}', '.', '--text-col', 't'),
     'replearn embed {rep} has no option --text-col: choose --out, --device, --bs'),
    (('transfer', '{rep}', '--data', 'x.csv', '--text-col', 't'),
     'replearn transfer {rep} has no option --text-col: choose --data, --labels, '
     '--out, --seed, --device'),
    (('show', '--wide', 'r'), 'replearn show has no option --wide: choose --help'),
    (('--loud', 'list'), 'replearn has no option --loud: choose --debug'),
])
def test_a_wrong_option_is_told_which_are_right(replearn, rep, args, says):
    code, _, err = replearn(*[a.format(rep=rep) for a in args])
    assert code == 2 and sentence(err) == says.format(rep=rep)


@pytest.mark.parametrize('args', [
    (), ('run',), ('run', 'nothing'), ('run', 'simclr', '--epochs', 'many'),
    ('embed',), ('fly',), ('transfer',), ('show',)])
def test_wrong_command_line(replearn, args):
    code, out, err = replearn(*args)
    assert code == 2 and 'Traceback' not in out + err


@pytest.mark.parametrize('args', [
    (), ('run',), ('run', 'simclr'), ('list',), ('show',), ('embed',), ('transfer',),
    ('embed', '{rep}'), ('transfer', '{rep}')])
def test_help_has_an_example(replearn, rep, args):
    code, out, _ = replearn(*[a.format(rep=rep) for a in args], '--help')
    assert code == 0 and ('Example' in out or not args)


def test_help_shows_the_options_of_the_modality(replearn, rep):
    "And those of no other: these are images"
    for command, has in dict(transfer={'--data', '--labels', '--seed'},
                             embed={'--out', '--bs'}).items():
        _, out, _ = replearn(command, rep, '--help')
        assert has <= set(re.findall(r'--[a-z-]+', out))
        assert not re.search('--(text|smiles|label)-col', out)
    _, out, _ = replearn('transfer', rep, '--help')
    said = ' '.join(re.sub('[│╭─╮╰╯]', ' ', out).split())
    assert 'a CSV of files and labels, for a folder' in said  # the comment beside it


MODALITY = """
import torch
from replearn_nb.core import Preprocessing, builds

class Dots(Preprocessing):
    kind = 'dots'

    def count(self, items, every: int = 1):
        return len(self.lines(items)[::every])

    def batches(
        self, items, bs=256, skipped=None,
        every: int = 1,  # take each nth line only
    ):
        for i, line in list(enumerate(self.lines(items)))[::every]:
            yield [f'line {i}'], self.prepare([line])

    def lines(self, items):
        return items.read_text().splitlines()

    def prepare(self, items):
        return torch.tensor([[float(o.count('.'))] for o in items])

    @classmethod
    def from_dict(cls, d):
        cls.check(d)
        return cls()

@builds
def dots_encoder(scale: float):
    net = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(net.weight, scale)
    torch.nn.init.zeros_(net.bias)
    net.num_features = 1
    return net
"""


class Shown:
    "A report"
    folder = 'here'

    def show(self, console):
        console.print('scored', self.scored)


def test_a_modality_of_somebodys_own(replearn, tmp_path, monkeypatch):
    "A module outside the package: saved, loaded, embedded and scored"
    for known, name in [(core.Preprocessing.known, 'dots'),
                        (core.BUILDERS, 'my_dots.dots_encoder')]:
        monkeypatch.setitem(known, name, None)  # taken out again at the end
    (tmp_path/'my_dots.py').write_text(MODALITY)
    monkeypatch.syspath_prepend(tmp_path)
    my_dots = importlib.import_module('my_dots')
    rep = Representation(my_dots.dots_encoder(2.), my_dots.Dots())
    rep.save(tmp_path/'r')
    (tmp_path/'items').write_text('.\n..\n....\n')
    want = np.array([[2], [4], [8]], np.float32)
    again = Representation.load(tmp_path/'r')
    assert type(again.preprocessing) is my_dots.Dots
    assert np.array_equal(again.embed(tmp_path/'items', device='cpu'), want)

    args = 'embed', tmp_path/'r', tmp_path/'items', '-o', tmp_path/'v.npy'
    code, said, err = replearn(*args, '--every', 2)
    assert code == 0 and '2 vectors' in said, err
    assert np.array_equal(np.load(tmp_path/'v.npy'), want[::2])
    assert (tmp_path/'v.names.txt').read_text() == 'line 0\nline 2\n'
    assert 'take each nth line only' in replearn('embed', tmp_path/'r', '--help')[1]

    code, _, err = replearn('transfer', tmp_path/'r', '--data', 'd')
    assert (code, err) == (1, 'No recipe scores representations of dots')

    def score(rep, data: str, sharp: bool = False):  # a folder of dots
        "Score dots"
        Shown.scored = f'{rep.preprocessing.kind} {data} {sharp}'
        return Shown()

    recipe = types.ModuleType('replearn_nb.recipes.dotted')
    recipe.transfer = score
    monkeypatch.setitem(sys.modules, recipe.__name__, recipe)
    entry = Chapter('dotted', 'Dots', 'Dots.', 1, '', scores='dots')
    monkeypatch.setattr(cli, 'BOOK', [*BOOK, entry])
    code, said, err = replearn('transfer', tmp_path/'r', '--data', 'd', '--sharp')
    assert code == 0 and 'scored dots d True' in said, err


LOADED = """
import contextlib, io, sys
from replearn_nb.cli import main
with contextlib.redirect_stdout(io.StringIO()) as out:
    try: main(sys.argv[1:])
    except SystemExit as e: assert e.code == 0, e.code
assert out.getvalue()
heavy = {'torch', 'fastai', 'numpy', 'pandas', 'matplotlib', 'sklearn'}
print(*heavy & set(sys.modules))
"""
PLAIN = """
import typer
app = typer.Typer(rich_markup_mode='markdown', add_completion=False)
@app.command(epilog='Example: `plain`')
def plain(preset: str = typer.Option('quick', help='which one')): 'Do it'
app(['--help'])
"""
AT_ONCE = [('--help',), ('list',), ('run', '--help'), ('embed', '--help'),
           ('transfer', '--help'),
           *(('run', c.name, '--help') for c in BOOK if c.recipe)]


@pytest.mark.parametrize('args', AT_ONCE, ids=' '.join)
def test_what_only_tells_imports_nothing_heavy(args):
    done = subprocess.run([sys.executable, '-c', LOADED, *args], capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def seconds(*args):
    "The shortest of three calls of a program"
    took = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, '-c', *args], capture_output=True, check=True)
        took.append(time.perf_counter() - start)
    return min(took)


def test_help_takes_about_as_long_as_any_help_of_typer():
    program, plain = 'from replearn_nb.cli import main; main()', seconds(PLAIN)
    for args in AT_ONCE[:3] + AT_ONCE[-1:]:
        took = seconds(program, *args)
        assert took < 4 * plain, f'{args}: {took:.2f} s, a plain --help {plain:.2f} s'


def test_the_table_of_options_is_up_to_date():
    "If not: python docs/options.py"
    assert cli.OPTIONS.read_text() == script('options').table()
    for c in filter(lambda c: c.recipe, BOOK):
        run = importlib.import_module(f'replearn_nb.recipes.{c.name}').run
        assert cli.recipe_options(c.name) == (cli.options_of(run), run.__doc__)


def test_a_table_of_another_source_is_not_believed(replearn, monkeypatch, tmp_path):
    "Nor one that is missing; the recipe is asked itself"
    table = json.loads(cli.OPTIONS.read_text())
    table['labels']['options'] = [['speed', 'int', 'no such', 1]]
    shown = {}
    for source in table['labels']['source'], 'another':
        table['labels']['source'] = source
        (tmp_path/'options.json').write_text(json.dumps(table))
        shutil.copy(cli.OPTIONS.with_name('labels.py'), tmp_path)
        with monkeypatch.context() as m:
            m.setattr(cli, 'OPTIONS', tmp_path/'options.json')
            shown[source] = replearn('run', 'labels', '--help')[1]
    believed, asked = shown.values()
    assert '--speed' in believed and '--speed' not in asked and '--preset' in asked
    monkeypatch.setattr(cli, 'OPTIONS', tmp_path/'none'/'options.json')
    assert '--preset' in replearn('run', 'labels', '--help')[1]


def test_options_of_a_signature_that_is_computed():
    "As a recipe's `run` may have: help stands in the annotations"
    def run(**settings):
        return settings
    run.__signature__ = inspect.Signature([
        inspect.Parameter('lr', inspect.Parameter.KEYWORD_ONLY, default=.1,
                          annotation=Annotated[float, 'learning rate']),
        inspect.Parameter('text_col', inspect.Parameter.KEYWORD_ONLY, default=None,
                          annotation=Annotated[str | None, 'the column']),
        inspect.Parameter('budgets', inspect.Parameter.KEYWORD_ONLY, default=(1, 5),
                          annotation=Annotated[tuple[int, ...], 'labels'])])
    lr, column = cli.options_of(run)
    assert lr.annotation == Annotated[float, 'learning rate'] and lr.default == .1
    assert column.name == 'text_col' and column.default is None
    found = []
    command = cli.as_command(lambda **kw: found.append(kw), [lr, column], 'Try', 'x')
    command.main(['--lr', '.5', '--text-col', 't'], standalone_mode=False)
    assert found == [dict(lr=.5, text_col='t')]


def test_debug_shows_the_traceback():
    with pytest.raises(Exception, match='no such') as e:
        cli.main(['--debug', 'show', 'no such'])
    assert type(e.value).__name__ == 'ReplearnError'


def test_interrupted_while_measuring(replearn, tmp_path, stop_at):
    "The command says how to go on, and what was learned is not learned again"
    stop_at(simclr, 'finetune', 2)
    code, _, err = replearn('run', 'simclr', '--out', tmp_path/'r')
    assert code == 1
    assert sentence(err).endswith(f"give the same command with --out {tmp_path/'r'}")
    first = Representation.load(tmp_path/'r'/'representation')
    code, _, err = replearn('run', 'simclr', '--out', tmp_path/'r')
    assert code == 0, err
    again = Representation.load(tmp_path/'r'/'representation')
    a, b = first.encoder.state_dict(), again.encoder.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert sorted(p.name for p in (tmp_path/'r').iterdir()) == [
        'figure.png', 'report.json', 'representation']


def test_ctrl_c_and_two_runs_into_one_folder(tmp_path):
    "Real processes: the second is refused, the first can be stopped by Ctrl-C"
    program = [sys.executable, '-c', 'from replearn_nb.cli import main; main()',
               'run', 'simclr', '--epochs', '500', '--out', str(tmp_path/'r')]
    env = os.environ | {'OMP_NUM_THREADS': '1'}
    pipes = dict(env=env, stderr=subprocess.PIPE, text=True)
    p = subprocess.Popen(program, **pipes)
    while not (tmp_path/'r'/'running').exists():
        assert p.poll() is None, p.stderr.read()
        time.sleep(.1)
    second = subprocess.run(program, timeout=120, **pipes)
    assert second.returncode == 1
    assert 'Another run is writing to' in second.stderr.splitlines()[-1]
    assert p.poll() is None
    p.send_signal(signal.SIGINT)
    err = p.communicate(timeout=60)[1]
    assert p.returncode == 1 and 'Traceback' not in err
    assert err.splitlines()[-1].startswith('Stopped')
    assert not (tmp_path/'r'/'running').exists()


@pytest.mark.skipif(sys.platform != 'linux' or os.getuid(), reason='needs to mount')
def test_full_disk(replearn, tmp_path):
    "A disk of 1 MB: one sentence, and no half-written file"
    disk = tmp_path/'disk'
    disk.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip('may not mount')
    try:
        code, _, err = replearn('run', 'simclr', '--out', disk/'r')
        assert code == 1 and 'No space left on device' in sentence(err)
        assert not [p for p in disk.rglob('*') if p.is_file()]
    finally:
        subprocess.run(['umount', '--lazy', str(disk)], check=True)
