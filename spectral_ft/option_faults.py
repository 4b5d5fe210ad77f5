"""What a wrong option is told: one sentence, with the nearest names."""

import re
import shlex
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
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

NAMELESS = "an option has no name: write OPTION=VALUE, such as seed=1."


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
    told = f"{option}={fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}."
    if form := _FORMS.get(fault["type"]):
        # The shell makes two arguments of KEY={A,B}.
        told += f" Write '{option}={form}', quoted for the shell."
    return told


_FORMS = {"dict_type": "{NAME: VALUE, ...}", "list_type": "[VALUE,...]"}
"""Pydantic's name of a fault to the form that the value should have."""


def explain(error: Exception, overrides: list[str]) -> str | None:
    """One sentence for what Hydra found wrong with the command line.

    Args:
        error: As Hydra raised it.
        overrides: Of the command line.

    Returns:
        The sentence, or None where the error is not about options.
    """
    if isinstance(error, HydraException):
        return _of_hydra(error, overrides)
    if isinstance(error, OmegaConfBaseException):
        key = f"{error.full_key}: " if error.full_key else ""
        return key + str(error).partition("\n")[0]
    if isinstance(error, ValueError | TypeError | AttributeError) and _is_raised_by_hydra(error):
        return _nameless_choice(overrides)
    return None


def _of_hydra(error: HydraException, overrides: list[str]) -> str | None:
    if isinstance(error, OverrideParseException):
        return _unreadable(str(error.override), overrides)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _unknown_choice(error.missing_cfg_file, error.options or [])
    if match := re.search(r"Could not override '([^']*)'", str(error)):
        return _unknown_option(match[1].partition("@")[0], overrides)
    if isinstance(error.__cause__, OmegaConfBaseException):
        return explain(error.__cause__, overrides)
    if match := re.search(r"Ambiguous value for argument '([^=]+)=(.*)'", str(error)):
        return (
            f"{match[1]}={match[2]} has a comma. For one value write {_quoted(match[1], match[2])}, for a list "
            f"'{match[1]}=[{match[2]}]'; to sweep over the values add -m."
        )
    return re.sub(r"\s+", " ", str(error)).strip() or None


def _nameless_choice(overrides: list[str]) -> str | None:
    # Hydra trips over a choice that is no name.
    for override in overrides:
        group, _, choice = override.lstrip("+~").partition("=")
        if not group:
            return NAMELESS
        no_name = not re.fullmatch(r"[\w/.-]+", choice) or not isinstance(yaml.safe_load(choice), str)
        if group in (*GROUPS, *SHORTCUTS) and (no_name or re.fullmatch(r"[-+.\d]+(e[-+]?\d+)?|nan|inf", choice)):
            return _unknown_choice(f"{group}/{choice}", sorted(path.stem for path in (CONF / group).glob("*.yaml")))
    return None


def _is_raised_by_hydra(error: Exception) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and "hydra" in Path(frames[-1].filename).parts


def _unreadable(override: str, overrides: list[str]) -> str:
    # What Hydra's grammar cannot read, most often a value that the shell has cut or that needs quotes.
    key, equals, value = override.partition("=")
    place = overrides.index(override) if override in overrides else len(overrides)
    if not equals:
        told = f"{override} is no option: write OPTION=VALUE, such as seed=1."
        key, equals, start = (overrides[place - 1] if 0 < place < len(overrides) else "").partition("=")
        if not equals or not re.search("[^a-z0-9.]", start):  # no path, nor a text of several words
            return told
        return f"{told} If it belongs to {key}, quote the value with its space: {_quoted(key, f'{start} {override}')}."
    if value[:1] in _CLOSING and value[-1:] != _CLOSING[value[0]]:
        rest = overrides[place + 1 :]
        closed = [number for number, part in enumerate(rest, start=1) if part.endswith(_CLOSING[value[0]])]
        if closed:
            whole = " ".join([override, *rest[: closed[0]]])
            return f"{override} is cut: the shell ends a value at a space. Quote the whole: {shlex.quote(whole)}."
    if value[:1] in _CLOSING and value[-1:] == _CLOSING[value[0]]:
        return (
            f"{override} is not understood: quote each text in it that has other characters than letters, digits and "
            f"-_./ with double quotes, and the whole for the shell: '{key}={value[0]}...{value[-1]}'."
        )
    return (
        f"{override} is not understood: a value with a space, a letter outside of ASCII or one of =,[]{{}}()'\"# needs "
        f"quotes for Hydra, and the whole needs them for the shell: {_quoted(key, value)}."
    )


_CLOSING = {"[": "]", "{": "}"}


def _quoted(key: str, value: str) -> str:
    # As it is to be typed; Hydra reads a backslash as itself unless a quote follows.
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', re.sub(r"(\\+)$", r"\1\1", value))
    return shlex.quote(f'{key}="{escaped}"')


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
    known = known or sorted(  # in folders below
        str(path.relative_to(CONF / group).with_suffix("")) for path in (CONF / group).rglob("*.yaml")
    )
    return f"{group}={choice} does not exist.{nearest(choice, known)} There is {', '.join(known)}."


def _unknown_option(key: str, overrides: list[str]) -> str:
    if not key:
        return NAMELESS
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
