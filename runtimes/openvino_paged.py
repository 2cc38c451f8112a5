"""A language model's graph with its rings taken out: OpenVINO keeps keys and values in pages, and attends to them there.

`edgekit.exporters.readers.causal` writes attention as products of queries with past keys and with new ones, whose joined
scores go through one softmax and multiply past and new values; OpenVINO computes these one by one, every score going
through memory several times, and the host copies the new columns. OpenVINO has one operator for all of it
(PagedAttention, Kwon et al. 2023, "Efficient Memory Management for Large Language Model Serving with PagedAttention"),
which also writes the new keys and values to their places. It is what openvino-genai runs.
"""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.text import POSITIONS, SLOTS, TOKENS, Memory, State

# Inputs of what a network becomes. Tokens in the pages of each text; where each text's tokens begin; pages; where each one's begin
PAST_LENS, BEGINS, PAGES, PAGES_BEGINS = "past_lens", "subsequence_begins", "block_indices", "block_indices_begins"
LONGEST = "max_context_len"  # tokens of the longest text
ROWS, SCORES = 2, 3  # axes: of texts × heads × tokens × size, and of texts × heads × tokens × seen
END = np.iinfo(np.int32).max  # a slice that ends here or later ends with the axis
HIDDEN = -1e8  # a score lowered by this much or more is seen by nobody


@dataclass(frozen=True)
class Sees:
    """What a bias lets queries see: so many tokens back, alike for every query of a group that shares keys."""

    reach: int
    group: int


@dataclass(frozen=True)
class Attention:
    """What one softmax is a part of: outputs of operators, rings, and how far back it sees."""

    query: Any  # texts × heads of keys × (queries of a group × tokens) × size, scaled
    new: tuple[Any, Any]  # keys and values of the new tokens, texts × heads of keys × tokens × size
    result: Any  # as the query
    past: tuple[str, str]  # the rings' names
    sees: Sees


def possible() -> bool:
    """Whether this processor is one that it was tried on."""
    return platform.machine().lower() in ("x86_64", "amd64")


def pages_of(ring: str) -> str:
    """The input that is in the place of a ring."""
    return f"pages.{ring}"


def put_in_pages(network: Any, memory: Memory) -> bool:
    """Change a network in place; False where it is of another kind, and as it was.

    Its inputs are then the tokens and their positions, tables (int32, of one axis), the length of the longest text (int32)
    and pages in the place of each ring; its output the logits.
    """
    taken = {port.get_any_name(): port.get_node() for port in network.inputs}
    given = {port.get_any_name(): port.get_node() for port in network.outputs}
    names = [state.input for state in memory.states]
    found = [_attention(node, names) for node in network.get_ordered_ops() if node.get_type_name() == "Softmax"]
    attentions = [attention for attention in found if attention is not None]
    used = [name for attention in attentions for name in attention.past]
    rings = {name: sizes for name in used if (sizes := _sizes(taken[name])) is not None}
    if len(attentions) < len(found) or not len(rings) == len(used) == len(names) or not _free(taken):
        return False
    new = {name: _name(source) for a in attentions for name, source in zip(a.past, a.new, strict=True)}
    if any(_gives(given, state) != new[state.input] for state in memory.states):
        return False
    tables = [_parameter(name, [-1]) for name in (PAST_LENS, BEGINS, PAGES, PAGES_BEGINS)] + [_parameter(LONGEST, [])]
    pages = {name: _parameter(pages_of(name), [-1, -1, -1, -1], np.float32) for name in used}  # the engine decides
    for attention in attentions:
        both = [(rings[name], pages[name]) for name in attention.past]
        _put(attention, both, tables, taken[TOKENS], min(attention.sees.reach, memory.context))
    for name in names:
        _without(taken[name], rings[name], taken[TOKENS])
        network.remove_parameter(taken[name])
    for state in memory.states:
        network.remove_result(given[state.output])
    network.add_parameters([*tables, *pages.values()])
    network.remove_parameter(taken[SLOTS])
    network.validate_nodes_and_infer_types()
    return True


def _attention(softmax: Any, rings: Collection[str]) -> Attention | None:
    """What a softmax is a part of, None where it is another computation."""
    scores, shares = _scores(softmax), _shares(softmax)
    if scores is None or shares is None:
        return None
    products, keys, bias = scores
    values = [_only_user(share, "MatMul", transpose_a=False, transpose_b=False) for share in shares]
    sums = [_only_user(value, "Add") for value in values if value is not None]
    queries = {_name(product.input_value(0)) for product in products}
    if len(sums) < 2 or None in sums or len({one.get_name() for one in sums}) > 1 or len(queries) > 1:
        return None
    past = [source.get_node() for source in (keys[0], values[0].input_value(1))]
    named = [node.get_friendly_name() for node in past if node.get_type_name() == "Parameter"]
    sees = _sees(bias)
    if len(named) < 2 or not set(named) <= set(rings) or sees is None:
        return None
    new = keys[1], values[1].input_value(1)
    return Attention(products[0].input_value(0), new, sums[0].output(0), (named[0], named[1]), sees)


def _free(taken: Mapping[str, Any]) -> bool:
    """Whether a network takes any number of texts and tokens."""
    shapes = [taken[name].get_output_partial_shape(0) for name in (TOKENS, POSITIONS, SLOTS) if name in taken]
    return len(shapes) == 3 and all(s.rank.get_length() == 2 and s[0].is_dynamic and s[1].is_dynamic for s in shapes)


def _gives(given: Mapping[str, Any], state: State) -> Any:
    """What makes the new columns of a ring, None where it is no ring of such a network."""
    ring = state.kind == "append" and state.axis == ROWS and state.output in given
    return _name(given[state.output].input_value(0)) if ring else None


def _put(
    attention: Attention, rings: Sequence[tuple[tuple[int, int], Any]], tables: Sequence[Any], tokens: Any, reach: int
) -> None:
    """Put one operator in the place of an attention to rings of these heads and sizes, whose pages are inputs."""
    from openvino import opset13
    from openvino.op import _PagedAttentionExtension

    ((heads, size), keys), ((_, wide), values) = rings
    count = opset13.shape_of(tokens, "i64")  # texts, tokens
    query, scale = _queries(attention.query, (heads, attention.sees.group, size), count)
    taken = [query, *(opset13.transpose(source, _ints([0, 2, 1, 3])) for source in attention.new)]
    widths = heads * attention.sees.group * size, heads * size, heads * wide
    rows = [opset13.reshape(node, _ints([-1, width]), False) for node, width in zip(taken, widths, strict=True)]
    inputs = (*rows, keys, values, *tables[:4], *_settings(scale, reach, tables[4]))
    operator = _PagedAttentionExtension([node.output(0) for node in inputs])
    described = operator.get_rt_info()  # which the operator of processors asks for
    described["num_k_heads"] = described["num_v_heads"] = heads
    described["k_head_size"], described["v_head_size"] = size, wide
    _give(operator.output(0), attention, (heads, attention.sees.group, wide), count)


def _queries(query: Any, sizes: tuple[int, int, int], count: Any) -> tuple[Any, float]:
    """Queries as texts × tokens × all heads × size, and what they are yet to be multiplied by.

    Where it can be followed back, they are taken from before they were scaled, turned and put into groups: reshapes
    leave their order as it is, and heads of a group follow one another.
    """
    from openvino import opset13

    heads, group, size = sizes
    scale, source = 1.0, query
    while (kind := source.get_node().get_type_name()) in ("Reshape", "Multiply"):
        factor = 1.0 if kind == "Reshape" else _value(source.get_node().input_value(1))
        if factor is None:
            break
        scale, source = scale * factor, source.get_node().input_value(0)
    if _is_of(source, heads * group, size):
        return opset13.transpose(source, _ints([0, 2, 1, 3])), scale  # what was turned twice OpenVINO leaves as it is
    texts = opset13.gather(count, _ints([0]), _ints(0))
    spread = opset13.reshape(query, _shape(texts, [heads, group, -1, size]), False)
    return opset13.transpose(spread, _ints([0, 3, 1, 2, 4])), 1.0


def _give(rows: Any, attention: Attention, sizes: tuple[int, int, int], count: Any) -> None:
    """Hand on what the operator gives, (texts × tokens) × (all heads × size), in the place of an attention's result; where
    that is only turned back afterwards, in the place of what it is then.
    """
    from openvino import opset13

    heads, group, size = sizes
    back = _turned_back(attention.result, heads * group, size)
    if back is not None:
        _instead(back, opset13.reshape(rows, _shape(count, [heads * group, size]), False).output(0))
        return
    spread = opset13.reshape(rows, _shape(count, [heads, group, size]), False)
    turned = opset13.transpose(spread, _ints([0, 2, 3, 1, 4]))
    texts = opset13.gather(count, _ints([0]), _ints(0))
    _instead(attention.result, opset13.reshape(turned, _shape(texts, [heads, -1, size]), False).output(0))


def _turned_back(result: Any, heads: int, size: int) -> Any:
    """What a result is after reshapes and a turn to texts × tokens × heads × size; None where that is not all."""
    while len(result.get_target_inputs()) == 1:
        (use,) = result.get_target_inputs()
        kind = use.get_node().get_type_name() if use.get_index() == 0 else ""
        if kind == "Transpose" and _turns(use.get_node()) and _is_of(result, heads, size):
            return use.get_node().output(0)
        if kind != "Reshape":
            return None
        result = use.get_node().output(0)
    return None


def _instead(old: Any, new: Any) -> None:
    for use in list(old.get_target_inputs()):
        use.replace_source_output(new)


def _is_of(output: Any, heads: int, size: int) -> bool:
    """Whether it is known to be texts × heads × tokens × size."""
    shape = output.get_partial_shape()
    if shape.rank.is_dynamic or shape.rank.get_length() != 4 or shape[1].is_dynamic or shape[3].is_dynamic:
        return False
    return (shape[1].get_length(), shape[3].get_length()) == (heads, size)


def _turns(transpose: Any) -> bool:
    """Whether it changes the places of heads and tokens."""
    order = transpose.input_value(1).get_node()
    return bool(order.get_type_name() == "Constant" and order.get_data().tolist() == [0, 2, 1, 3])


def _settings(scale: float, reach: int, length: Any) -> list[Any]:
    """The operator's other inputs, as OpenVINO 2026.4 has them: scale, window, slopes, the longest text, and what is not used."""
    from openvino import opset13

    def none(dtype: Any, *shape: int) -> Any:
        return opset13.constant(np.zeros(shape or (0,), dtype))

    number, zero = np.float32, opset13.constant(np.int32(0))
    window = opset13.constant(np.int32(reach + 1))
    return [
        opset13.constant(number(scale)), window, none(number), length,
        none(np.int32),  # score_aggregation_window
        none(np.int32), none(np.int32), none(number),  # rotated blocks, their deltas, the table
        none(number), zero, zero,  # xattention: threshold, block size, stride
        none(number, 0, 0, 0, 0), zero,  # sinks; adaptive eviction: start size
        none(np.int32), none(np.int32), none(np.int32),  # evictable sizes, indices, their begins
        none(np.int32), none(np.uint8), none(np.int32),  # token types, bias between queries, its begins
    ]  # fmt: skip


def _without(ring: Any, sizes: tuple[int, int], tokens: Any) -> None:
    """What asks for the sizes of a ring, of these heads and size, is told those of one without slots."""
    from openvino import opset13

    for use in list(ring.output(0).get_target_inputs()):
        if use.get_node().get_type_name() == "ShapeOf":
            texts = opset13.gather(opset13.shape_of(tokens, "i64"), _ints([0]), _ints(0))
            told = opset13.convert(
                _shape(texts, [sizes[0], 0, sizes[1]]), use.get_node().get_output_element_type(0).get_type_name()
            )
            _instead(use.get_node().output(0), told.output(0))


def _scores(softmax: Any) -> tuple[list[Any], list[Any], Any] | None:
    """The products of queries with past and with new keys, these keys, and what is added; None where it is another graph."""
    if softmax.get_attributes()["axis"] not in (SCORES, -1):
        return None
    added = softmax.input_value(0).get_node()
    for place in range(added.get_input_size() if added.get_type_name() == "Add" else 0):
        joined = added.input_value(place).get_node()
        if joined.get_type_name() != "Concat" or joined.get_attributes()["axis"] not in (SCORES, -1):
            continue
        parts = [joined.input_value(index).get_node() for index in range(joined.get_input_size())]
        keys = [_keys(part) for part in parts if _is(part, "MatMul", transpose_a=False)]
        if len(parts) == len(keys) == 2 and None not in keys:
            return parts, keys, added.input_value(1 - place)
    return None


def _keys(product: Any) -> Any:
    """What queries are multiplied with the transpose of, None where it is not transposed."""
    source = product.input_value(1)
    if product.get_attributes()["transpose_b"]:
        return source
    node = source.get_node()
    if node.get_type_name() != "Transpose" or node.input_value(1).get_node().get_type_name() != "Constant":
        return None
    turned = node.input_value(1).get_node().get_data().tolist() == [0, 1, SCORES, ROWS]
    return node.input_value(0) if turned else None


def _shares(softmax: Any) -> tuple[Any, Any] | None:
    """A softmax's two slices, that of the past first. Where it ends needs no look: values have to be as many."""
    parts = [use.get_node() for use in softmax.output(0).get_target_inputs()]
    if len(parts) != 2 or any(part.get_type_name() != "Slice" for part in parts):
        return None
    first, second = sorted(parts, key=lambda part: _constant(part, 1) != 0)
    whole = _constant(first, 1) == 0 and (_constant(second, 2) or 0) >= END
    along = all(_constant(part, 3) == 1 and _constant(part, 4) in (SCORES, -1) for part in parts)
    met = _name(first.input_value(2)) == _name(second.input_value(1))
    return (first, second) if whole and along and met else None


def _sees(bias: Any) -> Sees | None:
    """What a bias lets queries see, None where it does something else than `CausalStep`'s: 0 for tokens 0 to `reach` back,
    HIDDEN for others, once for each query of a group.
    """
    if not _is(bias.get_node(), "Unsqueeze") or _constant(bias.get_node(), 1) != 1:
        return None
    node, group = bias.get_node().input_value(0).get_node(), 1
    if _is(node, "Concat", axis=1):
        group = node.get_input_size()
        if len({_name(node.input_value(index)) for index in range(group)}) > 1:
            return None
        node = node.input_value(0).get_node()
    if not _is(node, "Select") or not _is(node.input_value(0).get_node(), "LogicalAnd"):
        return None
    seen, hidden = (_value(node.input_value(index)) for index in (1, 2))
    bounds = [node.input_value(0).get_node().input_value(index).get_node() for index in (0, 1)]
    least, most = sorted(bounds, key=lambda bound: bound.get_type_name())
    if not _is(least, "GreaterEqual") or not _is(most, "LessEqual"):
        return None
    distances = {_name(bound.input_value(0)) for bound in bounds}
    reach = _value(most.input_value(1))
    sound = seen == 0 and hidden is not None and hidden <= HIDDEN and _value(least.input_value(1)) == 0
    if not sound or reach is None or len(distances) > 1 or not _is_distance(least.input_value(0).get_node()):
        return None
    return Sees(int(reach), group)


def _is_distance(node: Any) -> bool:
    """Whether it is how far each slot and each new token lies behind each new token: texts × tokens × (slots + tokens)."""
    if not _is(node, "Subtract"):
        return False
    sides = [node.input_value(index).get_node() for index in (0, 1)]
    if not all(_is(side, "Unsqueeze") for side in sides):
        return False
    own, others = (side.input_value(0).get_node() for side in sides)
    axes = _constant(sides[0], 1) in (2, -1) and _constant(sides[1], 1) in (1, -2)
    if not axes or not _is(others, "Concat"):
        return False
    joined = [others.input_value(index).get_node() for index in range(others.get_input_size())]
    named = [n.get_friendly_name() if _is(n, "Parameter") else "" for n in (own, *joined)]
    return named == [POSITIONS, SLOTS, POSITIONS]


def _sizes(ring: Any) -> tuple[int, int] | None:
    """Heads and size of a ring whose texts and slots are free; None of another."""
    shape = ring.get_output_partial_shape(0)
    free = shape.rank.get_length() == 4 and shape[0].is_dynamic and shape[ROWS].is_dynamic
    fixed = free and shape[1].is_static and shape[3].is_static
    return (shape[1].get_length(), shape[3].get_length()) if fixed else None


def _parameter(name: str, shape: Sequence[int], dtype: Any = np.int32) -> Any:
    from openvino import opset13

    parameter = opset13.parameter(list(shape), dtype, name=name)
    parameter.output(0).set_names({name})
    return parameter


def _shape(first: Any, others: Sequence[int]) -> Any:
    """A shape of some sizes that are known when it runs, and others."""
    from openvino import opset13

    return opset13.concat([first, _ints(list(others))], 0)


def _ints(values: Any) -> Any:
    from openvino import opset13

    return opset13.constant(np.array(values, np.int64))


def _constant(node: Any, index: int) -> int | None:
    """The one integer that an input of a node is, None where it is another or computed."""
    value = _value(node.input_value(index))
    return None if value is None else int(value)


def _value(output: Any) -> float | None:
    """The one number that a constant is, None where it is none."""
    source = output.get_node()
    while source.get_type_name() == "Convert":
        source = source.input_value(0).get_node()
    if source.get_type_name() != "Constant":
        return None
    values = source.get_data()
    return values.item() if values.size == 1 else None


def _only_user(node: Any, kind: str, **attributes: Any) -> Any:
    """The one node that takes what a node gives, as its first input unless it is a sum; None where it is another kind."""
    uses = list(node.output(0).get_target_inputs())
    fits = len(uses) == 1 and (kind == "Add" or uses[0].get_index() == 0)
    return uses[0].get_node() if fits and _is(uses[0].get_node(), kind, **attributes) else None


def _is(node: Any, kind: str, **attributes: Any) -> bool:
    stated = node.get_attributes() if node.get_type_name() == kind else {}
    return node.get_type_name() == kind and all(stated.get(name) == value for name, value in attributes.items())


def _name(output: Any) -> tuple[str, int]:
    """What tells an output from every other."""
    return str(output.get_node().get_name()), int(output.get_index())
