"Texts: bad bytes and tables, tokens beside the peer's, rows that waste nothing"
import gzip
import json
import random
import unicodedata
from collections import Counter

import pandas as pd
import pytest
import torch

from replearn_nb.core import ReplearnError, local_seed
from replearn_nb.data import text
from replearn_nb.data.text import (
    MAX_CHARS,
    TextPreprocessing,
    WordPieces,
    decode,
    make_texts,
    own_texts,
    pack,
    read_texts,
    split_texts,
    train_sentencepieces,
    wasted,
)

WORDS = 'the cat sat on a mat and then it ran to some other mat in town'.split()


def lines(n=400, seed=0):
    rng = random.Random(seed)
    return [' '.join(rng.choices(WORDS, k=rng.randint(1, 60))) for _ in range(n)]


@pytest.fixture(scope='module')
def tok():
    return train_sentencepieces(lines(), 60)


def test_a_table_with_everything_wrong(tmp_path):
    path = tmp_path/'reviews.csv'
    rows = [b'Review,Stars', b'good,1', b'caf\xe9,1', 'café,0'.encode(), b',1',
            b'b\0ad,0', b'"two\nlines",0', b'x' * 10_000_000 + b',1']
    path.write_bytes(b'\r\n'.join(rows))
    t = read_texts(path, 'review', 'stars')
    assert t.texts[:5] == ['good', 'café', 'café', 'bad', 'two lines']
    assert len(t.texts[5]) == MAX_CHARS
    assert t.counts == {'lines not in UTF-8': 1, 'NULs': 1, 'empty, left out': 1,
                        f'cut at {MAX_CHARS:,} characters': 1}
    assert t.y.tolist() == [1, 1, 0, 0, 0, 1]


@pytest.mark.parametrize('suffix', ['csv', 'tsv', 'jsonl', 'parquet'])
def test_every_table_gives_the_same(tmp_path, suffix):
    df = pd.DataFrame(dict(text=['a "b", c', 'd\te', 'ü'], label=['1', '2', '1']))
    path = tmp_path/f't.{suffix}'
    if suffix == 'jsonl':
        df.to_json(path, orient='records', lines=True)
    elif suffix == 'parquet':
        df.to_parquet(path)
    else:
        df.to_csv(path, sep='\t' if suffix == 'tsv' else ',', index=False)
    t = read_texts(path)
    assert t.texts == ['a "b", c', 'd e', 'ü'] and t.y.tolist() == [0, 1, 0]


def test_missing_labels_are_unknown(tmp_path):
    rows = [dict(text='a', label='x'), dict(text='b'), dict(text='c', label='y'),
            dict(text=None, label='y'), dict(text='d', label=None)]
    path = tmp_path/'t.jsonl'
    path.write_text('\n'.join(map(json.dumps, rows)))
    t = read_texts(path)
    assert t.y.tolist() == [0, -1, 1, -1] and t.counts['empty, left out'] == 1


def test_errors_say_what_would_be_right(tmp_path):
    path = tmp_path/'t.csv'
    path.write_text('words,topic\na,x\n')
    with pytest.raises(ReplearnError, match='no column body; its columns are: words, '):
        read_texts(path, 'body')
    with pytest.raises(ReplearnError, match='no column text or .*; its columns are'):
        read_texts(path)
    with pytest.raises(ReplearnError, match='no column kind'):
        read_texts(path, 'words', 'kind')
    with pytest.raises(ReplearnError, match="only the class 'x'"):
        own_texts(path, 'words')
    with pytest.raises(ReplearnError, match='There is no file or folder'):
        read_texts(tmp_path/'none.csv')
    with pytest.raises(ReplearnError, match='is no table of texts'):
        read_texts(path.rename(tmp_path/'t.xls'))
    (tmp_path/'bad.jsonl').write_text('{"text": "a"}\n{oops')
    with pytest.raises(ReplearnError, match="Can't read .*bad.jsonl as jsonl"):
        read_texts(tmp_path/'bad.jsonl')
    (tmp_path/'bad.parquet').write_text('no')
    with pytest.raises(ReplearnError, match="Can't read .*bad.parquet as parquet"):
        read_texts(tmp_path/'bad.parquet')
    (tmp_path/'empty.csv').write_text('')
    with pytest.raises(ReplearnError, match="Can't read .*empty.csv"):
        read_texts(tmp_path/'empty.csv')


def rows_of(n, label=lambda i: i % 2):
    return [dict(text=f'text {i}', label=label(i)) for i in range(n)]


def as_jsonl(path, rows):
    path.write_text('\n'.join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize('value,kind', [
    (5, 'int'), (['a'], 'list'), ({'a': 1}, 'dict'), (None, 'NoneType')])
def test_what_is_no_text_or_no_label_is_named(tmp_path, value, kind):
    path = as_jsonl(tmp_path/'t.jsonl', [dict(text=value, label=1)] * 9)
    with pytest.raises(ReplearnError, match=f"'text' should hold texts, not {kind}"):
        own_texts(path)
    if kind in ('list', 'dict'):
        as_jsonl(path, rows_of(9, lambda i: value))
        with pytest.raises(ReplearnError, match=f"'label': .* not {kind}"):
            own_texts(path)


def test_bytes_lists_and_no_rows_in_parquet(tmp_path):
    path = tmp_path/'t.parquet'
    pd.DataFrame(dict(text=[b'a'] * 9)).to_parquet(path)
    with pytest.raises(ReplearnError, match="'text' should hold texts, not bytes"):
        own_texts(path)
    pd.DataFrame(dict(text=['a'] * 9, label=[[1, 2]] * 9)).to_parquet(path)
    with pytest.raises(ReplearnError, match="column 'label': A label should be a word"):
        own_texts(path)
    for name in 'none.csv', 'none.jsonl':
        (tmp_path/name).write_text('text,label\n' * name.endswith('csv'))
        with pytest.raises(ReplearnError, match=f'{name} is a table without rows'):
            own_texts(tmp_path/name)


@pytest.mark.parametrize('n', [3, 10, 200])
def test_a_label_for_each_row_is_no_class(tmp_path, n):
    path = as_jsonl(tmp_path/'t.jsonl', rows_of(n, lambda i: i))
    with pytest.raises(ReplearnError, match=f'{n} texts in {n} classes, and none is'):
        own_texts(path)


def test_whole_numbers_stay_whole_where_one_is_missing(tmp_path):
    rows = rows_of(9, lambda i: i % 3 + 1) + [dict(text='and one more')]
    t = read_texts(as_jsonl(tmp_path/'t.jsonl', rows))
    assert t.classes == ['1', '2', '3'] and t.y[-1] == -1
    pd.DataFrame(rows).to_parquet(tmp_path/'t.parquet')
    assert read_texts(tmp_path/'t.parquet').classes == ['1', '2', '3']


def test_zipped_tables_and_files_without_columns(tmp_path):
    path = tmp_path/'t.csv.gz'
    path.write_bytes(gzip.compress(b'text,label\na,x\nb,y\n'))
    assert read_texts(path).texts == ['a', 'b']
    (tmp_path/'t.txt').write_text('a\nb\nc\n')
    for given in dict(text_col='words'), dict(label_col='words'):
        for where in tmp_path/'t.txt', tmp_path:
            with pytest.raises(ReplearnError, match="no columns, so none .* 'words'"):
                own_texts(where, **given)


def test_a_folder_with_parts_and_classes(tmp_path):
    for part, n in dict(train=6, test=3).items():
        for c in 'neg', 'pos':
            (tmp_path/part/c).mkdir(parents=True)
            for i in range(n):
                (tmp_path/part/c/f'{i}.txt').write_text(f'{part} {c} {i}')
    (tmp_path/'train'/'pos'/'empty.txt').write_text(' ')
    (tmp_path/'unlabelled').mkdir()
    (tmp_path/'unlabelled'/'0.txt').write_bytes(b'\xff\xfeh\0i\0')
    s = own_texts(tmp_path)
    assert s.texts.classes == ['neg', 'pos'] and len(s.test) == 6
    assert all(t.startswith('test') for t in s.part('test')[0])
    assert 'hi' in s.part('unlabelled')[0] and len(s.train) + len(s.valid) == 12


def test_more_unlabelled_texts(tmp_path, capsys):
    (tmp_path/'t.csv').write_text('text,label\n' + ''.join(
        f'text {i},{i % 2}\n' for i in range(20)))
    (tmp_path/'more.txt').write_text('one more\n\nand another\n')
    s = own_texts(tmp_path/'t.csv', unlabelled=tmp_path/'more.txt')
    assert s.part('unlabelled')[0][-2:] == ['one more', 'and another']
    assert 'empty, left out' in capsys.readouterr().err
    (tmp_path/'more.csv').write_text('body,text\nno,of another column\n')
    s = own_texts(tmp_path/'t.csv', 'text', unlabelled=tmp_path/'more.csv')
    assert s.part('unlabelled')[0][-1] == 'of another column'


def test_more_texts_leave_the_split_and_its_hash(tmp_path):
    "So that `transfer` notices what pre-training saw, whatever else it read"
    (tmp_path/'t.csv').write_text('text,label\n' + ''.join(
        f'text {i},{i % 2}\n' for i in range(40)))
    (tmp_path/'more.txt').write_text('one more\nand another\ntext 3')
    more = own_texts(tmp_path/'t.csv', unlabelled=tmp_path/'more.txt', seed=1)
    alone = own_texts(tmp_path/'t.csv', seed=1)
    assert more.hash == alone.hash and len(more.unlabelled) > len(alone.unlabelled)
    for part in 'train', 'valid', 'test':
        assert more.part(part)[0] == alone.part(part)[0]
    (tmp_path/'t.csv').write_text((tmp_path/'t.csv').read_text() + 'text 40,0\n')
    assert own_texts(tmp_path/'t.csv', seed=1).hash != alone.hash


def test_no_text_is_in_two_parts(tmp_path, capsys):
    "Whether it stands twice in a table or in the texts that were added"
    rows = [f'text {i % 40},{i % 2}\n' for i in range(100)] + ['text 1,0\n']
    (tmp_path/'t.csv').write_text('text,label\n' + ''.join(rows))
    (tmp_path/'more.txt').write_text('\n'.join(f' text {i} ' for i in range(90)))
    s = own_texts(tmp_path/'t.csv', unlabelled=tmp_path/'more.txt')
    parts = [s.part(p)[0] for p in ('unlabelled', 'valid', 'test')]
    assert [len(p) for p in parts] == [79, 3, 8]
    assert len(set(sum(parts, []))) == 90
    assert all(int(t.split()[1]) % 2 == y for t, y in zip(*s.part('test'), strict=True))
    said = capsys.readouterr().err
    assert '100 copies, left out' in said and '1 copies with another label' in said


def test_a_copy_with_a_label_is_kept_and_parts_stay_apart(tmp_path):
    for i, part in enumerate(('train', 'test', 'unlabelled')):
        for c in ('neg', 'pos') if part != 'unlabelled' else ('x',):
            (tmp_path/part/c).mkdir(parents=True)
            for k in range(9):
                (tmp_path/part/c/f'{k}.txt').write_text(f'{c} {9 * i + k}')
            (tmp_path/part/c/'again.txt').write_text(f'the same in {c}')
    (tmp_path/'unlabelled'/'x'/'neg.txt').write_text('the same in neg')
    s = own_texts(tmp_path)
    read, scored = s.part('unlabelled')[0], s.part('test')[0] + s.part('valid')[0]
    assert not set(read) & set(scored) and 'the same in neg' in scored
    assert len(s.test) == 20 and 'the same in x' in read


def test_splits_share_nothing_and_repeat():
    t = make_texts(lines(200), [f'c{i % 3}' for i in range(150)] + [''] * 50)
    a, b = split_texts(t, seed=3), split_texts(t, seed=3)
    assert a.hash == b.hash and all(
        torch.equal(getattr(a, p), getattr(b, p)) for p in ('train', 'valid', 'test'))
    parts = [set(getattr(a, p).tolist()) for p in ('unlabelled', 'valid', 'test')]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and len(parts[0]) == 158
    assert set(a.train.tolist()) <= parts[0]
    assert not torch.equal(a.test, split_texts(t, seed=4).test)


def test_without_labels_there_is_something_to_validate_on():
    s = split_texts(make_texts(lines(50)))
    assert len(s.valid) == 5 and len(s.test) == len(s.train) == 0


@pytest.mark.parametrize('kind', ['short', 'long', 'all just over half', 'mixed'])
@pytest.mark.parametrize('max_len', [64, 128, 512])
def test_packing_wastes_two_percent_at_most_and_loses_nothing(tok, kind, max_len):
    rng = random.Random(0)
    length = {'short': lambda: rng.randint(1, 12), 'mixed': lambda: int(
        rng.lognormvariate(4, 1.2)) + 1, 'long': lambda: rng.randint(400, 3000),
        'all just over half': lambda: max_len // 2 + 5}[kind]
    n = {'long': 200, 'short': 20_000}.get(kind, 3000)
    texts = [[rng.randint(3, tok.mask - 1) for _ in range(length())] for _ in range(n)]
    ids, doc = pack(texts, max_len, tok)
    assert wasted(doc) <= .02
    inner = ids[(doc > 0) & (ids != tok.cls) & (ids != tok.sep)]
    assert Counter(inner.tolist()) == Counter(i for t in texts for i in t)
    starts = (ids == tok.cls).sum()
    assert starts == (ids == tok.sep).sum() == doc.max(1).values.sum()
    assert ((ids == tok.pad) == (doc == 0)).all()


@pytest.mark.parametrize('max_len,length', [(64, 60), (32, 28), (16, 12), (8, 4)])
def test_two_free_slots_in_each_short_row_are_too_many(tok, max_len, length):
    ids, doc = pack([[9] * length] * 300, max_len, tok)
    assert wasted(doc[:-1]) <= .02 and (ids == 9).sum() == 300 * length


@pytest.mark.parametrize('max_len', [3, 5, 7, 16, 33, 64, 100])
@pytest.mark.parametrize('longest', [1, 2, 9, 70])
def test_what_may_stay_free_in_short_rows(tok, max_len, longest):
    "2% of all rows but the last, and what lies beside texts of one or two pieces"
    rng = random.Random(max_len + longest)
    texts = [[9] * rng.randint(1, longest) for _ in range(300)]
    ids, doc = pack(texts, max_len, tok)
    assert (ids == 9).sum() == sum(map(len, texts))
    free = (doc == 0).sum(1)[:-1]
    tiny = torch.tensor([row[row > 0].bincount().max() < 5 for row in doc[:-1]])
    assert free[~tiny].sum() <= .02 * max_len * len(free) + 1e-6 and (free < 3).all()


def test_batches_repeat_from_a_seed(tok):
    t = split_texts(make_texts(lines(200), ['a', 'b'] * 100))
    orders = []
    for seed in 5, 5, 6:
        dls = t.dls(4, tok, 32, 'cpu')
        dls.train.rng.seed(seed)
        orders.append(torch.cat([x for x, _ in dls.train]))
    assert torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], orders[2])


def test_sentencepieces_are_the_same_on_every_run(tok):
    assert tok.data == train_sentencepieces(lines(), 60).data
    t = 'then it ran to town'
    assert tok.decode(tok.encode([t])[0]) == t
    ids = [tok.pad, tok.unk, tok.cls, tok.sep, tok.mask]
    assert len(set(ids)) == 5 and max(ids) == tok.vocab_size - 1
    assert tok.pieces([tok.mask, tok.cls]) == ['[MASK]', '[CLS]']


def test_a_vocabulary_of_very_many_texts_is_that_of_some(monkeypatch):
    few, some = lines()[:200], ['0 1 2 3 4 5 6 7 8 9'] * 200
    both = [t for pair in zip(few, some, strict=True) for t in pair]
    of_few, of_both = (train_sentencepieces(t, 60).data for t in (few, both))
    monkeypatch.setattr(text, 'ENOUGH', sum(map(len, both)) // 2 + 1)
    assert train_sentencepieces(both, 60).data == of_few != of_both


def test_too_little_text_for_a_vocabulary():
    with pytest.raises(ReplearnError, match='finds no vocabulary in 0 texts'):
        train_sentencepieces([], 50)


def peer(pieces, lower):
    transformers = pytest.importorskip('transformers')
    return transformers.BertTokenizer(
        vocab={p: i for i, p in enumerate(pieces)}, do_lower_case=lower)


@pytest.mark.parametrize('lower', [True, False])
def test_wordpieces_equal_the_peers(lower):
    special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
    letters = [chr(c) for c in range(33, 127)] + ['é', 'ü', '你', '—']
    words = ['the', 'The', 'un', 'able', 'naive', 'naïve', 'ing']
    pieces = special + letters + words + [
        f'##{o}' for o in letters + words if o not in '你—']
    ours = WordPieces('\n'.join(pieces).encode(), lower)
    for t in ['The unable, naïve Naive!', "don't $5.00 (walking)", 'x你好 — y\tz\n',
              'È ü ǆ', 'a' * 101 + ' ok', '', 'zero\u200bwidth \u00a0 é', 'A~B`C^D']:
        want = peer(pieces, lower)(t, add_special_tokens=False)['input_ids']
        assert ours.encode([t])[0] == want, t


def test_a_vocabulary_without_mask_is_refused():
    with pytest.raises(ReplearnError, match=r'has no \[MASK\]'):
        WordPieces(b'[PAD]\n[UNK]\n[CLS]\n[SEP]\nword')


def test_empty_and_long_texts_are_said(tok, capsys):
    pre, skipped, got = TextPreprocessing(tok, 10), [], []
    for names, x in pre.batches(['the cat', '\0 ', 'mat ' * 99], 1, skipped):
        got += names
        assert x.shape[1] <= 10
    assert got == ['0', '2'] and skipped[0][0] == '1'
    assert '1 are empty and left out, 1 are cut at 10' in capsys.readouterr().err
    with pytest.raises(ReplearnError, match='None of 2 texts'):
        list(pre.batches(['', ' ']))
    with pytest.raises(ReplearnError, match='item 1 is int'):
        list(pre.batches(['a', 3]))


def test_docstrings_are_read_in_the_same_order_without_a_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(text.pooch, 'os_cache', lambda name: tmp_path)
    found = [(f'word {i} of the module {i % 2}', f'm{i % 2}') for i in range(400)]
    times = []

    def read():
        times.append(1)
        return found
    monkeypatch.setattr(text, 'read_docstrings', read)
    a = text.docstrings()
    assert text.docstrings().hash == a.hash and a.texts.classes == ['m0', 'm1']
    assert len(a.unlabelled) > len(a.train) and len(times) == 1  # pydoc's topics
    monkeypatch.setattr(text, 'MAX_CHARS', 50_000)  # other texts than before
    text.docstrings()
    assert len(times) == 2


def test_another_library_has_another_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(text.sysconfig, 'get_paths', lambda: dict(stdlib=tmp_path))
    hashes = []
    for name in 'shelf.py', 'shelf.py', 'box.py':
        (tmp_path/name).write_text('"Things put away so that they are found again"\n')
        hashes.append(text._library_hash())
    assert hashes[0] == hashes[1] != hashes[2]


def embedded(tok, items, **given):
    "Names, texts as the encoder sees them, and what was skipped"
    pre, skipped = TextPreprocessing(tok, 64), []
    rows = [(n, tok.decode(r)) for names, x in pre.batches(
        items, 2, skipped, **given) for n, r in zip(names, x.tolist(), strict=True)]
    assert pre.count(items, **given) == len(rows) + len(skipped)
    return dict(rows), [n for n, _ in skipped]


def test_names_are_those_of_the_rows_and_files(tok, tmp_path, capsys):
    "Whatever is left out before them"
    texts = ['the cat', '', 'a mat', '  ', 'it ran', '\x07']
    want = {'0': 'the cat', '2': 'a mat', '4': 'it ran'}
    (tmp_path/'t.csv').write_text('id,text\n' + ''.join(f'x,{t}\n' for t in texts))
    (tmp_path/'t.txt').write_text('\n'.join(texts) + '\n')
    as_jsonl(tmp_path/'t.jsonl', [dict(text=t or None, n=1) for t in texts])
    for name in 't.csv', 't.txt', 't.jsonl':
        assert embedded(tok, tmp_path/name) == (want, ['1', '3', '5'])
        assert read_texts(tmp_path/name).names == list(want)
    assert '1 with control characters' in capsys.readouterr().err
    assert embedded(tok, texts) == (want, ['1', '3', '5'])
    for i, t in enumerate(texts):
        (tmp_path/'d'/'ab'[i % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path/'d'/'ab'[i % 2]/f'{i}.TXT').write_text(t)
    assert embedded(tok, tmp_path/'d') == (
        {f'a/{i}.TXT': t for i, t in want.items()}, ['b/1.TXT', 'b/3.TXT', 'b/5.TXT'])


def test_names_follow_the_texts_when_copies_go(tmp_path):
    (tmp_path/'t.csv').write_text('text,label\na,\n,x\nb,y\na,x\nb,x\nc,x\n')
    t = text.without_copies(read_texts(tmp_path/'t.csv'))
    assert list(zip(t.texts, t.names, strict=True)) == [
        ('b', '2'), ('a', '3'), ('c', '5')]


def test_only_a_path_is_a_path(tok, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'mat').mkdir()
    (tmp_path/'mat'/'t.txt').write_text('the cat')
    assert embedded(tok, 'mat') == ({'0': 'mat'}, [])
    assert embedded(tok, tmp_path/'mat') == ({'t.txt': 'the cat'}, [])


def test_the_column_to_embed_is_named(tok, tmp_path):
    path = tmp_path/'t.csv'
    path.write_text('comment,label\nthe cat,x\na mat,y\n')
    assert embedded(tok, path, text_col='Comment')[0] == {'0': 'the cat', '1': 'a mat'}
    with pytest.raises(ReplearnError, match='no column text or .*columns are: comment'):
        embedded(tok, path)
    (tmp_path/'t.txt').write_text('a\n')
    with pytest.raises(ReplearnError, match='has no columns, so none is called'):
        embedded(tok, tmp_path/'t.txt', text_col='comment')


def test_labels_have_one_rule(tmp_path, capsys):
    nfd = unicodedata.normalize('NFD', 'Früchte')
    labels = ['1', '1.0', '0', '0.0', 'nan', 'N/A', '', 'Früchte', nfd]
    path = tmp_path/'t.csv'
    path.write_text('text,label\n' + ''.join(
        f'text {i},{o}\n' for i, o in enumerate(labels * 4)))
    s = own_texts(path)
    assert s.texts.classes == ['0', '1', 'Früchte']
    assert s.texts.y.tolist()[:9] == [1, 1, 0, 0, -1, -1, -1, 2, 2]
    assert 't.csv: 12 labels missing (N/A, nan)' in capsys.readouterr().err
    for i in range(9):  # folders too: some file systems keep names in NFD
        for c in 'Gemüse', nfd, 'Früchte', 'none':
            (tmp_path/'d'/str(i)/c).mkdir(parents=True)
            (tmp_path/'d'/str(i)/c/'t.txt').write_text(f'{c} {i} {c == nfd}')
    t = read_texts(tmp_path/'d')
    assert t.classes == ['Früchte', 'Gemüse']
    assert t.counts == {'labels missing (none)': 9}


def test_a_column_of_labels_with_another_name_is_asked_for(tmp_path, capsys):
    path = tmp_path/'t.csv'
    body = ''.join(f'text {i},{"ab"[i % 2]}\n' for i in range(30))
    for name in 'label', 'Labels', 'sentiment', 'CATEGORY', 'class', 'topic', 'target':
        path.write_text(f'review,{name}\n{body}')
        assert own_texts(path).n_classes == 2
    assert not capsys.readouterr().err
    path.write_text(f'review,stars\n{body}')
    assert own_texts(path).n_classes == 0
    said = capsys.readouterr().err
    assert 't.csv is read without labels' in said and '--label-col' in said
    assert said.rstrip().endswith('review, stars') and said.count('\n') == 1
    assert own_texts(path, label_col='stars', unlabelled=path).n_classes == 2
    path.write_text(f'text\n{body}'.replace(',', ' '))
    own_texts(path)
    path.write_text(f'review,stars\n{body}')
    text.listed(path)
    assert 'without labels' not in capsys.readouterr().err


def test_numbers_among_texts_are_texts(tmp_path):
    values = ['a', 1.5, 7, None, '', True, ['b'], {'c': 1}, float('nan')]
    path = as_jsonl(tmp_path/'t.jsonl', [dict(text=v) for v in values])
    t = read_texts(path)
    assert t.texts == ['a', '1.5', '7'] and t.names == ['0', '1', '2']
    assert t.counts == {'neither text nor number, left out': 3, 'empty, left out': 3}
    assert text.listed(path)[0] == ['a', '1.5', '7', '', '', '', '', '', '']


@pytest.mark.parametrize('end', ['\n', '\r\n', '\r'])
def test_a_text_per_line_whatever_ends_it(tmp_path, end):
    for last in '', end:
        lines = end.join(map(str, range(2000))) + last
        (tmp_path/'t.txt').write_bytes(lines.encode())
        t = read_texts(tmp_path/'t.txt')
        assert t.texts == list(map(str, range(2000))) and not t.counts


def test_other_encodings_are_refused_in_files_and_folders(tmp_path):
    (tmp_path/'a.txt').write_text('добрый день\n' * 9, encoding='koi8-r')
    for path in tmp_path/'a.txt', tmp_path:
        with pytest.raises(ReplearnError, match=r'not in UTF-8 \(9 of 9 lines\): save'):
            read_texts(path)
    (tmp_path/'a.txt').write_bytes('good\nday'.encode('utf-16-le'))
    with pytest.raises(ReplearnError, match='perhaps in UTF-16 without a byte order'):
        read_texts(tmp_path/'a.txt')


def test_hidden_folders_hold_no_texts(tmp_path):
    for folder in '.ipynb_checkpoints', 'a', 'b':
        (tmp_path/folder).mkdir()
        (tmp_path/folder/'t.txt').write_text(folder)
        (tmp_path/folder/'._t.txt').write_text('of a Mac')
    assert read_texts(tmp_path).texts == ['a', 'b']


def test_decode_leaves_good_text_alone():
    with local_seed(0):
        good = ''.join(chr(c) for c in torch.randint(32, 0x2000, (500,)).tolist())
    assert decode(good.encode()) == good


CHARACTERS = [*'abcXYZ,.!?-[', '\u00a0', '\t', '\n', '  ', '\u2028', 'e\u0301', 'é',
              '½', 'ﬁ', '你', '😀', 'Σ', 'ΟΣ', 'İ', 'ß', '…', '\u200b', '\0', '\7',
              '한', '\ufeff', '▁', 'ｱ', 'ﾞ', 'अनु', '\u00ad', 'ﷺ', 'A\u030a\u0323']


def tokenizers(tok):
    letters = [chr(c) for c in range(33, 127)]
    pieces = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *letters, 'the', 'cat',
              *(f'##{o}' for o in letters), '##é', '你', 'é', 'σ', '##ς', '##σ', '한']
    return tok, *(WordPieces('\n'.join(pieces).encode(), o) for o in (True, False))


def test_offsets_give_the_same_pieces_in_order(tok):
    rng = random.Random(0)
    for _ in range(1500):
        t = ''.join(rng.choices(CHARACTERS, k=rng.randint(0, 14)))
        for o in tokenizers(tok):
            ids, spans = o.offsets(t)
            assert ids == o.encode([t])[0] and len(ids) == len(spans)
            assert all(0 <= a <= b <= len(t) for a, b in spans)
            assert [a for a, _ in spans] == sorted(a for a, _ in spans)


@pytest.mark.parametrize('t', [
    '  The\u00a0cat \t\n sat,  on\u2028a mat. ', 'x' * 300,
    'The cafe\u0301 ½ – 你好吗 😀!',
    '', ' \n', "don't (stop)!?"])
def test_offsets_cover_every_character_that_is_no_space(tok, t):
    for o in tokenizers(tok):
        _, spans = o.offsets(t)
        covered = sorted({k for a, b in spans for k in range(a, b)})
        assert ''.join(t[k] for k in covered) == ''.join(t.split())


def test_a_piece_stands_where_it_says(tok):
    "Each piece, written by itself, is the text between its offsets"
    t = 'The cat sat on a mat,\n and then\u00a0 IT ran to the caté! '
    for o in tokenizers(tok):
        ids, spans = o.offsets(t)
        for i, (a, b) in zip(ids, spans, strict=True):
            piece = o.pieces([i])[0].lstrip('▁').removeprefix('##')
            if i != o.unk:
                lower = getattr(o, 'lower', False)
                text = t[a:b].lower().replace('é', 'e') if lower else t[a:b]
                assert text == piece
    ids, spans = tokenizers(tok)[1].offsets('cafe\u0301s ΟΔΟΣ')
    assert ('cafe\u0301s ΟΔΟΣ'[slice(*spans[3])], spans[-1][1]) == ('e\u0301', 11)


def test_a_model_that_writes_bytes_has_no_offsets():
    import io

    from sentencepiece import SentencePieceTrainer
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines()), model_writer=model, vocab_size=320,
        byte_fallback=True, hard_vocab_limit=False, minloglevel=2)
    o = text.SentencePieces(model.getvalue())
    assert o.offsets('the cat')[0] == o.encode(['the cat'])[0]
    with pytest.raises(ReplearnError, match='writes unknown characters as bytes'):
        o.offsets('the 😀')


def test_a_file_beside_the_folders_of_classes_has_none(tmp_path):
    for name in 'README.txt', 'neg/0.txt', 'pos/0.txt':
        (tmp_path/name).parent.mkdir(exist_ok=True)
        (tmp_path/name).write_text(name)
    t = read_texts(tmp_path)
    assert t.classes == ['neg', 'pos'] and t.y.tolist() == [-1, 0, 1]


def test_parts_are_no_classes(tmp_path):
    for name in 'train/0.txt', 'train/1.txt', 'test/0.txt':
        (tmp_path/name).parent.mkdir(exist_ok=True)
        (tmp_path/name).write_text(name)
    t = read_texts(tmp_path)
    assert t.classes == [] and t.parts == ['test', 'train', 'train']


AWKWARD = {
    'quotes.csv': ('text,label\n"She said ""no"", twice",a\n5" disk,b\n'
                   '"Title" in front,a\n"open,b\n"two\nlines",a\n', [
        ('She said "no", twice', 'a'), ('5" disk', 'b'), ('"Title" in front', 'a'),
        ('"open', 'b'), ('two lines', 'a')]),
    'cr.tsv': ('text\tlabel\rfirst "x"\ta\r"second\tb\rthird\ta\r', [
        ('first "x"', 'a'), ('"second', 'b'), ('third', 'a')]),
    'marks.csv': ('\ufefftext,Label\nca\0fe\u0301,u\u0308\nb,\u00fc\nc,NA\n', [
        ('café', 'ü'), ('b', 'ü'), ('c', None)]),
    'ragged.csv': ('text,label,extra\na,x\nb\nc,y,z\n\n,,\n', [
        ('a', 'x'), ('b', None), ('c', 'y')]),
    'numbers.jsonl': ('{"text": 12, "label": 1.0}\r\n{"text": "b", "label": "1"}\r\n'
                      '\r\n{"text": 2.5}\n{"label": 2}\n{"text": "c", "label": 2}', [
        ('12', '1'), ('b', '1'), ('2.5', None), ('c', '2')]),
    'long.txt': ('x' * 300_000 + '\nshort\n' + 'y' * 100_000, [
        ('x' * 100_000, None), ('short', None), ('y' * 100_000, None)]),
    'empty.txt': ('\n\n a \n\r\n\r\nb\n\t\n', [('a', None), ('b', None)]),
    'blanks.csv': ('text, label\na, x\n"b, c", x \nd,\u00a0x\ne, 1\nf,1.0\n', [
        ('a', 'x'), ('b, c', 'x'), ('d', 'x'), ('e', '1'), ('f', '1')]),
    'open.tsv': ('text\tlabel\n"all\ta\n"quoted"\tb\n"x ""y"" z"\tc\n"last\td', [
        ('"all', 'a'), ('quoted', 'b'), ('x "y" z', 'c'), ('"last', 'd')]),
    'html.csv': ('text,label\n"<a href=""x"">y</a>, z",p\n'
                  '"one\r\ntwo, ""q""\r\n\r\nfour",n\n',
        [('<a href="x">y</a>, z', 'p'), ('one two, "q" four', 'n')]),
    'backslash.csv': ('text,label\n"He said \\"hi\\" to me",p\n"fine, ok",n\n', [
        ('"He said \\"hi\\" to me"', 'p'), ('fine, ok', 'n')])}


@pytest.mark.parametrize('name', AWKWARD)
@pytest.mark.parametrize('form', ['utf-8', 'utf-16'])
def test_awkward_files_are_read_as_they_stand(tmp_path, name, form):
    content, want = AWKWARD[name]
    if form == 'utf-16':
        content = content.removeprefix('\ufeff')  # it writes its own
    (tmp_path/name).write_bytes(content.encode(form))
    t = read_texts(tmp_path/name)
    labels = [t.classes[i] if i >= 0 else None for i in t.y.tolist()]
    assert list(zip(t.texts, labels, strict=True)) == want
