"""The table of architectures: where each `model_type` keeps the matrices of its blocks."""

from collections.abc import Mapping

from spectral_ft.models.stack import Stack, without_numbers
from spectral_ft.types import Side

_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_LLAMA = (
    Stack(
        prefix="model",
        blocks="layers",
        readers=(*_ATTENTION, "mlp.gate_proj", "mlp.up_proj"),
        writers=("self_attn.o_proj", "mlp.down_proj"),
    ),
)
_PHI3 = (
    Stack(
        prefix="model",
        blocks="layers",
        readers=("self_attn.qkv_proj", "mlp.gate_up_proj"),
        writers=("self_attn.o_proj", "mlp.down_proj"),
    ),
)
# Files name the experts one by one; a loaded model has them stacked in one tensor.
_MIXTRAL = (
    Stack(
        prefix="model",
        blocks="layers",
        readers=(
            *_ATTENTION,
            "mlp.gate",
            "mlp.experts.*.w1",
            "mlp.experts.*.w3",
            "mlp.experts.gate_up_proj",
        ),
        writers=("self_attn.o_proj", "mlp.experts.*.w2", "mlp.experts.down_proj"),
    ),
)
_QWEN_MOE = (
    Stack(
        prefix="model",
        blocks="layers",
        readers=(
            *_ATTENTION,
            "mlp.gate",
            "mlp.gate_proj",
            "mlp.up_proj",
            "mlp.experts.*.gate_proj",
            "mlp.experts.*.up_proj",
            "mlp.experts.gate_up_proj",
            "mlp.shared_expert.gate_proj",
            "mlp.shared_expert.up_proj",
            "mlp.shared_expert_gate",
        ),
        writers=(
            "self_attn.o_proj",
            "mlp.down_proj",
            "mlp.experts.*.down_proj",
            "mlp.experts.down_proj",
            "mlp.shared_expert.down_proj",
        ),
    ),
)
_GPT2 = (
    Stack(
        prefix="transformer",
        blocks="h",
        readers=("attn.c_attn", "mlp.c_fc"),
        writers=("attn.c_proj", "mlp.c_proj"),
        transposed=True,
    ),
)
_FALCON = (
    Stack(
        prefix="transformer",
        blocks="h",
        readers=("self_attention.query_key_value", "mlp.dense_h_to_4h"),
        writers=("self_attention.dense", "mlp.dense_4h_to_h"),
    ),
)
_GPT_NEOX = (
    Stack(
        prefix="gpt_neox",
        blocks="layers",
        readers=("attention.query_key_value", "mlp.dense_h_to_4h"),
        writers=("attention.dense", "mlp.dense_4h_to_h"),
    ),
)
_BERT = (
    Stack(
        prefix="bert",
        blocks="encoder.layer",
        readers=("attention.self.query", "attention.self.key", "attention.self.value", "intermediate.dense"),
        writers=("attention.output.dense", "output.dense"),
    ),
)


def _t5_stack(label: str, attention: tuple[str, ...], feed_forward: str) -> Stack:
    inner = (f"{feed_forward}.wi", f"{feed_forward}.wi_0", f"{feed_forward}.wi_1")
    return Stack(
        blocks=f"{label}.block",
        label=label,
        readers=(*(f"{module}.{part}" for module in attention for part in "qkv"), *inner),
        writers=(*(f"{module}.o" for module in attention), f"{feed_forward}.wo"),
    )


_T5 = (
    _t5_stack("encoder", ("layer.0.SelfAttention",), "layer.1.DenseReluDense"),
    _t5_stack("decoder", ("layer.0.SelfAttention", "layer.1.EncDecAttention"), "layer.2.DenseReluDense"),
)

ARCHITECTURES: Mapping[str, tuple[Stack, ...]] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _LLAMA,
    "phi3": _PHI3,
    "mixtral": _MIXTRAL,
    "qwen2_moe": _QWEN_MOE,
    "qwen3_moe": _QWEN_MOE,
    "gpt2": _GPT2,
    "falcon": _FALCON,
    "gpt_neox": _GPT_NEOX,
    "bert": _BERT,
    "t5": _T5,
}


def type_and_side(model_type: str, name: str, leaf: str) -> tuple[str, Side]:
    """What a matrix is called among those of its block, and whether it reads the residual stream.

    Args:
        model_type: As the checkpoint's `config.json` says.
        name: Its module path.
        leaf: The end of the path, inside the block.

    Returns:
        Its type and side; the path itself and `unknown` if the table does not know it.
    """
    where = name.removesuffix(leaf) if name.endswith(leaf) else name.partition(leaf)[0]
    for stack in ARCHITECTURES.get(model_type, ()):
        if f".{where}".endswith(f".{stack.blocks}.{_number(where)}.") and stack.knows(leaf):
            return stack.type_of(leaf), stack.side_of(leaf)
    return without_numbers(leaf).replace("*.", ""), "unknown"


def _number(where: str) -> str:
    return where.rstrip(".").rpartition(".")[2]
