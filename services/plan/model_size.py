"""The `ModelSize`: what `config.json` says of a model's parameters, keys and values."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from quire.engine.json_file import read_json_object
from quire.engine.model.hf_config import HfConfig, read_hf_config

_INDEX: Final = "model.safetensors.index.json"
_SINGLE: Final = "model.safetensors"


@dataclass(frozen=True, slots=True)
class ModelSize:
    """A dense decoder of the families that Quire serves.

    Attributes:
        num_layers, num_kv_heads, head_dim, num_qo_heads, hidden_size, intermediate_size, vocab_size: sizes.
        num_linear: parameters of all layers' matrices.
        num_other: of everything else but the two embeddings: norms and biases.
        num_embeddings: matrices of the vocabulary's size; 1: the output layer is the embedding.
        max_model_len: tokens of prompt and generation together.
        num_windows: kinds of windows that attention has.
        dtype: of the checkpoint, as config.json says.
        stored_bytes: of the checkpoint's weights; None: they are not there, and no index says it.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int
    num_qo_heads: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    num_linear: int
    num_other: int
    num_embeddings: int
    max_model_len: int
    num_windows: int
    dtype: str | None
    stored_bytes: int | None

    @property
    def head(self) -> int:
        """Parameters of the output layer."""
        return self.vocab_size * self.hidden_size

    @property
    def num_parameters(self) -> int:
        return self.num_linear + self.num_other + self.num_embeddings * self.head

    def operations(self, num_tokens: float, num_keys: float, num_sampled: float) -> float:
        """Of a step: two for each parameter and token, four for each number of a query and each key before it.

        Args:
            num_keys: that a token attends to, on average.
            num_sampled: rows that need logits.
        """
        attention = 4 * num_tokens * num_keys * self.num_qo_heads * self.head_dim * self.num_layers
        return 2 * self.num_linear * num_tokens + 2 * self.head * num_sampled + attention


def read_model_size(folder: Path) -> ModelSize:
    """
    Raises:
        StartupError: config.json cannot be read, or is of no family that Quire serves.
    """
    description = read_json_object(folder / "config.json")
    hf, kind = read_hf_config(description), description["model_type"]
    dtype = description.get("dtype", description.get("torch_dtype"))
    q_size, kv_size = hf.num_attention_heads * hf.head_dim, hf.num_key_value_heads * hf.head_dim
    matrices = hf.hidden_size * (2 * q_size + 2 * kv_size + 3 * hf.intermediate_size)
    return ModelSize(
        num_layers=hf.num_hidden_layers,
        num_kv_heads=hf.num_key_value_heads,
        head_dim=hf.head_dim,
        num_qo_heads=hf.num_attention_heads,
        hidden_size=hf.hidden_size,
        intermediate_size=hf.intermediate_size,
        vocab_size=hf.vocab_size,
        num_linear=hf.num_hidden_layers * matrices,
        num_other=hf.num_hidden_layers * _num_small(hf, kind) + hf.hidden_size,
        num_embeddings=1 if hf.tie_word_embeddings else 2,
        max_model_len=hf.max_position_embeddings,
        num_windows=_num_windows(hf, kind),
        dtype=dtype if isinstance(dtype, str) else None,
        stored_bytes=_stored_bytes(folder),
    )


def _stored_bytes(folder: Path) -> int | None:
    single = folder / _SINGLE
    if single.is_file():
        return single.stat().st_size
    metadata = read_json_object(folder / _INDEX, required=False).get("metadata")
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    return size if isinstance(size, int) else None


def _num_small(hf: HfConfig, kind: str) -> int:
    """Parameters of a layer's norms and biases; the families differ in which they have."""
    q_size, kv_size = hf.num_attention_heads * hf.head_dim, hf.num_key_value_heads * hf.head_dim
    norms = 2 * hf.hidden_size + (2 * hf.head_dim if kind == "qwen3" else 0)
    has_biases = hf.attention_bias and kind in ("llama", "qwen3")
    qkv = q_size + 2 * kv_size if has_biases or kind == "qwen2" else 0
    output = hf.hidden_size if has_biases else 0
    mlp = 2 * hf.intermediate_size + hf.hidden_size if hf.mlp_bias and kind == "llama" else 0
    return norms + qkv + output + mlp


def _num_windows(hf: HfConfig, kind: str) -> int:
    """Kinds of layers by how far they see back."""
    return len(set(hf.layer_types)) if kind.startswith("qwen") and hf.layer_types else 1
