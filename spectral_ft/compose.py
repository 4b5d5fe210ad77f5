"""Configuration to components: resolvers, validation, and what a wrong option is told.

Only this file and the entries know Hydra.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, InstantiationException, MissingConfigException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from spectral_ft.errors import ConfigError, SpectralFTError
from spectral_ft.experiment import Experiment
from spectral_ft.fingerprint import cache_home
from spectral_ft.identity import run_id
from spectral_ft.schema import GROUPS, SHORTCUTS, RunConfig

PACKAGE = Path(__file__).parent
CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())
"""In a wheel it lies in the package, in a checkout at the top."""


def register() -> None:
    """Tell Hydra the root schema and the resolvers that `conf/` uses; once or more often."""
    ConfigStore.instance().store(name="schema", node=RunConfig)
    resolvers: dict[str, Callable[..., Any]] = {
        "run_id": lambda *, _root_: run_id(plain(_root_)),
        "sweep_name": lambda *, _root_: _root_.hydra.runtime.choices.get("experiment") or "sweep",
        "cache_home": lambda: str(cache_home()),
        "embedded_model": lambda: str(PACKAGE / "models" / "tiny"),
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def plain(config: DictConfig) -> dict[str, Any]:
    """A configuration without Hydra's own part, resolved.

    Args:
        config: As Hydra composed it.

    Returns:
        Plain dicts, lists and values.
    """
    return {
        str(key): OmegaConf.to_container(config[key], resolve=True) if OmegaConf.is_config(config[key]) else config[key]
        for key in config
        if key != "hydra"
    }


def build_experiment(config: DictConfig) -> Experiment:
    """Build every component; nothing heavy loads.

    Args:
        config: As Hydra composed it.

    Returns:
        The components.

    Raises:
        ConfigError: If an option has a wrong type or value, or does not exist.
    """
    resolved = plain(config)
    if unknown := sorted(set(resolved) - set(RunConfig.__dataclass_fields__)):
        raise ConfigError(f"{unknown[0]} is no option.{_nearest(unknown[0], list(RunConfig.__dataclass_fields__))}")
    components = {group: _component(group, config[group]) for group in GROUPS}
    return Experiment(run_id=run_id(resolved), seed=config.seed, config=resolved, **components)


def _component(group: str, config: DictConfig) -> Any:
    try:
        return instantiate(config, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        # What is nested (a task of a benchmark) is wrapped once a level.
        while isinstance(cause, InstantiationException) and cause.__cause__:
            cause = cause.__cause__
        if isinstance(cause, SpectralFTError):
            raise cause from None
        if isinstance(cause, ValidationError):
            raise ConfigError("\n".join(_fault(group, config, fault) for fault in cause.errors())) from error
        raise ConfigError(f"{group} cannot be built: {cause}") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{group}: {str(error).splitlines()[0]}") from error


def _fault(group: str, config: DictConfig, fault: Any) -> str:
    where = ".".join(str(part) for part in fault["loc"] if not str(part).startswith(("function-", "constrained-")))
    option = f"{group}.{where}"
    if fault["type"] == "unexpected_keyword_argument":
        return f"{option} is no option of {config.get('_target_')}.{_nearest(where, [str(key) for key in config])}"
    if fault["type"] == "missing":
        return f"{option} is missing."
    return f"{option}={fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}."


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(close)}?" if close else ""


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
    group, _, choice = file.rpartition("/")
    known = [option for option in options if not option.startswith("_")]
    return f"{group}={choice} does not exist.{_nearest(choice, known)} There is {', '.join(known)}."


def _unknown_option(key: str, overrides: list[str]) -> str:
    known = _known_keys(overrides)
    group = key.rpartition(".")[0]
    beside = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == group]
    listed = f" {group or 'The top level'} has {', '.join(beside)}." if beside else ""
    return f"{key} is no option.{_nearest(key, known)}{listed}"


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


def help_text() -> str:
    """Every group, every choice with its first comment line, every option with its comment.

    Returns:
        Text for a terminal.
    """
    lines = [
        "python -m spectral_ft.run [GROUP=CHOICE ...] [GROUP.OPTION=VALUE ...] [-m]",
        "",
        "One run: spectral analysis, allocation, fine-tuning, evaluation, record. With -m, several values",
        "separated by commas make a sweep. Without arguments: the embedded model, in two minutes.",
        "",
    ]
    about = dict(re.findall(r"^  - (\w+): \S+ +# (.*)$", (CONF / "config.yaml").read_text(), flags=re.M))
    for group in (*GROUPS, *SHORTCUTS):
        lines += [f"{group}=   {about[group]}", *_choices(CONF / group), ""]
    lines += ["Options (GROUP.OPTION=VALUE; those of the default choices, others are in conf/)", ""]
    lines += ["  seed=0                      of adapter initialisation, order of examples and dropout"]
    for group in GROUPS:
        lines += _options(group)
    lines += ["", "hydra.run.dir=DIR puts everything into DIR; by default it is runs/IDENTITY.", "More: --hydra-help"]
    return "\n".join(lines)


def _choices(folder: Path) -> list[str]:
    rows = []
    for file in sorted(folder.rglob("*.yaml")):
        if not file.name.startswith("_"):
            comments = [line[2:] for line in file.read_text().splitlines() if line.startswith("# ")]
            about = next((line for line in comments if not line.startswith("@package")), "")
            rows.append(f"  {file.relative_to(folder).with_suffix('')!s:<22}  {about}")
    return rows


def _options(group: str) -> list[str]:
    rows: list[str] = []
    files = [file for file in sorted((CONF / group).glob("*.yaml")) if file.name.startswith("_")]
    for file in files or sorted((CONF / group).glob("*.yaml")):
        text = re.sub(r"\n +# ", " ", file.read_text())  # a comment may go on in the next line
        for option, value, about in re.findall(r"^(\w+): *(.*?) +# (.*)$", text, flags=re.M):
            row = f"  {f'{group}.{option}={value}':<44}  {about}"
            if row not in rows:
                rows.append(row)
    return rows
