"""The `Quantization`: what `config.json` says of the format of a checkpoint's matrices."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

from quire.engine.api.errors import StartupError
from quire.engine.json_file import shortened
from quire.engine.quantization.linear_method import PLAIN, LinearMethod
from quire.engine.quantization.packed import Awq, CompressedPacked, Gptq
from quire.engine.quantization.scaled import Scaled

_Code: TypeAlias = Literal["F8_E4M3", "I8"]
_CODES: Final[Mapping[str, _Code]] = MappingProxyType({"float8": "F8_E4M3", "int8": "I8"})
_PACKED_BITS: Final[Mapping[str, int]] = MappingProxyType({"int4": 4, "int8": 8})
_PLAIN_FORMS: Final = ("float-quantized", "int-quantized", "naive-quantized")
# Of columns, those that leave them where they are.
_ORDERS: Final = (None, "static", "weight")
# The output layer, which most formats leave alone without saying so.
_HEAD: Final = (re.compile(r"(^|\.)lm_head(\.|$)"),)


@dataclass(frozen=True, slots=True)
class Quantization:
    """Attributes:
    default: format of every matrix that is not left alone.
    left_alone: patterns of names of the others.
    """

    default: LinearMethod = PLAIN
    left_alone: tuple[re.Pattern[str], ...] = ()

    def method(self, name: str) -> LinearMethod:
        """Of a matrix, by its name without the last part."""
        return PLAIN if any(pattern.search(name) for pattern in self.left_alone) else self.default


UNQUANTIZED: Final = Quantization()


def read_quantization(given: object) -> Quantization:
    """
    Args:
        given: `quantization_config` of config.json; None: there is none.

    Raises:
        StartupError: the format is not known, or not one of its variants that are.
    """
    if given is None:
        return UNQUANTIZED
    if not isinstance(given, dict):
        raise StartupError(f"quantization_config must be an object, got {shortened(given)}")
    kind = given.get("quant_method")
    if not isinstance(kind, str) or kind not in _FORMATS:
        raise StartupError(
            f"quantization_config: quant_method must be one of {', '.join(_FORMATS)}, got {shortened(kind)}"
        )
    return _FORMATS[kind](given)


def _float8(given: Mapping[str, Any]) -> Quantization:
    left_alone = (*_named(given.get("modules_to_not_convert")), *_HEAD)
    if given.get("weight_block_size") is None:
        static = given.get("activation_scheme") == "static"
        return Quantization(Scaled("F8_E4M3", "tensor", has_input_scale=static), left_alone)
    rows, columns = _block(given, "weight_block_size")
    return Quantization(Scaled("F8_E4M3", "block", "weight_scale_inv", group=columns, block_rows=rows), left_alone)


def _awq(given: Mapping[str, Any]) -> Quantization:
    _must(given, "bits", 4)
    _must(given, "version", "gemm")
    _must(given, "zero_point", True)
    return Quantization(Awq(_group(given)), (*_named(given.get("modules_to_not_convert")), *_HEAD))


def _gptq(given: Mapping[str, Any]) -> Quantization:
    bits = given.get("bits")
    if bits not in (4, 8):
        raise StartupError(f"quantization_config: bits must be 4 or 8, got {shortened(bits)}")
    offset = 0 if given.get("checkpoint_format") == "gptq_v2" else 1
    return Quantization(Gptq(bits, _group(given), offset), _HEAD)


def _compressed_tensors(given: Mapping[str, Any]) -> Quantization:
    groups = given.get("config_groups")
    if not isinstance(groups, dict) or len(groups) != 1:
        raise StartupError(f"quantization_config: config_groups must have one group, got {shortened(groups)}")
    (group,) = groups.values()
    if not isinstance(group, dict) or group.get("targets") != ["Linear"] or not isinstance(group.get("weights"), dict):
        raise StartupError(f"quantization_config: targets must be ['Linear'], got {shortened(group)}")
    form = group.get("format") or given.get("format")
    inputs = group.get("input_activations")
    static = isinstance(inputs, dict) and not inputs.get("dynamic")
    return Quantization(_compressed_weights(form, group["weights"], static), _named(given.get("ignore")))


def _compressed_weights(form: object, weights: Mapping[str, Any], has_input_scale: bool) -> LinearMethod:
    """Of a group; symmetric unless it says otherwise."""
    kind, strategy = f"{weights.get('type')}{weights.get('num_bits')}", weights.get("strategy")
    is_symmetric, in_order = weights.get("symmetric", True) is True, weights.get("actorder") in _ORDERS
    if form == "pack-quantized" and kind in _PACKED_BITS and in_order:
        return CompressedPacked(_PACKED_BITS[kind], _group(weights) if strategy == "group" else 0, is_symmetric)
    code = _CODES.get(kind) if form in _PLAIN_FORMS and is_symmetric else None
    if code is not None and strategy == "block":
        rows, columns = _block(weights, "block_structure")
        return Scaled(code, "block", group=columns, block_rows=rows, has_input_scale=has_input_scale)
    if code is not None and strategy == "group":
        return Scaled(code, "group", group=_group(weights), has_input_scale=has_input_scale)
    if code is not None and strategy in ("tensor", "channel"):
        return Scaled(code, strategy, has_input_scale=has_input_scale)
    raise StartupError(
        f"quantization_config: weights must be int4 or int8 packed, or symmetric fp8 or int8, got format {form!r} of "
        f"{shortened(dict(weights))}"
    )


_FORMATS: Final[Mapping[str, Callable[[Mapping[str, Any]], Quantization]]] = MappingProxyType(
    {"fp8": _float8, "awq": _awq, "gptq": _gptq, "compressed-tensors": _compressed_tensors}
)


def _group(given: Mapping[str, Any]) -> int:
    """Columns of a group; 0: a row is one."""
    size = given.get("group_size")
    if size == -1:
        return 0
    if not isinstance(size, int) or not _is_size(size):
        raise StartupError(f"quantization_config: group_size must be -1 or above 0, got {shortened(size)}")
    return size


def _block(given: Mapping[str, Any], name: str) -> tuple[int, int]:
    """Rows and columns of a block."""
    found = given.get(name)
    if not (isinstance(found, list) and len(found) == 2 and all(map(_is_size, found))):
        raise StartupError(f"quantization_config: {name} must be two sizes, got {shortened(found)}")
    return found[0], found[1]


def _must(given: Mapping[str, Any], name: str, wanted: object) -> None:
    if given.get(name) != wanted:
        raise StartupError(f"quantization_config: {name} must be {wanted!r}, got {shortened(given.get(name))}")


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _named(names: object) -> tuple[re.Pattern[str], ...]:
    """Patterns of module names: those with a prefix of "re:" are regular expressions, others parts of names."""
    if names is None:
        return ()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise StartupError(f"quantization_config: modules left alone must be a list of names, got {shortened(names)}")
    try:
        return tuple(
            re.compile("^" + name.removeprefix("re:") if name.startswith("re:") else rf"(^|\.){re.escape(name)}(\.|$)")
            for name in names
        )
    except re.error as error:
        raise StartupError(f"quantization_config: not a regular expression: {error}") from error
