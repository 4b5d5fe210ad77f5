"""What a wrong option is told: one sentence, with the nearest names."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from spectral_ft.configuration import CONF
from spectral_ft.schema import GROUPS, SHORTCUTS
from spectral_ft.spelling import nearest

PACKAGES = {
    "hydra/launcher/joblib": "sweeps",
    "hydra/launcher/submitit_local": "sweeps",
    "hydra/launcher/submitit_slurm": "sweeps",
    "hydra/sweeper/optuna": "sweeps",
    "hydra/launcher/ray": "ray",
}
"""Choices that come with packages of their own, to the extra of pyproject.toml that brings them."""


def fault_of_value(group: str, config: Mapping[str, Any], fault: Any) -> str:
    """What pydantic found wrong with an option.

    Args:
        group: Of the configuration.
        config: Its content.
        fault: One of pydantic's errors.

    Returns:
        The sentence.
    """
    where = ".".join(str(part) for part in fault["loc"] if not str(part).startswith(("function-", "constrained-")))
    option = f"{group}.{where}"
    if fault["type"] == "unexpected_keyword_argument":
        return f"{option} is no option of {config.get('_target_')}.{nearest(where, [str(key) for key in config])}"
    if fault["type"] == "missing":
        return f"{option} is missing."
    return f"{option}={fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}."


def explain(error: Exception, overrides: list[str]) -> str | None:
    """One sentence for what Hydra found wrong with the command line.

    Args:
        error: As Hydra raised it.
        overrides: Of the command line.

    Returns:
        The sentence, or None where the error is not about options.
    """
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _unknown_choice(error.missing_cfg_file, error.options or [])
    if isinstance(error, ConfigCompositionException):
        if match := re.search(r"Could not override '([^']+)'", str(error)):
            return _unknown_option(match[1].partition("@")[0], overrides)
        if isinstance(error.__cause__, OmegaConfBaseException):
            return explain(error.__cause__, overrides)
        return re.sub(r"\s+", " ", str(error))
    if isinstance(error, OmegaConfBaseException):
        key = f"{error.full_key}: " if error.full_key else ""
        return key + str(error).partition("\n")[0]
    return None


def _unknown_choice(file: str, options: Sequence[str]) -> str:
    owner = next((group for group in GROUPS if file.startswith(f"{group}/")), None)
    group, _, choice = file.rpartition("/") if owner is None else (owner, "/", file[len(owner) + 1 :])
    if group == "model" and "/" in choice:
        option = "model.path" if choice.startswith(("/", ".", "~")) else "model.id"
        return f"model={choice} does not exist: for a model of your own choice write model=hf {option}={choice}."
    if extra := PACKAGES.get(file):
        pinned = "" if extra == "ray" else "-c constraints.txt "  # whose launcher wants another cloudpickle
        install = f"pip install {pinned}-e '.[{extra}]'"
        return f"{group}={choice} comes with a package that is not installed: in the repository, {install}."
    known = [option for option in options if not option.startswith("_")]
    return f"{group}={choice} does not exist.{nearest(choice, known)} There is {', '.join(known)}."


def _unknown_option(key: str, overrides: list[str]) -> str:
    known = _known_keys(overrides)
    if key in known:  # a mapping, to which a key is added
        return f"{key} has other keys than those given: write +{key}={{...}} to add to them."
    group = key.rpartition(".")[0]
    beside = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == group]
    listed = f" {group or 'The top level'} has {', '.join(beside)}." if beside else ""
    return f"{key} is no option.{nearest(key, known)}{listed}"


def _known_keys(overrides: list[str]) -> list[str]:
    # Every option under the group choices of a command line, in dots.
    choices = [item for item in overrides if item.partition("=")[0] in (*GROUPS, *SHORTCUTS) and "," not in item]
    for attempt in (choices, []):
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(CONF), version_base="1.3"):
                config = compose("config", overrides=attempt)
            return _keys(config)
        except (ConfigCompositionException, MissingConfigException):
            continue
    return [*GROUPS, *SHORTCUTS]


def _keys(config: DictConfig, prefix: str = "") -> list[str]:
    found = []
    for key in map(str, config):
        if key.startswith("_"):
            continue
        found.append(f"{prefix}{key}")
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none():
            found += _keys(node, f"{prefix}{key}.")
    return found
