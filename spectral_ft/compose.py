"""Configuration to components: the schema, the resolvers that `conf/` uses, and building."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra.core.config_search_path import SearchPathElement
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from spectral_ft.composition import check_composition, check_parts
from spectral_ft.configuration import CONF, EMBEDDED_MODEL
from spectral_ft.errors import ConfigError, SpectralFTError
from spectral_ft.experiment import Experiment, PlanParts
from spectral_ft.fingerprint import cache_home
from spectral_ft.identity import run_id
from spectral_ft.option_faults import explain, fault_of_value
from spectral_ft.schema import GROUPS, RunConfig
from spectral_ft.spelling import nearest

ADDED = ("drift",)
"""Groups that records of format 1 may lack: they came later, and change no result."""


def register() -> None:
    """Tell Hydra the root schema and the resolvers that `conf/` uses; once or more often."""
    ConfigStore.instance().store(name="schema", node=RunConfig)
    resolvers: dict[str, Callable[..., Any]] = {
        "run_id": lambda *, _root_: run_id(plain(_root_)),
        "sweep_name": _sweep_name,
        "chosen": lambda group, *, _root_: _chosen(group, _hydra(_root_)),
        "sweep_group": lambda *, _root_: _sweep_group(_hydra(_root_)),
        "cache_home": lambda: str(cache_home()),
        "embedded_model": lambda: str(EMBEDDED_MODEL),
    }
    for name, resolver in resolvers.items():
        # Hydra hands what is kept on to the jobs of a sweep: all are in one folder, whichever scale each was told.
        OmegaConf.register_new_resolver(name, resolver, replace=True, use_cache=name == "sweep_name")


def _sweep_name(experiment: str | None, scale: str) -> str:
    name = experiment or "sweep"
    return name if scale == "full" else f"{name}-{scale}"


def _hydra(root: Any) -> Any:
    # Hydra's own part: in the configuration until a job begins, then in a place of its own; nowhere outside a command.
    if "hydra" in root:
        return root.hydra
    return HydraConfig.get() if HydraConfig.initialized() else None


def _chosen(group: str, hydra: Any) -> str | None:
    return hydra.runtime.choices.get(group) if hydra is not None else None


def _sweep_group(hydra: Any) -> str | None:
    return Path(hydra.sweep.dir).resolve().name if hydra is not None and hydra.mode == RunMode.MULTIRUN else None


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
    components = {group: _component(group, config[group], seed=config.seed) for group in GROUPS}
    experiment = Experiment(
        run_id=run_id(resolved), seed=config.seed, figures=config.figures, config=resolved, **components
    )
    check_composition(experiment)
    return experiment


def recorded_experiment(config: Mapping[str, Any]) -> Experiment:
    """The components of a run that was recorded, by this version or one that knew fewer groups.

    Args:
        config: Resolved, as `run.json` or `result.json` has it.

    Returns:
        The components; a group that the record does not know is as if it did not exist (`none`).
    """
    added = {group: composed([f"{group}=none"])[group] for group in ADDED if group not in config}
    register()
    return build_experiment(OmegaConf.create({**config, **added}))


def composed(overrides: list[str]) -> DictConfig:
    """A configuration, composed outside of a command, or beside the one that runs.

    Args:
        overrides: As on the command line.

    Returns:
        The configuration, not resolved.

    Raises:
        ConfigError: If a choice or an option does not exist.
    """
    register()
    running = GlobalHydra.instance().hydra
    try:
        if running is not None and any(str(CONF) in str(place.path) for place in _places(running)):
            return hydra_compose(config_name="config", overrides=overrides)  # it also knows the user's --config-dir
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra_compose(config_name="config", overrides=overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, overrides) or str(error).splitlines()[0]) from error
    finally:
        GlobalHydra.instance().hydra = running


def _places(running: Hydra) -> Sequence[SearchPathElement]:
    return running.config_loader.get_search_path().get_path()


def build_parts(named: str, *, option: str, seed: int) -> PlanParts:
    """What makes the plan of another method.

    Args:
        named: METHOD or METHOD/POLICY, then overrides of their options, separated by spaces.
        option: That named it, for the error.
        seed: Of the run, for a policy without a seed of its own.

    Returns:
        The components, with the options of their files where no override says otherwise.

    Raises:
        ConfigError: If there is no such method or policy, an option is wrong, or they do not go together.
    """
    first, *overrides = named.split() or [""]
    method, _, policy = first.partition("/")
    for group, choice in (("method", method), ("rank_policy", policy)):
        _check_choice(group, choice, option=option, said=named) if choice or group == "method" else None
    chosen = [f"method={method}", *([f"rank_policy={policy}"] if policy else []), *overrides]
    config = composed([f"seed={seed}", *chosen])
    parts = PlanParts(**{
        group: _component(group, config[group], seed=config.seed) for group in PlanParts.__dataclass_fields__
    })
    check_parts(parts)
    return parts


def _check_choice(group: str, choice: str, *, option: str, said: str) -> None:
    known = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    if choice not in known:
        raise ConfigError(f"{option}={said} names no {group}: there is {', '.join(known)}.{nearest(choice, known)}")


def _with_policy(config: DictConfig) -> DictConfig:
    # A control names another policy, whose options are those of its file.
    name = str(config.of)
    _check_choice("rank_policy", name, option="rank_policy.of", said=name)
    other = OmegaConf.load(CONF / "rank_policy" / f"{name}.yaml")
    if "of" in other:
        raise ConfigError(f"rank_policy.of is {name}, itself a control: name another policy.")
    return OmegaConf.create({**config, "of": other})


def _component(group: str, config: DictConfig, *, seed: int) -> Any:
    if group == "rank_policy":
        config = _with_policy(config) if isinstance(config.get("of"), str) else config
        if "seed" in config and config.seed is None:  # stays null in the record: runs of other seeds are of one arm
            config = OmegaConf.create({**config, "seed": seed})
    try:
        if group == "budget" and isinstance(config.get("of"), str):
            others = OmegaConf.create({key: value for key, value in config.items() if key != "of"})
            return instantiate(others, _partial_=True)(of=build_parts(config.of, option="budget.of", seed=seed))
        return instantiate(config, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        # What is nested (a task of a benchmark) is wrapped once a level.
        while isinstance(cause, InstantiationException) and cause.__cause__:
            cause = cause.__cause__
        raise _explained(group, config, cause) from error
    except ValidationError as error:
        raise _explained(group, config, error) from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{group}: {str(error).splitlines()[0]}") from error


def _explained(group: str, config: DictConfig, cause: BaseException) -> SpectralFTError:
    if isinstance(cause, SpectralFTError):
        return cause
    if isinstance(cause, ValidationError):
        return ConfigError("\n".join(fault_of_value(group, config, fault) for fault in cause.errors()))
    return ConfigError(f"{group} cannot be built: {cause}")
