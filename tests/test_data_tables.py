"Tables: rows that have too many cells, lines that are no objects, damaged files"
import csv
import gzip
import json
import random
import unicodedata
from collections import Counter
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from replearn_nb.core import ReplearnError
from replearn_nb.data.tables import (
    clean_label,
    clean_labels,
    decode,
    pick_column,
    read_files,
    read_table,
)
from replearn_nb.data.text import read_texts

@pytest.mark.parametrize('rows', [
    'hello 1,pos,\nhello 2,neg,\n', 'hello 1, world 1,pos\nhello 2, world 2,neg\n',
    'hello 1, world 1,pos\nhello 2,neg\n', 'hello 1,pos\nhello 2, world 2,neg\n'])
@pytest.mark.parametrize('sep,suffix', [(',', 'csv'), ('\t', 'tsv')])
def test_a_cell_too_many_moves_no_column(tmp_path, rows, sep, suffix):
    path = tmp_path/f't.{suffix}'
    path.write_text(f'text,label\n{rows}'.replace(',', sep))
    line = 3 if rows.startswith('hello 1,pos\n') else 2
    with pytest.raises(ReplearnError, match=rf"Can't read .*t.{suffix} as {suffix}: "
                       f'Expected 2 fields in line {line}, saw 3'):
        read_table(path)


def test_columns_without_a_name_and_short_rows_are_read(tmp_path):
    (tmp_path/'t.csv').write_text('text,label,\n\na,x,\n"b\nc",y,\nd\n')
    t = read_texts(tmp_path/'t.csv')
    assert t.texts == ['a', 'b c', 'd'] and t.y.tolist() == [0, 1, -1]


@pytest.mark.parametrize('text,line', [
    ('{"text": "a"}\n\n5\n', 3), ('[' * 99_999, 1), ('{"text": "a"}\n{oops', 2),
    (json.dumps([dict(text='a')] * 300), 1), ('[\n {"text": "a"}\n]', 1)])
def test_a_line_that_is_no_object_is_named(tmp_path, text, line):
    (tmp_path/'t.jsonl').write_text(text)
    with pytest.raises(ReplearnError, match=f'line {line} should be an object') as e:
        read_table(tmp_path/'t.jsonl')
    assert len(str(e.value)) < 200 + len(str(tmp_path))


def test_a_damaged_archive_is_refused_in_a_sentence(tmp_path):
    data = bytearray(gzip.compress(b'text,label\n' + b'hello world,1\n' * 2000))
    odd = data[:20] + bytes([data[20] ^ 255]) + data[21:]
    for name, bad in ('cut.csv.gz', data[:-20]), ('odd.csv.gz', odd):
        (tmp_path/name).write_bytes(bad)
        with pytest.raises(ReplearnError, match=f"Can't read .*{name} as csv: "):
            read_table(tmp_path/name)


@pytest.mark.parametrize('values,name', [
    ([1, 1., np.float32(1), np.int8(1), Decimal('1.0'), '1', '1.0', ' 1.00 '], '1'),
    ([1.5, '1.5', '1.50', Decimal('1.50')], '1.5'), ([0, -0., '-0', '-0.0', '0'], '0'),
    ([1e-5, '0.00001', '0.000010'], '0.00001'), ([.1, np.float32(.1), '0.1'], '0.1'),
    ([1e22, 10**22], '1' + '0' * 22), ([100, '100', '100.0'], '100'),
    (['Früchte', unicodedata.normalize('NFD', 'Früchte'), ' Früchte '], 'Früchte')])
def test_one_label_has_one_name(values, name):
    assert {clean_label(v) for v in values} == {name}


@pytest.mark.parametrize('label', ['007', '1e3', '0x1', '1.2.3', '1,5', '٣', '00.5',
                                   '-', 'no', 'NAN-1', 'nano', 'True', '1_000'])
def test_codes_and_words_stay_as_they_stand(label):
    assert clean_label(label) == label
    assert clean_label('a' + chr(0xd800)) == 'a?'  # half a character: not writable


def test_what_is_missing_is_no_class(tmp_path):
    words = ['', '  ', 'nan', 'NaN', 'NA', 'n/a', 'N/A', '#N/A', '<NA>', 'None', 'null']
    values = [None, float('nan'), np.float32('nan'), pd.NA, pd.NaT, *words]
    assert {clean_label(v) for v in values} == {None}
    with pytest.raises(ReplearnError, match='a word or a number, not bytes'):
        clean_label(b'a')
    path = tmp_path/'t.parquet'  # a whole number beside a missing one; 32 bits
    for values, want in (([1, None, 3], ['1', None, '3']),
                         (np.float32([.1, .2, 3]), ['0.1', '0.2', '3'])):
        pd.DataFrame(dict(y=values)).to_parquet(path)
        assert clean_labels(read_table(path), path, 'y') == want


@pytest.mark.parametrize('sep,suffix', [(',', 'csv'), ('\t', 'tsv')])
def test_a_quote_that_is_not_closed_swallows_no_rows(tmp_path, sep, suffix):
    "Nor do two of them; what was read as it stands is counted"
    rows, path = [[f'text {i}', 'ab'[i % 2]] for i in range(60)], tmp_path/f't.{suffix}'
    rows[7][0], rows[40][0], rows[41][0] = '"so he began', '"so she', 'a 5" disk, no'
    if sep == ',':
        rows[41][0] = 'a 5" disk'
    path.write_text('text,label\n'.replace(',', sep)
                    + '\n'.join(sep.join(r) for r in rows))
    counts = Counter()
    assert read_table(path, counts).to_numpy().tolist() == rows
    assert counts == {'rows with a stray quotation mark, read as they stand': 2}
    rows[59][0] = '"the last'
    path.write_text('text,label\n'.replace(',', sep)
                    + '\n'.join(sep.join(r) for r in rows))
    assert read_table(path).to_numpy().tolist() == rows


def test_a_tab_separated_cell_with_a_line_end_is_a_cell(tmp_path):
    "Unless each of its lines is a row of its own"
    path = tmp_path/'t.tsv'
    path.write_text('text\tlabel\n"one\n\t\ttwo"\tx\n"three\tx\na 5"\ty\n')
    assert read_table(path).text.tolist() == ['one\n\t\ttwo', '"three', 'a 5"']


def test_where_no_reading_fits_the_line_is_named(tmp_path):
    path = tmp_path/'t.csv'
    path.write_text('text,label\na,x\n\n"b, he said,x\nc,y\n')
    with pytest.raises(ReplearnError, match='line 4 has a quotation mark that is not'):
        read_table(path)


@pytest.mark.parametrize('sep,suffix', [(',', 'csv'), ('\t', 'tsv')])
@pytest.mark.parametrize('end', ['\n', '\r\n', '\r'])
def test_what_the_csv_module_writes_is_read_back(tmp_path, sep, suffix, end):
    rng, path = random.Random(0), tmp_path/f't.{suffix}'
    inside = ',' if sep == ',' else ' '  # tabs beside line ends: see the test above
    signs = ['a', ' b', '"', '""', inside, '\n', 'ü', "'", '\u2028',
             '\x85', 'x' * 200_000]
    for _ in range(40):
        rows = [['z' + ''.join(rng.choices(signs[:-1], k=rng.randint(0, 6))), 'l',
                 rng.choice(signs)] for _ in range(rng.randint(1, 30))]
        df = pd.DataFrame(rows, columns=['a', 'b,c', 'd'])
        df.to_csv(path, sep=sep, index=False, lineterminator=end,
                  quoting=csv.QUOTE_ALL if end == '\r' else csv.QUOTE_MINIMAL)
        counts = Counter()
        assert read_table(path, counts).equals(df.astype(object)) and not counts


def test_rows_that_end_early_and_blank_lines(tmp_path):
    path, counts = tmp_path/'t.csv', Counter()
    path.write_text('text,label,text,\n\n  \na,x,b,c\nd\n,,,\n')
    table = read_table(path, counts)
    assert table.columns.tolist() == ['text', 'label', 'text.1', 'Unnamed: 3']
    assert table.to_numpy().tolist() == [list('axbc'), ['d', '', '', ''], [''] * 4]
    assert counts == {'rows that end early, the rest taken as empty': 1}


@pytest.mark.parametrize('name,content,sep', [
    ('t.csv', 'text;label\na, b;x\n', ';'), ('t.csv', 'sep=;\ntext;label\n', ';'),
    ('t.csv', 'text\tlabel\na\tx\n', r'\t'), ('t.tsv', 'text,label\na,x\n', ','),
    ('t.csv', 'text|label\na|x\n', '|')])
def test_another_separator_is_named(tmp_path, name, content, sep):
    (tmp_path/name).write_text(content)
    with pytest.raises(ReplearnError) as e:
        pick_column(read_table(tmp_path/name), name, None, ['text'])
    assert f"Its cells seem to be separated by '{sep}'" in str(e.value)


def test_lines_end_in_three_ways(tmp_path):
    want = 'one\n\ntwo\nthrée\u2028\x85\x0cfour\n'
    for end in '\n', '\r\n', '\r':
        text = want.replace('\n', end)
        for bom, name in ((b'', 'utf-8'), (b'\xef\xbb\xbf', 'utf-8'),
                          (b'\xff\xfe', 'utf-16-le'), (b'\xfe\xff', 'utf-16-be'),
                          (b'\xff\xfe\0\0', 'utf-32-le')):
            assert decode(bom + text.encode(name)) == want
        counts = Counter()  # a line in Windows-1252 spoils no other
        mixed = 'fünf'.encode('cp1252') + f'{end}sechß'.encode()
        assert decode(text.encode() + mixed, counts) == want + 'fünf\nsechß'
        assert counts == {'lines not in UTF-8': 1}


@pytest.mark.parametrize('name', ['cp1251', 'koi8-r', 'gbk', 'shift-jis'])
def test_other_encodings_are_refused(tmp_path, name):
    word = 'добрый день' if name in ('cp1251', 'koi8-r') else '日本語中文'
    path = tmp_path/'t.csv'
    path.write_text('text,label\n' + f'{word},a\n' * 9, encoding=name)
    with pytest.raises(ReplearnError, match=r't.csv is not in UTF-8 \(9 of 10 lines\)'):
        read_table(path)
    path.write_text('text,label\n' + f'{word},a\n' * 9, encoding='utf-8')
    assert (read_table(path).text == word).all()


@pytest.mark.parametrize('name', ['utf-16-le', 'utf-16-be', 'utf-32-le'])
def test_utf16_without_a_mark_is_refused(tmp_path, name):
    path = tmp_path/'t.csv'
    path.write_text('text,label\ngood,a\n', encoding=name)
    with pytest.raises(ReplearnError, match='perhaps in UTF-16 without a byte order'):
        read_table(path)


def test_a_folder_is_judged_as_a_whole(tmp_path):
    for i in range(5):
        (tmp_path/f'{i}.txt').write_text('déjà vu', encoding='cp1252' if i else 'utf-8')
    counts, files = Counter(), sorted(tmp_path.iterdir())
    assert read_files(files[:2], tmp_path, counts) == ['déjà vu'] * 2
    assert counts == {'lines not in UTF-8': 1}
    with pytest.raises(ReplearnError, match=r'is not in UTF-8 \(4 of 5 lines\)'):
        read_files(files, tmp_path, counts)


def test_columns_are_compared_in_one_unicode_form():
    nfd = unicodedata.normalize('NFD', 'Größe')
    table = pd.DataFrame(columns=[nfd, 'Topic', 'label'])
    assert pick_column(table, 't.csv', 'größe') == nfd
    assert pick_column(table, 't.csv', None, ['label', 'topic']) == 'label'
