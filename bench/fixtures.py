"""What the peers' own programs say of a checkpoint's block matrices: the oracle of `tests/test_agreement.py`.

    python bench/fixtures.py MODEL_FOLDER OUT.csv --spectrum CLONE --lora-ar CLONE

The clones are of github.com/QuixiAI/spectrum and github.com/UdiBhaskar/Adaptive-Rank-LoRA. Their
functions run as they are, but for what a machine without a GPU or a terminal lacks. The file's first line
says which commits and versions it was made by.
"""

import argparse
import importlib.metadata
import importlib.util
import subprocess
import sys
import types
from pathlib import Path

import pandas as pd
import peers
import torch

from spectral_ft.bfloat16 import widened
from spectral_ft.models.checkpoint import Checkpoint


def load(file: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commit(folder: Path) -> str:
    return subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout


def stand_ins() -> None:
    """A terminal for Spectrum's script, and a GPU that is none for LoRA-AR's."""
    shortcuts = types.ModuleType("prompt_toolkit.shortcuts")
    shortcuts.checkboxlist_dialog = shortcuts.input_dialog = None
    sys.modules["prompt_toolkit"] = types.ModuleType("prompt_toolkit")
    sys.modules["prompt_toolkit.shortcuts"] = shortcuts
    torch.Tensor.cuda = lambda tensor: tensor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--spectrum", type=Path, required=True)
    parser.add_argument("--lora-ar", type=Path, required=True)
    arguments = parser.parse_args()
    stand_ins()
    torch.set_num_threads(1)
    checkpoint = Checkpoint(arguments.model)
    weights = {
        matrix.name: torch.tensor(widened(checkpoint.block_matrices.read(matrix)), dtype=torch.float32)
        for matrix in checkpoint.matrices
    }
    model = torch.nn.ModuleDict()
    for name, weight in weights.items():
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        layer.weight = torch.nn.Parameter(weight, requires_grad=False)
        model[name.replace(".", "/")] = layer

    scanner = load(arguments.spectrum / "spectrum.py").ModelModifier()
    scanner.model = model
    scanner.calculate_snr_for_layer("")
    lora_ar = load(arguments.lora_ar / "src" / "adaptive_rank_assignment.py")
    adaptive = lora_ar.spectral_analysis_for_adaptive_lora(model).set_index("layer_name")
    watched = peers.weightwatcher_columns(weights)
    rows = [
        {
            "name": name,
            "spectrum_snr": scanner.layer_snr[key]["snr"],
            "lora_ar_alpha": adaptive.loc[key, "alpha_hill"],
            "lora_ar_num_spikes": adaptive.loc[key, "num_spikes"],
            "weightwatcher_alpha": watched[name]["alpha"],
        }
        for name, key in ((name, name.replace(".", "/")) for name in weights)
    ]
    made_by = (
        f"# bench/fixtures.py on {arguments.model.name}; spectrum {commit(arguments.spectrum).strip()[:12]}, "
        f"Adaptive-Rank-LoRA {commit(arguments.lora_ar).strip()[:12]}, "
        f"weightwatcher {importlib.metadata.version('weightwatcher')}, torch {torch.__version__}\n"
    )
    arguments.out.write_text(made_by + pd.DataFrame(rows).to_csv(index=False))


if __name__ == "__main__":
    main()
