"""The precision of the frozen base: as stored, or 4-bit NormalFloat."""

from typing import TYPE_CHECKING

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig

STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, config=STRICT)
class Unquantized:
    """The weights as they are."""

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
