"Labelled words: schemes beside seqeval, odd files, names without context, HTML"
import os
import random
from collections import Counter

import pytest
import torch

from replearn_nb.core import ReplearnError
from replearn_nb.data.entities import (
    Highlighted,
    bio,
    entities,
    invented_entities,
    own_entities,
    read_conll,
    show_entities,
    split_tagged,
    wikiann,
    wnut17,
)

@pytest.mark.parametrize('prefixes', ['BI', 'I', 'BIES'])
def test_names_are_those_that_seqeval_finds(prefixes):
    "Whatever the scheme, and whatever nonsense stands in it"
    peer = pytest.importorskip('seqeval.metrics.sequence_labeling')
    rng = random.Random(0)
    every = ['O'] + [f'{p}-{k}' for p in prefixes for k in ('a', 'b-c')]
    for _ in range(2000):
        tags = rng.choices(every, k=rng.randint(1, 9))
        want = [(a, b + 1, kind) for kind, a, b in peer.get_entities(tags)]
        assert entities(bio(tags)) == want
        assert bio(bio(tags)) == bio(tags)


def test_a_file_with_everything_odd(tmp_path):
    path, counts = tmp_path/'odd.conll', Counter()
    path.write_bytes(
        b'\xef\xbb\xbf-DOCSTART- O\r\n\r\nIn IN O\r\n' + 'Zürich'.encode() +
        b' NNP B-LOC\r\n\r\n\r\n\t\r\nde\0ad\tO\r\n\tB-LOC\r\nend\tO   \r\n#\tO')
    words, tags = read_conll(path, counts)
    assert words == [['In', 'Zürich'], ['dead', 'end', '#']]
    assert tags == [['O', 'B-LOC'], ['O', 'O', 'O']]
    assert counts == {'with control characters': 1, 'empty words, left out': 1}
    path.write_bytes('Ünder\tO\n'.encode() + 'Zürich\tB-LOC\n'.encode('cp1252'))
    words, _ = read_conll(path, counts)
    assert words == [['Ünder', 'Zürich']] and counts['lines not in UTF-8'] == 1


def test_comments_are_no_words_and_a_hash_is_one(tmp_path):
    path, counts = tmp_path/'t.conll', Counter()
    path.write_text('# id 5-7\tdomain=en\n# text = a b\nAda _ _ B-PER\n# _ _ O\n\n'
                    '# id 8 domain=en\nwrote _ _ O\n\n# SYM O\n1 CD O\n\n#\tO\n')
    words, tags = read_conll(path, counts)
    assert words == [['Ada', '#'], ['wrote'], ['#', '1'], ['#']]
    assert counts == {'comments, left out': 3} and tags[0] == ['B-PER', 'O']


def test_only_tabs_and_blanks_stand_between_columns(tmp_path):
    path = tmp_path/'t.conll'
    path.write_text('10\u00a0km  NN O \r\n Zürich NNP B-LOC\n')
    assert read_conll(path) == ([['10 km', 'Zürich']], [['O', 'B-LOC']])


def test_errors_say_what_would_be_right(tmp_path):
    path = tmp_path/'t.conll'
    with pytest.raises(ReplearnError, match="Can't read .*t.conll"):
        read_conll(path)
    path.write_text('a\tO\n\nb\n')
    with pytest.raises(ReplearnError, match="line 3: there should be a word and its"):
        own_entities(path)
    path.write_text('')
    with pytest.raises(ReplearnError, match='t.conll is empty: it should hold a word'):
        own_entities(path)
    path.write_text('a B-x\n')
    with pytest.raises(ReplearnError, match='No word in .* has the label O'):
        own_entities(path)
    path.write_text('a O\n\nb O\n')
    with pytest.raises(ReplearnError, match='marks no name: all its labels are O'):
        own_entities(path)
    path.write_text('a\tDT\tO\nb\tNN\t\n')
    with pytest.raises(ReplearnError, match='line 2: there should be a word and its'):
        own_entities(path)
    path.write_text('a\tO\n\nb\tB-x\n')
    with pytest.raises(ReplearnError, match='t.conll has 2 sentences: 3 are the least'):
        own_entities(path)


def test_own_sentences_are_split_once_and_for_all(tmp_path, capsys):
    path = tmp_path/'mine.txt'
    path.write_text('\n\n'.join(f'word{i}\tO\nName{i}\tI-x' for i in range(40))
                    + '\n\n\tO\n')
    a, b, c = own_entities(path), own_entities(path), own_entities(path, seed=1)
    assert 'empty words, left out' in capsys.readouterr().err
    parts = [getattr(a, p).tolist() for p in ('train', 'valid', 'test')]
    assert [len(p) for p in parts] == [28, 4, 8]
    assert sorted(sum(parts, [])) == list(range(40))
    assert torch.equal(a.test, b.test) and not torch.equal(a.test, c.test)
    assert a.hash == b.hash == c.hash and a.kinds == ['x'] and a.name == 'mine.txt'
    words, tags = a.part('test')
    assert all(w[1] == w[0].replace('word', 'Name') for w in words)
    assert tags == [['O', 'B-x']] * 8


def test_invented_names_are_new_and_their_kinds_shared():
    s = invented_entities(400, seed=3)
    assert s.hash == invented_entities(400, seed=3).hash
    assert s.hash != invented_entities(400, seed=4).hash
    assert s.kinds == ['firm', 'person', 'place']
    (train, _), (words, tags) = s.part('train'), s.part('test')
    seen = {w for sentence in train for w in sentence}
    names = [w[a:b] for w, t in zip(words, tags, strict=True)
             for a, b, _ in entities(t)]
    assert len(names) > 100 and sum(set(n) <= seen for n in names) < .3 * len(names)


def test_one_class_splits():
    with pytest.raises(ReplearnError, match='2 sentences: 3 are the least'):
        split_tagged([['a'], ['b']], [['O'], ['O']])


def test_marks_are_escaped_ordered_and_named():
    shown = Highlighted('a<b & "c" d', [(4, 5, 'x"y'), (0, 3, '<z>')])
    assert repr(shown) == '[a<b](<z>) [&](x"y) "c" d'
    html = shown._repr_html_()
    assert 'a&lt;b' in html and '&amp;' in html and '&lt;z&gt;' in html
    assert '<z>' not in html and html.count('<mark') == html.count('</mark>') == 2
    assert 'color:inherit' in html  # the page's colour, in light and in dark
    with pytest.raises(ValueError, match='overlap at character 2'):
        Highlighted('abcd', [(0, 3, 'x'), (2, 4, 'x')])
    assert repr(Highlighted('abcd', [(0, 2, 'x'), (2, 4, 'x')])) == '[ab](x)[cd](x)'


def test_a_kind_keeps_its_colour():
    kinds = ['a', 'b']
    one = show_entities(['w'], ['B-b'], kinds)._repr_html_()
    two = show_entities(['v', 'w'], ['B-a', 'I-b'], kinds)._repr_html_()
    assert one.split('background:')[1][:7] == two.split('background:')[2][:7]


@pytest.mark.parametrize('load,want', [
    (wnut17, {'train': (3394, 62730, 1975), 'valid': (1009, 15733, 836),
              'test': (1287, 23394, 1079)}),
    (wikiann, {'train': (20000, 160394, 27931), 'valid': (10000, 80536, 14146),
               'test': (10000, 80326, 13958)})], ids=['wnut17', 'wikiann'])
def test_published_data(load, want):
    "Sentences, words and names, counted in another way when the data was fetched"
    if not os.environ.get('REPLEARN_DATA'):
        pytest.skip('REPLEARN_DATA is not set')
    s = load()
    for part, (sentences, words, names) in want.items():
        w, t = s.part(part)
        assert len(w) == sentences and sum(map(len, w)) == words
        assert sum(len(entities(o)) for o in t) == names
    assert not any(o.startswith('en:') for w in s.data.words[:50] for o in w)
