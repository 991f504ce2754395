"Answers: SQuAD's scores beside the peer's, windows by brute force, what is learnt"
import math
import random

import pytest
import torch

from replearn_nb.core import ReplearnError, local_seed
from replearn_nb.data.questions import Question, invented_questions
from replearn_nb.data.text import TextPreprocessing, WordPieces, train_sentencepieces
from replearn_nb.encoders.transformer import bert, cramming
from replearn_nb.transfer.finetune import Network, finetune
from replearn_nb.transfer.labels import Method, label_efficiency
from replearn_nb.transfer.spans import (
    Answer,
    SpanHead,
    answer_f1,
    best_spans,
    exact_match,
    mean_f1,
    normalise_answer,
    question_task,
    show_answer,
    targets,
    windows,
)

ODD = ['the', 'a', 'An', 'THE.', 'theatre', 'cat', 'Cat!', "cat's", 'é', 'É', '…',
       '“x”', '10-4', '$5.00', '\u00a0', '\n', ' ', '', 'cat', 'İ', 'a.n', '-the-']


def ask(text, context, *answers):
    return Question('0', text, context,
                    tuple((context.index(a), a) for a in answers), 'x')


@pytest.fixture(scope='module')
def splits():
    return invented_questions(80, facts=3, seed=1)


@pytest.fixture(scope='module')
def tok(splits):
    texts = [q.context for q in splits.data.questions] + ['Where who which company?']
    return train_sentencepieces(texts, 120)


def test_scores_equal_the_peers():
    "The peer has version 2's rule where nothing is left: an F1 of 1 for no words"
    peer = pytest.importorskip('torchmetrics.functional.text').squad
    rng = random.Random(0)
    for _ in range(100):
        a, *golds = (' '.join(rng.choices(ODD, k=rng.randint(0, 5)))
                     for _ in range(rng.randint(2, 4)))
        if not normalise_answer(a):
            continue
        texts = dict(text=golds, answer_start=[0] * len(golds))
        want = peer([dict(prediction_text=a, id='0')], [dict(answers=texts, id='0')])
        assert 100 * exact_match(a, golds) == float(want['exact_match'])
        assert 100 * answer_f1(a, golds) == pytest.approx(float(want['f1']), abs=1e-3)


@pytest.mark.parametrize('answer,golds,em,f1', [
    ('', [''], 1, 0), ('the', ['an'], 1, 0), ('...', ['the'], 1, 0), ('', ['x'], 0, 0),
    ('a b b', ['b'], 0, 2 / 3), ('b b', ['b b b'], 0, .8), ('x', ['y', 'the X.'], 1, 1),
    ('The  Theatre', ['theatre'], 1, 1), ("l'été", ['Lété'], 1, 1),
    ('caf\u00e9', ['cafe\u0301'], 0, 0), ('10–4', ['10-4'], 0, 0),
    ('a-b', ['ab'], 1, 1)])
def test_scores_by_hand(answer, golds, em, f1):
    "Unicode is compared as it is, and only ASCII's punctuation goes"
    assert exact_match(answer, golds) == em
    assert answer_f1(answer, golds) == pytest.approx(f1)


@pytest.mark.parametrize('max_len,stride', [(8, 1), (20, 5), (30, None), (30, 99),
                                            (200, 3)])
def test_windows_show_all_of_the_text_and_where_it_stands(tok, splits, max_len, stride):
    pre, questions = TextPreprocessing(tok, max_len), splits.data.questions[:12]
    w = windows([(q.text, q.context) for q in questions], pre, stride)
    assert w.ids.shape[1] <= max_len and w.spans.shape == (*w.ids.shape, 2)
    for i, q in enumerate(questions):
        seen = {}
        for ids, spans in zip(w.ids[w.question == i], w.spans[w.question == i],
                              strict=True):
            assert ids[0] == tok.cls and (ids == tok.sep).sum() == 2
            first = (ids == tok.sep).nonzero()[0, 0]
            asked = tok.encode([q.text])[0][:(max_len - 3) // 2]
            assert ids[1:first].tolist() == asked
            assert (spans[:first + 1] == 0).all()
            for token, (a, b) in zip(ids.tolist(), spans.tolist(), strict=True):
                if b > a:
                    assert seen.setdefault((a, b), token) == token
        ids, spans = tok.offsets(q.context)
        want = {s: t for t, s in zip(ids, spans, strict=True) if s[1] > s[0]}
        assert seen == want


def test_targets_are_the_answers_tokens_by_brute_force(tok, splits):
    pre, rng, questions = TextPreprocessing(tok, 40), random.Random(0), []
    for q in splits.data.questions[:40]:
        a = rng.randrange(len(q.context) - 1)
        text = q.context[a:a + rng.randint(1, 25)]
        if text.strip():
            questions.append(Question(q.id, q.text, q.context, ((a, text),), 'x'))
    w = windows([(q.text, q.context) for q in questions], pre, 7)
    here = 0
    for (first, last), spans, i in zip(targets(w, questions).tolist(), w.spans.tolist(),
                                       w.question.tolist(), strict=True):
        start, text = questions[i].answers[0]
        wanted = {k for k in range(start, start + len(text))
                  if not questions[i].context[k].isspace()}
        inside = {k for a, b in spans for k in range(a, b)}
        if not wanted <= inside:
            assert first == last == 0
            continue
        here += 1
        marked = {k for a, b in spans[first:last + 1] for k in range(a, b)}
        assert wanted <= marked
        assert wanted & set(range(*spans[first])) and wanted & set(range(*spans[last]))
    assert here > 20


def test_the_most_frequent_answer_is_learnt(tok):
    q = ask('Who?', 'Bami met Kaka.', 'Kaka', 'Kaka', 'Bami')
    w = windows([(q.text, q.context)], TextPreprocessing(tok, 60))
    first, last = targets(w, [q])[0].tolist()
    assert q.context[w.spans[0, first, 0]:w.spans[0, last, 1]] == 'Kaka'


def test_best_span_by_brute_force():
    with local_seed(0):
        for _ in range(50):
            logits, real = torch.randn(3, 9, 2), torch.rand(3, 9) < .7
            longest = int(torch.randint(1, 9, ()))
            first, last, score = best_spans(logits, real, longest)
            logp = logits.log_softmax(1)
            for r in range(3):
                every = {(a, b): float(logp[r, a, 0] + logp[r, b, 1])
                         for a in range(9) for b in range(a, min(9, a + longest))
                         if real[r, a] and real[r, b]}
                if not every:
                    assert score[r] == -math.inf
                    continue
                assert max(every.values()) == pytest.approx(float(score[r]), abs=1e-5)
                assert (int(first[r]), int(last[r])) in every


def test_only_the_text_and_cls_can_be_pointed_at(tok):
    with local_seed(0):
        encoder = bert(tok.vocab_size, 1, 16, 2, max_len=60, pad=tok.pad)
    head = SpanHead(TextPreprocessing(tok, 60))
    model = Network(encoder, torch.nn.Linear(16, 2), head).eval()
    w = windows([('Who?', 'Bami met Kaka.'), ('Who then?', 'Bami.')], head.pre)
    with torch.no_grad():
        logits = model(w.ids)
        encoder.segments.weight[1] *= -9.  # the text's
        assert not torch.allclose(model(w.ids)[:, 0], logits[:, 0])
    assert logits.shape[1] == w.ids.shape[1]
    for row, ids, spans in zip(logits, w.ids, w.spans, strict=True):
        seps = (ids == tok.sep).nonzero()[:, 0]
        may = (row > -1e3).all(1).nonzero()[:, 0].tolist()
        assert may == [0, *range(int(seps[0]) + 1, int(seps[1]))]
        assert all(i in may for i in (spans[:, 1] > spans[:, 0]).nonzero()[:, 0])


@pytest.fixture(scope='module')
def tuned():
    "It learns to mark the word behind `is`, in texts of several windows"
    rng, questions = random.Random(0), []
    words = ['one', 'two', 'three', 'four', 'five', 'six']
    for _ in range(120):
        text = rng.choices(words, k=16)
        k = rng.randrange(14)
        text[k] = 'IS'
        text[k + 1] = answer = rng.choice(words)
        at = len(' '.join(text[:k + 1])) + 1
        questions.append(Question('0', 'what', '  '.join(text).replace('  ', ' '),
                                  ((at, answer),), 'x'))
    letters = [chr(c) for c in range(97, 123)]
    vocab = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *words, 'is', 'what',
             *letters, *(f'##{o}' for o in letters)]
    pre = TextPreprocessing(WordPieces('\n'.join(vocab).encode()), 14)
    with local_seed(0):
        encoder = cramming(len(vocab), 2, 32, 2, max_len=14)
    model = finetune(encoder, SpanHead(pre, stride=4), questions[:100], steps=300,
                     bs=16, lr=5e-3, encoder_lr=5e-3, device='cpu')
    return model, questions[100:]


def test_it_finds_answers_in_any_window(tuned):
    model, test = tuned
    found = [a.text for a in model.predict(test)]
    assert mean_f1([q.golds for q in test], found) > .8


def test_answers_are_places_in_the_text_as_it_is(tuned):
    model, _ = tuned
    text = '\u00a0one\u0301  two\n\tIS  Thre\u0301e , 😀 four'
    [a] = model.predict([('what', text)])
    assert a.text == text[a.start:a.end] and a.text in text and a.text.strip()
    empty, blank, a2 = model.head.predict(
        model.model, [('what', ''), ('', ' \n'), ('what', text)], bs=1)
    assert empty == blank == Answer('', 0, 0, -math.inf)
    assert (a2.start, a2.end) == (a.start, a.end)


def test_a_frozen_encoder_stays_as_it_was(splits, tok):
    with local_seed(0):
        encoder = cramming(tok.vocab_size, 1, 16, 2, max_len=64, pad=tok.pad)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    train = splits.data.questions[:10]
    pre = TextPreprocessing(tok, 64)
    options = dict(steps=6, bs=16, lr=3e-3, device='cpu')
    m = finetune(encoder, SpanHead(pre), train, encoder_lr=0., **options)
    after = m.learn.model.encoder.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    m = finetune(encoder, SpanHead(pre), train, **options)
    assert all(torch.equal(encoder.state_dict()[k], v) for k, v in before.items())
    first = [q.context[:9] for q in splits.part('test')]
    method = Method('first', lambda rows, y, seed: first)
    df = label_efficiency(question_task(splits), [method], [4], 2, progress=False)
    assert 0 <= df.score.min()


def test_errors_come_before_the_work(splits, tok):
    with local_seed(0):
        encoder = bert(tok.vocab_size, 1, 16, 2, max_len=32, pad=tok.pad)
    q = splits.data.questions
    other = TextPreprocessing(train_sentencepieces(['a b c d e f'] * 9, 20), 32)
    with pytest.raises(ReplearnError, match='The tokenizer is of another model: it'):
        finetune(encoder, SpanHead(other), q[:4])
    with pytest.raises(ReplearnError, match='There is no question'):
        finetune(encoder, SpanHead(TextPreprocessing(tok, 32)), [])
    whole = [Question('0', 'all', o.context, ((0, o.context),), 'x') for o in q[:4]]
    with pytest.raises(ReplearnError, match='None of 4 answers fits into a window'):
        finetune(encoder, SpanHead(TextPreprocessing(tok, 32)), whole)
    with pytest.raises(ReplearnError, match='longer than the 32'):
        finetune(encoder, SpanHead(TextPreprocessing(tok, 64)), q[:4], device='cpu')


def test_answers_are_shown():
    q = ask('Who?', 'Ada & <Bob> met.', 'Ada', '<Bob>')
    assert repr(show_answer(q, Answer('<Bob>', 6, 11, 0.))) == (
        'Ada & [<Bob>](answer) met.')
    assert repr(show_answer(q, Answer('met', 12, 15, 0.))) == (
        '[Ada](right answer) & <Bob> [met](wrong answer).')
    assert repr(show_answer(q, Answer('Ada &', 0, 5, 0.))).startswith('[Ada &](answer)')
    html = show_answer(q, Answer('<Bob>', 6, 11, 0.))._repr_html_()
    assert '&lt;Bob&gt;' in html and '<Bob>' not in html
