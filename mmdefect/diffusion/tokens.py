"""Learned tokens: vectors that stand for a defect type in a text, and how they enter a text encoder.

The vocabulary is not enlarged. A text encoder sees an ordinary id at the place of a learned token, and its embedding is
replaced there. So the encoder keeps all its weights, and encoders that find the end of a text by the largest id (CLIP)
are not misled by new, larger ids.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from mmdefect.diffusion.compvis import read_embeddings
from mmdefect.files import write_bytes

FORMAT = 'mmdefect-token/1'
#: Names of the vectors in a file, by kind of pipeline and encoder.
_KEYS = {'ldm': ('bert',), 'sd': ('clip_l',), 'sdxl': ('clip_l', 'clip_g')}
_NAME = re.compile(r'<[\w-]+>')


class InjectedEmbedding(nn.Module):
    """The token embedding of an encoder, whose output is replaced at the places of learned tokens."""

    def __init__(self, base: nn.Embedding) -> None:
        super().__init__()
        self.base = base
        self._places: Tensor | None = None
        self._vectors: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """Weights of the encoder's own embedding."""
        return self.base.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Embed ``(B, L)`` int64 as ``(B, L, D)``."""
        embedded = self.base(ids)
        if self._places is None or self._vectors is None:
            return embedded
        places = self._places.to(embedded.device)
        learned = self._vectors.to(embedded.device)[places.clamp(min=0)].to(embedded.dtype)
        return torch.where((places >= 0)[..., None], learned, embedded)

    @contextmanager
    def inject(self, places: Tensor | None, vectors: Tensor | None) -> Iterator[None]:
        """Replace embeddings inside the block by ``vectors``, ``(N, D)``.

        ``places``, ``(B, L)`` int64, are the index of the vector at each place, -1 for none.
        """
        self._places, self._vectors = places, vectors
        try:
            yield
        finally:
            self._places = self._vectors = None


@dataclass
class TokenBank:
    """Learned tokens of one or more defect types."""

    counts: dict[str, int]  # number of vectors of each token name such as `<crack>`, in the order of the vectors
    vectors: list[Tensor]  # for each text encoder `(N, D)` float, all tokens one after the other
    facts: dict = field(default_factory=dict)  # what else a file says about its token

    def tokenize(self, tokenizer, texts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        """Return ids and places of learned vectors, both ``(B, length)`` int64; ids are ordinary ones everywhere.

        Raises:
            ValueError: if a text is too long for its learned token.
        """
        parts = {name: [f'{name[:-1]}~{i}>' for i in range(count)] for name, count in self.counts.items()}
        all_parts = [part for name in parts for part in parts[name]]
        tokenizer.add_tokens(all_parts)
        expanded = [_NAME.sub(lambda m: ' '.join(parts[m[0]]) if m[0] in parts else m[0], text) for text in texts]
        options = dict(padding='max_length', max_length=length, truncation=True, return_tensors='pt')
        ids = tokenizer(expanded, **options).input_ids
        places = torch.full_like(ids, -1)
        for number, part in enumerate(all_parts):
            places[ids == tokenizer.convert_tokens_to_ids(part)] = number
        for text, row in zip(texts, places, strict=True):
            wanted = sum(self.counts.get(name, 0) for name in _NAME.findall(text))
            if int((row >= 0).sum()) < wanted:
                raise ValueError(
                    f'the text must have its learned tokens within {length} tokens, but {text!r} is longer; shorten it.'
                )
        stand_in = tokenizer('a', add_special_tokens=False).input_ids[0]
        return torch.where(places >= 0, torch.full_like(ids, stand_in), ids), places

    def names_in(self, text: str) -> list[str]:
        """Return the learned tokens that a text uses."""
        return [name for name in _NAME.findall(text) if name in self.counts]

    @staticmethod
    def join(banks: Sequence[TokenBank]) -> TokenBank:
        """Return the tokens of all banks; two tokens of one name raise ``ValueError``."""
        counts: dict[str, int] = {}
        for bank in banks:
            twice = sorted(set(counts) & set(bank.counts))
            if twice:
                raise ValueError(
                    f'each learned token must have its own name, but {twice[0]} comes twice; rename one and learn it.'
                )
            counts.update(bank.counts)
        return TokenBank(counts, [torch.cat(vectors) for vectors in zip(*(b.vectors for b in banks), strict=True)])


def token_name(defect_type: str) -> str:
    """Return the name of the token of a defect type: ``Bent wire`` becomes ``<bent-wire>``."""
    name = re.sub(r'[^\w]+', '-', defect_type.strip().lower()).strip('-_')
    if not name:
        raise ValueError(f'`defect_type` must hold letters or digits to name a token, got {defect_type!r}.')
    return f'<{name}>'


def start_vectors(model, init_word: str, count: int) -> list[Tensor]:
    """Return the vectors that learning starts from: those of an ordinary word, for each encoder ``(count, D)`` float32.

    A word of several tokens gives its vectors in turn; a word that a tokenizer does not know raises ``ValueError``.
    """
    starts = []
    for tokenizer, embedding in zip(model.tokenizers, model.embeddings, strict=True):
        ids = tokenizer(init_word, add_special_tokens=False).input_ids
        if not ids or (tokenizer.unk_token_id in ids and tokenizer.unk_token not in init_word):
            raise ValueError(
                f'`--init-word` must be known to the tokenizer of {model.name}, but {init_word!r} is not; '
                'take a common English word.'
            )
        ids = [ids[i % len(ids)] for i in range(count)]
        starts.append(embedding.weight.detach()[torch.tensor(ids, device=embedding.weight.device)].float().cpu())
    return starts


def save_tokens(path: str | os.PathLike, bank: TokenBank, kind: str) -> None:
    """Write the tokens of one type as safetensors, in one step."""
    import safetensors.torch

    vectors = [v.detach().float().cpu().contiguous() for v in bank.vectors]
    facts = dict(bank.facts, format=FORMAT, kind=kind, counts=bank.counts)
    tensors = dict(zip(_KEYS[kind], vectors, strict=True))
    write_bytes(path, safetensors.torch.save(tensors, metadata={'mmdefect': json.dumps(facts)}))


def find_token(folder: str | os.PathLike, category: str, defect_type: str) -> Path:
    """Return the file of a token: as ``learn`` writes it, or ``CATEGORY_TYPE/embeddings.pt`` as AnoGen does."""
    theirs = Path(folder) / f'{category}_{defect_type}' / 'embeddings.pt'
    return theirs if theirs.is_file() else Path(folder) / defect_type / 'token.safetensors'


def load_tokens(path: str | os.PathLike, model, defect_type: str = '') -> TokenBank:
    """Read a file of :func:`save_tokens`, or ``embeddings.pt`` of textual inversion, for a model.

    Args:
        defect_type: names the token of an ``embeddings.pt``, which does not say what it shows.

    Raises:
        ValueError: if the file is missing, of another format, or was learned for another kind of pipeline.
    """
    import safetensors

    path = Path(path)
    if not path.is_file():
        raise ValueError(f'the learned token {path} must exist; learn it with `tools/generate.py learn`.')
    widths = [e.weight.shape[1] for e in model.embeddings]
    if path.suffix == '.pt':
        vectors = read_embeddings(path)
        if [vectors.shape[1]] != widths:
            raise ValueError(
                f'{path} must hold vectors as wide as those of {model.name}, {widths}, but they have '
                f'{vectors.shape[1]} numbers; take the model that it was learned with.'
            )
        return TokenBank({token_name(defect_type): len(vectors)}, [vectors])
    try:
        with safetensors.safe_open(path, framework='pt') as file:
            facts = json.loads((file.metadata() or {}).get('mmdefect', '{}'))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (cannot be iterated)
    except safetensors.SafetensorError as err:
        raise ValueError(f'{path} must be a safetensors file, but is not ({err}); learn the token again.') from err
    if facts.get('format') != FORMAT:
        raise ValueError(
            f'{path} must be a learned token of format {FORMAT!r}, got {facts.get("format")!r}; learn it anew.'
        )
    found = [tensors[key].shape[1] for key in _KEYS[facts['kind']]]
    if facts['kind'] != model.kind or found != widths:
        raise ValueError(
            f'{path} was learned for a pipeline of kind {facts["kind"]} with vectors of {found}, but {model.name} is '
            f'of kind {model.kind} with {widths}; learn the token with this model.'
        )
    return TokenBank(facts['counts'], [tensors[key] for key in _KEYS[model.kind]], facts)
