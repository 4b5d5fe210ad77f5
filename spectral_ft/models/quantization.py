"""The precision of the frozen base: as stored, 4-bit NormalFloat, or 8-bit integers."""

from typing import TYPE_CHECKING, Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig

STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, config=STRICT)
class Unquantized:
    """The weights as they are."""

    @property
    def bits(self) -> None:
        """What they take a parameter; None: as many as the dtype has."""

    @property
    def label(self) -> str:
        """What records call it."""
        return "none"

    def load_options(self, compute_dtype: "torch.dtype") -> None:
        """What `from_pretrained` is told.

        Args:
            compute_dtype: Not used.
        """
        del compute_dtype


@dataclass(frozen=True, config=STRICT)
class Nf4:
    """4-bit NormalFloat with block scales, through bitsandbytes.

    Source: QLoRA, arXiv:2305.14314, section 3.
    """

    double_quantization: bool

    @property
    def bits(self) -> float:
        """What they take a parameter: 4, and a scale a block of 64, in 8 bits with one float32 for 256 of them."""
        return 4 + (8 / 64 + 32 / (64 * 256) if self.double_quantization else 32 / 64)

    @property
    def label(self) -> str:
        """What records call it."""
        return "nf4-double" if self.double_quantization else "nf4"

    def load_options(self, compute_dtype: "torch.dtype") -> "BitsAndBytesConfig":
        """What `from_pretrained` is told.

        Args:
            compute_dtype: Of the dequantized matrix products; float32 on a CPU, where bf16 is
                30 to 50 times slower.

        Returns:
            The bitsandbytes configuration.
        """
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=self.double_quantization,
            bnb_4bit_compute_dtype=compute_dtype,
        )


@dataclass(frozen=True, config=STRICT)
class Int8:
    """8-bit integers with one scale a row, through bitsandbytes.

    Source: LLM.int8(), arXiv:2208.07339.
    """

    threshold: Annotated[float, Field(ge=0)]

    @property
    def bits(self) -> float:
        """What they take a parameter; the scale of a row is left out."""
        return 8.0

    @property
    def label(self) -> str:
        """What records call it."""
        return "int8"

    def load_options(self, compute_dtype: "torch.dtype") -> "BitsAndBytesConfig":
        """What `from_pretrained` is told.

        Args:
            compute_dtype: Not used: it is that of the input.

        Returns:
            The bitsandbytes configuration.
        """
        del compute_dtype
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=self.threshold)
