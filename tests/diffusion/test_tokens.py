"""Learned tokens inside a text encoder, and their files."""

from __future__ import annotations

import pytest
import torch

from mmdefect.diffusion.model import load_model
from mmdefect.diffusion.tokens import TokenBank, load_tokens, save_tokens, start_vectors, token_name


def bank_of(model, count=2, name='<spot>', seed=0):
    generator = torch.Generator().manual_seed(seed)
    return TokenBank(
        {name: count}, [torch.randn(count, e.weight.shape[1], generator=generator) for e in model.embeddings]
    )


def test_a_token_that_equals_a_word_encodes_as_the_word(model):
    """The vectors of `crack` under another name give the text with `crack`: places, end mark and pooling are right."""
    bank = TokenBank({'<spot>': 1}, start_vectors(model, 'crack', 1))
    learned = model.encode_text(['photo of a <spot> on metal'], bank)
    plain = model.encode_text(['photo of a crack on metal'])
    assert torch.equal(learned.tokens, plain.tokens)
    assert plain.pooled is None or torch.equal(learned.pooled, plain.pooled)


def test_each_vector_has_its_place_and_gets_its_gradient(model):
    bank = bank_of(model, 3)
    bank.vectors = [v.requires_grad_() for v in bank.vectors]
    condition = model.encode_text(['a <spot> image', 'metal'], bank)
    condition.tokens[0].square().sum().backward()
    for vectors in bank.vectors:
        assert (vectors.grad.abs().sum(1) > 0).all()
    changed = model.encode_text(['a <spot> image', 'metal'], bank_of(model, 3, seed=1)).tokens
    assert not torch.equal(changed[0], condition.tokens[0]) and torch.equal(changed[1], condition.tokens[1])
    for _, places in model.tokenize(['a <spot> image'], bank):
        assert places[places >= 0].tolist() == [0, 1, 2]


def test_encoders_are_as_before_after_a_learned_text(model):
    before = model.encode_text(['photo of a crack']).tokens
    model.encode_text(['photo of a <spot>'], bank_of(model))
    assert torch.equal(before, model.encode_text(['photo of a crack']).tokens)


def test_files_carry_everything(model, tmp_path):
    bank = bank_of(model)
    bank.facts = dict(defect_type='Spot', step=7)
    save_tokens(tmp_path / 'spot.safetensors', bank, model.kind)
    loaded = load_tokens(tmp_path / 'spot.safetensors', model)
    assert loaded.counts == {'<spot>': 2} and loaded.facts['step'] == 7
    assert all(torch.equal(a, b) for a, b in zip(bank.vectors, loaded.vectors, strict=True))
    text = ['photo of a <spot>']
    assert torch.equal(model.encode_text(text, bank).tokens, model.encode_text(text, loaded).tokens)


def test_a_token_of_another_pipeline_is_refused(pipelines, tmp_path):
    small, large = load_model(pipelines['sd']), load_model(pipelines['sdxl'])
    save_tokens(tmp_path / 'spot.safetensors', bank_of(small), 'sd')
    with pytest.raises(ValueError, match=r'kind sd with vectors of \[32\], but .* of kind sdxl with \[32, 16\]'):
        load_tokens(tmp_path / 'spot.safetensors', large)
    with pytest.raises(ValueError, match='must exist'):
        load_tokens(tmp_path / 'other.safetensors', small)
    (tmp_path / 'broken.safetensors').write_bytes(b'no')
    with pytest.raises(ValueError, match='must be a safetensors file'):
        load_tokens(tmp_path / 'broken.safetensors', small)


def test_several_types_share_a_text(pipelines):
    model = load_model(pipelines['sd'])
    joined = TokenBank.join([bank_of(model, 1, '<spot>'), bank_of(model, 2, '<hole>', 1)])
    ((_, places),) = model.tokenize(['<hole> on <spot>'], joined)
    assert places[places >= 0].tolist() == [1, 2, 0]
    with pytest.raises(ValueError, match='<spot> comes twice'):
        TokenBank.join([bank_of(model), bank_of(model)])


def test_names_and_wrong_words(pipelines):
    assert token_name('Bent wire_2!') == '<bent-wire_2>'
    with pytest.raises(ValueError, match='letters or digits'):
        token_name('  ?')
    model = load_model(pipelines['ldm'])
    with pytest.raises(ValueError, match="must be known to the tokenizer .* but '7'"):
        start_vectors(model, '7', 1)
    with pytest.raises(ValueError, match='within 77 tokens'):
        model.encode_text(['crack ' * 80 + '<spot>'], bank_of(model))
