"""Configuration to components: the schema, the resolvers that `conf/` uses, and building."""

from collections.abc import Callable
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from spectral_ft.configuration import CONF, EMBEDDED_MODEL
from spectral_ft.errors import ConfigError, SpectralFTError
from spectral_ft.experiment import Experiment
from spectral_ft.fingerprint import cache_home
from spectral_ft.identity import run_id
from spectral_ft.option_faults import fault_of_value, nearest
from spectral_ft.schema import GROUPS, RunConfig


def register() -> None:
    """Tell Hydra the root schema and the resolvers that `conf/` uses; once or more often."""
    ConfigStore.instance().store(name="schema", node=RunConfig)
    resolvers: dict[str, Callable[..., Any]] = {
        "run_id": lambda *, _root_: run_id(plain(_root_)),
        "sweep_name": lambda *, _root_: _root_.hydra.runtime.choices.get("experiment") or "sweep",
        "cache_home": lambda: str(cache_home()),
        "embedded_model": lambda: str(EMBEDDED_MODEL),
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
        raise ConfigError(f"{unknown[0]} is no option.{nearest(unknown[0], list(RunConfig.__dataclass_fields__))}")
    components = {group: _component(group, config[group]) for group in GROUPS}
    return Experiment(run_id=run_id(resolved), seed=config.seed, figures=config.figures, config=resolved, **components)


def _with_policy(config: DictConfig) -> DictConfig:
    # A control names another policy, whose options are those of its file.
    name = str(config.of)
    file = CONF / "rank_policy" / f"{name}.yaml"
    if not file.is_file():
        known = sorted(path.stem for path in file.parent.glob("*.yaml"))
        raise ConfigError(f"rank_policy.of={name} is no policy; there is {', '.join(known)}.{nearest(name, known)}")
    return OmegaConf.create({**config, "of": OmegaConf.load(file)})


def _component(group: str, config: DictConfig) -> Any:
    if group == "rank_policy" and isinstance(config.get("of"), str):
        config = _with_policy(config)
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
            raise ConfigError("\n".join(fault_of_value(group, config, fault) for fault in cause.errors())) from error
        raise ConfigError(f"{group} cannot be built: {cause}") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{group}: {str(error).splitlines()[0]}") from error
