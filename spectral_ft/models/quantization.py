"""The precision of the frozen base: as stored, 4-bit NormalFloat, or 8-bit integers."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from spectral_ft.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig

OLDEST_GPU = (6, 0)
"""CUDA compute capability from which bitsandbytes has 4-bit and 8-bit kernels (its installation guide)."""
STRICT = ConfigDict(extra="forbid", strict=True)
OnCpu = Literal["dequantize_once", "packed"]
"""The option `quantization.on_cpu`."""


@dataclass(frozen=True, config=STRICT)
class Unquantized:
    """The weights as they are."""

    on_cpu: ClassVar[None] = None
    """Nothing is packed."""

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
    on_cpu: OnCpu | None = None
    """Whether a CPU dequantizes each weight once, or at every product; None: once if memory allows it."""

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
    on_cpu: OnCpu | None = None
    """As of `Nf4`."""

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


def check_supported(device: "torch.device") -> None:
    """Whether bitsandbytes can pack weights on a device.

    Args:
        device: Where the model will run.

    Raises:
        ConfigError: If it knows no such device, or the GPU is too old.
    """
    import bitsandbytes
    import torch

    remedy = "use quantization=none, or another device"
    if device.type not in bitsandbytes.supported_torch_devices:
        known = ", ".join(sorted(bitsandbytes.supported_torch_devices))
        raise ConfigError(f"bitsandbytes cannot pack weights on {device.type}, only on {known}: {remedy}.")
    if device.type == "cuda" and (found := torch.cuda.get_device_capability(device)) < OLDEST_GPU:
        raise ConfigError(
            f"{torch.cuda.get_device_name(device)} has compute capability {found[0]}.{found[1]}, and packed weights "
            f"need {OLDEST_GPU[0]}.{OLDEST_GPU[1]}: {remedy}."
        )
