"Tables: rows that have too many cells, lines that are no objects, damaged files"
import gzip
import json
import unicodedata
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from replearn_nb.core import ReplearnError
from replearn_nb.data.tables import clean_label, clean_labels, read_table
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
    ([1e-5, '0.00001', '0.000010'], '0.00001'), ([.1, np.float32(.1), '0.1'], '0.1'), ([1e22, 10**22], '1' + '0' * 22), ([100, '100', '100.0'], '100'),
    (['Früchte', unicodedata.normalize('NFD', 'Früchte'), ' Früchte '], 'Früchte')])
def test_one_label_has_one_name(values, name):
    assert {clean_label(v) for v in values} == {name}


@pytest.mark.parametrize('label', ['007', '1e3', '0x1', '1.2.3', '1,5', '٣', '00.5',
                                   '-', 'no', 'NAN-1', 'nano', 'True', '1_000'])
def test_codes_and_words_stay_as_they_stand(label):
    assert clean_label(label) == label


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
