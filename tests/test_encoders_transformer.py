"The Transformer beside transformers' BERT, and texts that share a row"
import pytest
import torch

from replearn_nb.core import ReplearnError, check_encoder, local_seed
from replearn_nb.encoders.transformer import (
    TokenHead,
    bert,
    cramming,
    from_hf,
    positions,
    rotary,
    rotate,
    to_hf,
)

transformers = pytest.importorskip('transformers')


def theirs(kind='BertForMaskedLM', **changes):
    config = transformers.BertConfig(**dict(
        vocab_size=99, hidden_size=48, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=100, max_position_embeddings=40, pad_token_id=7) | changes)
    with local_seed(0):
        model = getattr(transformers, kind)(config).eval()
        for p in model.parameters():  # biases and norms that are not 0 and 1
            p.data += .05 * torch.randn_like(p)
    return model


def batch():
    with local_seed(1):
        ids = torch.randint(8, 99, (3, 20))
    ids[1, 12:], ids[2, 5:] = 7, 7
    return ids, ids != 7


def close(a, b, tol=1e-5):
    torch.testing.assert_close(a, b, atol=tol, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize('kind,changes', [
    ('BertModel', {}), ('BertForMaskedLM', {}), ('BertForNextSentencePrediction', {}),
    ('BertForMaskedLM', dict(layer_norm_eps=.05))])
def test_from_hf(kind, changes):
    model, (ids, real) = theirs(kind, **changes), batch()
    if kind == 'BertForNextSentencePrediction':
        assert from_hf(model)[1] is None
        model = model.bert
    encoder, head = from_hf(model)
    encoder.eval()
    out = model(ids, attention_mask=real.long(), output_hidden_states=True)
    states = encoder.hidden_states(ids)
    for a, b in zip(states, out.hidden_states, strict=True):
        close(a[real], b[real])
    if head is not None:
        close(head(states[-1], encoder.tokens)[real], out.logits[real])


@torch.no_grad()
def test_segments_as_theirs():
    model, (ids, _) = theirs('BertModel'), batch()
    segments = (torch.arange(20) > 8).long().expand(3, -1)
    encoder = from_hf(model)[0].eval()
    want = model(ids[:1], token_type_ids=segments[:1]).last_hidden_state
    close(encoder.forward_features(ids[:1], segments=segments[:1]), want)


@torch.no_grad()
@pytest.mark.parametrize('with_head', [True, False])
def test_to_hf_and_back(with_head):
    with local_seed(2):
        encoder = bert(99, 2, 32, 4, max_len=40, pad=7).eval()
        head = TokenHead(encoder) if with_head else None
        for p in encoder.parameters():
            p += .05 * torch.randn_like(p)
    ids, real = batch()
    model = to_hf(encoder, head).eval()
    out = model(ids, attention_mask=real.long())
    h = encoder.forward_features(ids)
    if with_head:
        close(head(h, encoder.tokens)[real], out.logits[real])
    else:
        close(h[real], out.last_hidden_state[real])
    again, _ = from_hf(model)
    for k, v in encoder.state_dict().items():
        assert torch.equal(v, again.state_dict()[k])
    assert again.arguments == encoder.arguments | {'hidden': 128}


def test_the_gradients_equal_theirs():
    model, (ids, real) = theirs(hidden_dropout_prob=0.,
                                attention_probs_dropout_prob=0.), batch()
    encoder, head = from_hf(model)
    labels = ids.masked_fill(~real, -100)
    loss = model(ids, attention_mask=real.long(), labels=labels).loss
    loss.backward()
    logits = head(encoder.forward_features(ids), encoder.tokens)
    ours = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    ours.backward()
    close(ours, loss)
    close(encoder.tokens.weight.grad,
          model.bert.embeddings.word_embeddings.weight.grad)
    layer = model.bert.encoder.layer[1].attention.self
    grads = [getattr(layer, o).weight.grad for o in ('query', 'key', 'value')]
    close(encoder.blocks[1].attention.qkv.weight.grad, torch.cat(grads))


def test_what_is_no_bert_is_refused():
    with pytest.raises(ReplearnError, match='takes a BERT with GELU, not bert with'):
        from_hf(theirs('BertModel', hidden_act='relu'))
    with pytest.raises(ReplearnError, match='cramming variant is no BERT'):
        to_hf(cramming(99))


@torch.no_grad()
@pytest.mark.parametrize('make', [bert, cramming])
def test_a_packed_row_equals_its_texts_apart(make):
    with local_seed(3):
        m = make(99, 3, 32, 4, max_len=64).eval()
        texts = [torch.randint(1, 99, (1, n)) for n in (9, 1, 20, 5)]
    row = torch.cat([*texts, torch.zeros(1, 3, dtype=torch.long)], 1)
    doc = torch.cat([torch.full_like(t, i) for i, t in enumerate(texts, 1)]
                    + [torch.zeros(1, 3, dtype=torch.long)], 1)
    h = m.forward_features(row, doc)
    assert torch.isfinite(h).all()
    for part, t in zip(h.split([9, 1, 20, 5, 3], 1), texts, strict=False):
        close(part, m.forward_features(t))
    padded = torch.nn.functional.pad(texts[0], (0, 30))
    close(m(padded), m(texts[0]))
    check_encoder(m, padded)


def test_positions_start_anew_with_each_text():
    doc = torch.tensor([[1, 1, 2, 3, 3, 3, 0], [1, 1, 1, 1, 1, 1, 1]])
    assert positions(doc).tolist() == [[0, 1, 0, 0, 1, 2, 0], [0, 1, 2, 3, 4, 5, 6]]


def test_pooling():
    with local_seed(4):
        m = bert(50, pool='cls').eval()
    ids = torch.tensor([[3, 4, 5, 0], [6, 7, 0, 0]])
    with torch.no_grad():
        h = m.forward_features(ids)
        close(m(ids), h[:, 0])
        m.pool = 'mean'
        close(m(ids)[1], h[1, :2].mean(0))


@pytest.mark.parametrize('width', [64, 256, 768])
@pytest.mark.parametrize('make', [bert, cramming])
def test_weights_begin_as_berts_do_and_larger_where_it_is_narrower(make, width):
    "A product changes the size of a vector alike at every width"
    with local_seed(0):
        m = make(50, 1, width, max_len=16)
    std = .02 * (768 / width) ** .5
    matrices = [m.tokens.weight, m.blocks[0].attention.qkv.weight,
                m.blocks[0].down.weight, TokenHead(m).dense.weight]
    for w in matrices:
        assert w.abs().max() <= 2 * std
        of_a_cut_normal = .8796 * std
        assert w.std().item() == pytest.approx(of_a_cut_normal, rel=.03)
    assert all((p == 0).all() for n, p in m.named_parameters()
               if n.endswith('bias') and 'norm' not in n)


@pytest.mark.parametrize('make', [bert, cramming])
@pytest.mark.parametrize('changes,says', [
    (dict(width=130, heads=4), "4 heads can't share a width of 130 evenly"),
    (dict(heads=0), 'heads is 1 or more, not 0'),
    (dict(width=-8), 'width is 1 or more, not -8'),
    (dict(depth=0), 'depth is 1 or more, not 0'),
    (dict(hidden=0), 'hidden is 1 or more, not 0'),
    (dict(max_len=0), 'max_len is 1 or more, not 0'),
    (dict(dropout=1.), 'dropout is 0 or more and below 1, not 1'),
    (dict(dropout=-.1), 'dropout is 0 or more'),
    (dict(pad=99), 'pad is a token, 0 to 98, not 99'),
    (dict(pad=-1), 'pad is a token')])
def test_sizes_that_no_network_has_are_refused(make, changes, says):
    with pytest.raises(ReplearnError, match=says):
        make(99, **changes)


def test_rotary_positions_need_even_heads():
    "An odd head would be rotated into one that is wider by a number"
    with pytest.raises(ReplearnError, match='a head of width 3 has an odd number'):
        cramming(99, width=6, heads=2)
    assert bert(99, width=6, heads=2).num_features == 6
    x = torch.rand(1, 2, 5, 6)
    assert rotate(x, *rotary(torch.arange(5)[None], 6)).shape == x.shape
