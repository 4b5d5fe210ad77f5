"""Code and machine: versions, commit, cores, device, and the memory that is free."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

GROUP = Path("/sys/fs/cgroup")
"""Where a container's limits are."""
PACKAGES = (
    "spectral_ft",
    "torch",
    "transformers",
    "tokenizers",
    "peft",
    "bitsandbytes",
    "accelerate",
    "lm_eval",
    "hydra-core",
    "datasets",
    "numpy",
    "scipy",
)


def package_versions() -> dict[str, str]:
    """Versions of what the numbers depend on.

    Returns:
        Package to version; what is not installed is left out.
    """
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def git_commit() -> str | None:
    """The commit of the code, with a mark where files were changed.

    Returns:
        The hash, `HASH+changes`, or None outside a checkout.
    """
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def describe_machine() -> dict[str, Any]:
    """Cores and device; no host name.

    Returns:
        Plain values.
    """
    import torch

    cuda = torch.cuda.is_available()
    capability = {"compute_capability": "{}.{}".format(*torch.cuda.get_device_capability())} if cuda else {}
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "torch_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        **capability,
    }


def free_memory(device: "torch.device") -> int:
    """Bytes that can still be taken.

    Args:
        device: Where the model is.

    Returns:
        Of the device, what torch keeps of freed tensors included; or of the machine within the limit that its control
        group sets, less what the group's processes hold. Files that the system keeps in memory until it wants the room
        do not count. Never below 0.
    """
    import psutil
    import torch

    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + max(0, unused)
    free = int(psutil.virtual_memory().available)
    try:
        limit = (GROUP / "memory.max").read_text().strip()
        used = int((GROUP / "memory.current").read_text())
        kept = dict(line.split() for line in (GROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return free
    return max(0, min(free, int(limit) - used + int(kept.get("inactive_file", 0)))) if limit.isdigit() else free
