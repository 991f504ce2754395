"Questions: files with faults, places that hold, splits without a shared article"
import json
import os
from collections import Counter

import pytest
import torch

from replearn_nb.core import ReplearnError
from replearn_nb.data.questions import (
    invented_questions,
    own_questions,
    read_squad,
    split_questions,
    squad,
)

TEXT = 'Ünder the\u00a0bridge,  under the\n\tbridge 😀 of Zürich'


def file_of(path, *answers, title='T', context=TEXT):
    qas = [dict(id=i, question=f'Question {i}?', answers=[
        dict(text=t, answer_start=s) for t, s in a]) for i, a in enumerate(answers)]
    path.write_text(json.dumps(dict(data=[dict(
        title=title, paragraphs=[dict(context=context, qas=qas)])])))
    return path


def test_places_are_kept_or_mended_and_counted(tmp_path):
    counts, path = Counter(), tmp_path/'q.json'
    found = read_squad(file_of(
        path, [('bridge', 10), ('under the\n\tbridge', 19)], [('bridge', 33)],
        [('Zürich', 0)], [('none', 3)], [('', 0)], []), counts)
    assert found[0].answers == ((10, 'bridge'), (19, 'under the\n\tbridge'))
    assert found[0].golds == ['bridge', 'under the\n\tbridge']
    assert found[1].answers == ((30, 'bridge'),)  # the nearest of two
    assert found[2].answers == ((TEXT.index('Zürich'), 'Zürich'),)
    assert len(found) == 3 and found[0].id == '0' and found[0].context == TEXT
    assert counts == {'answers that stand elsewhere, mended': 2,
                      'answers that are not in the text, left out': 2,
                      'questions without an answer, left out': 3}


@pytest.mark.parametrize('content,why', [
    ('{"data"', 'Expecting'), ('[]', "an object with 'data', not"),
    ('{}', "no 'data'"), ('[' * 99_999, 'recursion'),
    ('{"data": [{"id": "1", "context": "a", "answers": {}}]}', "no 'paragraphs'"),
    ('{"data": [{"paragraphs": [{"qas": []}]}]}', "no 'context'"),
    ('{"data": [{"paragraphs": [{"context": "a", "qas": [{"answers": 1}]}]}]}', '')])
def test_other_files_are_refused_in_a_sentence(tmp_path, content, why):
    path = tmp_path/'q.json'
    path.write_text(content)
    with pytest.raises(ReplearnError, match=rf"not in SQuAD's own format .*: .*{why}"):
        read_squad(path)


@pytest.mark.parametrize('old,new,why', [
    ('"title": "T"', '"title": ["T"]', "'title' should be text, not"),
    ('"answer_start": 10', '"answer_start": 1e400', "be a whole number, not inf"),
    ('"answer_start": 10', '"answer_start": "10"', "be a whole number, not '10'"),
    ('"Question 0?"', 'null', "no 'question'"),
    ('"Question 0?"', '5', "'question' should be text, not 5"),
    ('"text": "bridge"', '"text": ["bridge"]', "'text' should be text, not"),
    ('[{"text": "bridge", "answer_start": 10}]',
     '{"text": ["bridge"], "answer_start": [10]}', "'answers' should be a list, not")])
def test_what_is_of_the_wrong_kind_is_named(tmp_path, old, new, why):
    path = file_of(tmp_path/'q.json', [('bridge', 10)])
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ReplearnError, match=f"article 0 is not in SQuAD's .*: .*{why}"):
        read_squad(path)


def test_no_place_is_counted_from_the_end(tmp_path):
    counts = Counter()
    start = TEXT.rindex('bridge') - len(TEXT)
    [q] = read_squad(file_of(tmp_path/'q.json', [('bridge', start)]), counts)
    assert q.answers == ((TEXT.index('bridge'), 'bridge'),) and len(counts) == 1


def test_files_without_questions(tmp_path):
    with pytest.raises(ReplearnError, match="Can't read .*none.json"):
        own_questions(tmp_path/'none.json')
    (tmp_path/'q.json').write_text('{"data": []}')
    with pytest.raises(ReplearnError, match='holds no question with an answer'):
        own_questions(tmp_path/'q.json')
    with pytest.raises(ReplearnError, match='q.json has questions about 1 texts'):
        own_questions(file_of(tmp_path/'q.json', [('bridge', 10)], [('under', 19)]))


def test_no_article_is_in_two_parts():
    s = invented_questions(100, seed=2)
    parts = {p: {q.article for q in s.part(p)} for p in ('train', 'valid', 'test')}
    assert sum(map(len, parts.values())) == 25 == len(set.union(*parts.values()))
    assert [len(parts[p]) for p in ('train', 'valid', 'test')] == [15, 4, 6]
    again = split_questions(s.data.questions, .15, .25, seed=2)
    assert torch.equal(again.test, s.test) and again.hash == s.hash
    other = split_questions(s.data.questions, .15, .25, seed=3)
    assert not torch.equal(other.test, s.test)


def test_a_file_of_one_article_is_split_by_text(tmp_path, capsys):
    path = tmp_path/'mine.json'
    paragraphs = [dict(context=f'{TEXT} {i}', qas=[
        dict(id=f'{i}{k}', question='?', answers=[dict(text='bridge', answer_start=9)])
        for k in range(2)]) for i in range(10)]
    path.write_text(json.dumps(dict(data=[dict(paragraphs=paragraphs)])))
    s = own_questions(path)
    assert '20 answers that stand elsewhere' in capsys.readouterr().err
    texts = [{q.context for q in s.part(p)} for p in ('train', 'valid', 'test')]
    assert [len(t) for t in texts] == [6, 1, 3] and len(set.union(*texts)) == 10


def test_published_data():
    "Counted in another way when the data was fetched"
    if not os.environ.get('REPLEARN_DATA'):
        pytest.skip('REPLEARN_DATA is not set')
    s = squad()
    questions = s.data.questions
    assert len(questions) == 10570 and sum(len(q.answers) for q in questions) == 34726
    assert len({q.context for q in questions}) == 2067
    assert len({q.article for q in questions}) == 48
    for q in questions:
        assert all(q.context.startswith(text, start) for start, text in q.answers)
