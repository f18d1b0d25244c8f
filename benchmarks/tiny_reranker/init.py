"""Initial weights that rank before any training: a lexical matcher, and the product of two mean meanings.

A cross-encoder trained from nothing spends its time on finding out that equal words matter. Here it starts with that
knowledge, and with the meaning vectors of ``meaning``:

- embedding: a random code of the word stem, its meaning vector, its rarity and salience, a constant, and markers for
  template tokens; every token has the same length, so that the norms do not distort;
- layer 0, head 0: every token asks "is the document marker behind me?" and so learns that it stands in the document
  (the flag). Head 1 brings the code of the previous token;
- layer 1, head 0: a token looks for its own stem; what it finds in the query counts, what it finds in the document
  (at least itself) does not, so repeated words count less and less. The MLP multiplies by rarity. Head 1 looks for
  words of similar meaning in the query alone, with the text of the system turn as the answer "none";
- layer 2, head 0: the mean meaning of the query, weighted by salience. Head 1: that of the document, for the last token
  alone. The MLP multiplies the two: what a pair of sentence vectors would say;
- last layer: the last token averages the matches over the document (head 0) and looks at the best ones (head 1).

All other weights are small and random. Rotary positions would blur the comparison of distant tokens, so the codes lie
in the slowly rotating pairs of a head; the previous-token head alone uses the fast ones.
"""

import math
from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from benchmarks.tiny_reranker.codes import Codes
from benchmarks.tiny_reranker.meaning import SALIENCE_LIMIT, Meaning
from benchmarks.tiny_reranker.model import Attention, Mlp, TinyConfig, TinyReranker
from benchmarks.tiny_reranker.prompt import INSTRUCTION, JUDGE, PLAIN_TOKENS, SPECIAL_TOKENS, SUFFIX
from benchmarks.tiny_reranker.tokenizer import token_id

UNIT = 4.0  # length of each part of an embedding
LENGTH = 6**0.5 * UNIT  # length of a whole embedding
SHARPNESS = 1.05  # weight of the q- and k-norm: equal keys score sqrt(head_dim) * SHARPNESS ** 2, about 12.5
STEM_DIM, MEANING_DIM = 128, 128
# What each matched quantity adds to the answer, as fitted on 280 training lists, and the gain it is gathered with.
READOUT = {
    "mean_exact": 0.1,
    "peak_exact": 0.0,
    "mean_similar": 0.35,
    "peak_similar": 0.25,
    "dense": 1.1,
    "const": -0.6,
}
GAIN = {"mean_exact": 100, "mean_similar": 140, "peak_exact": 64, "peak_similar": 20}
SLOW = 24  # first rotary pair that turns by less than half a radian over 400 tokens


class Layout(NamedTuple):
    """Which dimensions of the hidden state hold what."""

    stem: slice = slice(0, 128)
    meaning: slice = slice(128, 256)
    previous: slice = slice(256, 296)
    idf: int = 296
    salience: int = 297
    const: int = 298
    sink: int = 299
    document: int = 300
    end: int = 301
    flag: int = 302
    exact_raw: int = 303
    similar: int = 304
    exact: int = 305
    dense: int = 306
    mean_exact: int = 307
    mean_similar: int = 308
    peak_exact: int = 309
    peak_similar: int = 310
    ballast: int = 319


AT = Layout()


def _unit_rows(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return nn.functional.normalize(torch.randn(rows, columns, generator=generator), dim=1)


def _orthogonal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(columns, rows, generator=generator))[0].T


def embedding(
    tokenizer: Tokenizer, codes: Codes, meaning: Meaning, config: TinyConfig, generator: torch.Generator
) -> Tensor:
    size = config.vocab_size
    of_class = _unit_rows(int(codes.class_of.max()) + 1, STEM_DIM, generator)[torch.from_numpy(codes.class_of)]
    own = _unit_rows(size, STEM_DIM, generator)
    # A piece inside a word is less of a word than the same letters after a space.
    share = torch.where(torch.from_numpy(codes.is_word), 0.95, 0.75)[:, None]
    table = torch.zeros(size, config.hidden_size)
    table[:, AT.stem] = UNIT * nn.functional.normalize(share * of_class + (1 - share**2).sqrt() * own, dim=1)
    table[:, AT.meaning] = UNIT * meaning.vectors
    table[:, AT.salience] = UNIT * meaning.salience / SALIENCE_LIMIT
    table[:, AT.idf] = UNIT * torch.from_numpy(codes.idf)
    table[:, AT.const] = UNIT
    for text in (*SPECIAL_TOKENS, *PLAIN_TOKENS, "system", "user", "assistant", "\u010a", "\u010a\u010a"):
        index = tokenizer.token_to_id(text)
        if index is not None:
            table[index, AT.idf] = 0
            table[index, AT.salience] = -1.5 * UNIT
            table[index, AT.meaning] = UNIT * _unit_rows(1, MEANING_DIM, generator)[0]
    table[token_id(tokenizer, f" {INSTRUCTION}"), AT.meaning] = 0
    table[token_id(tokenizer, JUDGE), AT.sink] = UNIT
    table[token_id(tokenizer, "<Document>:"), AT.document] = UNIT
    table[_end_token(tokenizer), AT.end] = UNIT
    length = table.norm(dim=1)
    table[:, AT.ballast] = (LENGTH**2 - length**2).clamp_min(0).sqrt()
    return table


def _end_token(tokenizer: Tokenizer) -> int:
    """The last token of the official prompt, where the answer is read."""
    return tokenizer.encode(SUFFIX).ids[-1]


def _slow(config: TinyConfig, first_pair: int, last_pair: int) -> Tensor:
    """Head dimensions of the rotary pairs from ``first_pair`` up to ``last_pair``; high pairs turn slowly."""
    pairs = torch.arange(first_pair, last_pair)
    return torch.cat((pairs, pairs + config.head_dim // 2))


def _head(weight: Tensor, head: int, config: TinyConfig) -> Tensor:
    """The rows of a head, emptied, as a view."""
    rows = weight[head * config.head_dim : (head + 1) * config.head_dim]
    return rows.zero_()


def _point(rows: Tensor, dims: Tensor, source: int, gain: float) -> None:
    """Lets hidden dimension ``source`` point along ``dims`` of a head."""
    rows[dims, source] = gain / math.sqrt(len(dims))


def _place_flag(attention: Attention, config: TinyConfig) -> None:
    u, v = _slow(config, 56, 64), _slow(config, 48, 56)
    queries, keys = (_head(linear.weight, 0, config) for linear in (attention.q_proj, attention.k_proj))
    _point(queries, u, AT.const, 1)
    _point(keys, v, AT.const, 1)
    _point(keys, u, AT.document, 5)
    _point(keys, u, AT.sink, 0.8)
    attention.v_proj.weight[0] = 0
    attention.v_proj.weight[0, AT.document] = 1 / (2 * UNIT)
    attention.o_proj.weight[AT.flag, 0] = UNIT


def _place_previous(attention: Attention, config: TinyConfig, generator: torch.Generator) -> None:
    """Peaks one token back: keys are constant in the fast pairs, queries are turned by one position."""
    size, dim, half = AT.previous.stop - AT.previous.start, config.head_dim, config.head_dim // 2
    pairs = torch.arange(0, 8)
    angles = config.rope_theta ** (-2.0 * pairs / dim)
    queries, keys = (_head(linear.weight, 1, config) for linear in (attention.q_proj, attention.k_proj))
    keys[pairs, AT.const] = 1
    # Rotated by the angle of one position, the key of the previous position meets this query exactly.
    queries[pairs, AT.const] = angles.cos()
    queries[pairs + half, AT.const] = -angles.sin()
    attention.v_proj.weight[dim : dim + size] = 0
    attention.v_proj.weight[dim : dim + size, AT.stem] = 0.5 * _orthogonal(size, STEM_DIM, generator)
    attention.o_proj.weight[AT.previous, dim : dim + size] = 0.25 * torch.eye(size)


def _place_exact(attention: Attention, config: TinyConfig, generator: torch.Generator) -> None:
    dims = _slow(config, SLOW, 64)
    projection = _orthogonal(len(dims), STEM_DIM, generator)
    for linear in (attention.q_proj, attention.k_proj):
        _head(linear.weight, 0, config)[dims, AT.stem] = projection
    attention.v_proj.weight[0] = 0
    attention.v_proj.weight[0, AT.const] = 1 / (2 * UNIT)
    attention.v_proj.weight[0, AT.flag] = -1 / (2 * UNIT)
    attention.o_proj.weight[AT.exact_raw, 0] = UNIT


def _place_similar(attention: Attention, config: TinyConfig) -> None:
    dim, dims, none = config.head_dim, _slow(config, SLOW, 60), _slow(config, 60, 64)
    queries, keys = (_head(linear.weight, 1, config) for linear in (attention.q_proj, attention.k_proj))
    for rows in (queries, keys):  # the meaning's main directions come first
        rows[dims, AT.meaning.start : AT.meaning.start + len(dims)] = torch.eye(len(dims))
    _point(queries, none, AT.const, 0.6)
    _point(keys, none, AT.sink, 6)
    _point(keys, none, AT.flag, -4)
    attention.v_proj.weight[dim] = 0
    attention.v_proj.weight[dim, AT.idf] = 1 / (2 * UNIT)
    attention.o_proj.weight[AT.similar, dim] = UNIT


def _place_means(attention: Attention, config: TinyConfig) -> None:
    """Brings the mean meaning of the query and, to the last token, that of the document, weighted by salience.

    The stem has done its work before this layer, so the mean of the query takes its place.
    """
    dim, eye = config.head_dim, torch.eye(MEANING_DIM)
    u, v, w, z = (_slow(config, first, first + 8) for first in (56, 48, 40, 32))
    for head, gain, target in ((0, -2.0, AT.stem), (1, 1.0, AT.meaning)):
        queries, keys = (_head(linear.weight, head, config) for linear in (attention.q_proj, attention.k_proj))
        source = AT.end if head else AT.const
        _point(queries, u, source, 1)
        _point(queries, w, source, math.copysign(1, gain))
        _point(keys, v, AT.const, 1)
        _point(keys, u, AT.salience, 0.3)
        _point(keys, w, AT.flag, abs(gain))
        if head:  # every other token rests on the system turn
            _point(queries, z, AT.const, 1)
            queries[z, AT.end] = -queries[z, AT.const]
            _point(keys, z, AT.sink, 6)
        rows = slice(head * dim, (head + 1) * dim)
        attention.v_proj.weight[rows] = 0
        attention.v_proj.weight[rows, AT.meaning] = eye / (2 * UNIT)
        attention.o_proj.weight[:, rows] = 0
        attention.o_proj.weight[target, rows] = 4 * UNIT * eye


def _place_dense(mlp: Mlp, end: Tensor) -> None:
    """dense = product of the two means; silu(x) - silu(-x) is x. What the end token's own codes add is taken off."""
    units = 2 * MEANING_DIM
    eye = torch.eye(MEANING_DIM)
    for weight, part, sign in ((mlp.gate_proj.weight, AT.stem, -1), (mlp.up_proj.weight, AT.meaning, 1)):
        rows = torch.zeros(MEANING_DIM, weight.shape[1])
        rows[:, part] = eye
        rows[:, AT.end] = -end[part] / UNIT
        weight[:units] = torch.cat((rows, sign * rows))
    mlp.down_proj.weight[:, :units] = 0
    mlp.down_proj.weight[AT.dense, :units] = 0.1 * torch.cat((eye, -eye)).sum(1)


def _place_product(mlp: Mlp) -> None:
    """exact = silu(exact_raw) * idf"""
    mlp.gate_proj.weight[0] = 0
    mlp.up_proj.weight[0] = 0
    mlp.down_proj.weight[:, 0] = 0
    mlp.gate_proj.weight[0, AT.exact_raw] = 0.5
    mlp.up_proj.weight[0, AT.idf] = 1 / (2 * UNIT)
    mlp.down_proj.weight[AT.exact, 0] = 1


def _place_readout(attention: Attention, config: TinyConfig) -> None:
    u, v, w = (_slow(config, first, first + 8) for first in (56, 48, 40))
    names = (("mean_exact", "mean_similar"), ("peak_exact", "peak_similar"))
    for head, peak in enumerate((0.0, 1.0)):
        queries, keys = (_head(linear.weight, head, config) for linear in (attention.q_proj, attention.k_proj))
        _point(queries, u, AT.const, 1)
        _point(queries, w, AT.const, peak)
        _point(keys, v, AT.const, 1)
        _point(keys, u, AT.flag, 5)
        _point(keys, w, AT.exact, 4)
        _point(keys, w, AT.similar, 2)
        first = head * config.head_dim
        attention.v_proj.weight[first : first + 2] = 0
        attention.v_proj.weight[first, AT.exact] = 1 / (2 * UNIT)
        attention.v_proj.weight[first + 1, AT.similar] = 1 / (2 * UNIT)
        for column, name in enumerate(names[head]):
            attention.o_proj.weight[getattr(AT, name), first + column] = GAIN[name]


@torch.no_grad()
def build(tokenizer: Tokenizer, codes: Codes, meaning: Meaning, config: TinyConfig, *, seed: int = 0) -> TinyReranker:
    generator = torch.Generator().manual_seed(seed)
    yes, no = (token_id(tokenizer, answer) for answer in ("yes", "no"))
    model = TinyReranker(config, yes, no)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            small = "o_proj" in name or "down_proj" in name
            parameter.normal_(0, 0.003 if small else 0.04, generator=generator)
    table = embedding(tokenizer, codes, meaning, config, generator)
    for layer in model.layers:
        layer.self_attn.q_norm.weight.fill_(SHARPNESS)
        layer.self_attn.k_norm.weight.fill_(SHARPNESS)
    attentions = [layer.self_attn for layer in model.layers]
    _place_flag(attentions[0], config)
    _place_previous(attentions[0], config, generator)
    _place_exact(attentions[1], config, generator)
    _place_similar(attentions[1], config)
    _place_product(model.layers[1].mlp)
    _place_means(attentions[2], config)
    _place_dense(model.layers[2].mlp, table[_end_token(tokenizer)])
    _place_readout(attentions[-1], config)
    readout = torch.zeros(config.hidden_size)
    for name, weight in READOUT.items():
        readout[getattr(AT, name)] = weight
    table[yes], table[no] = readout / 2, -readout / 2
    model.model.embed_tokens.weight.copy_(table)
    return model
