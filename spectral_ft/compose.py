"""Configuration to components: the schema, the resolvers that `conf/` uses, and building.

A command line may name any class, since its user wrote it. A record may come from elsewhere: it is data, so it is
built without resolvers, and only from components that the files of `conf/` name or that the caller allows.
"""

import functools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
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
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from spectral_ft.composition import check_composition, check_parts
from spectral_ft.configuration import CONF, EMBEDDED_MODEL
from spectral_ft.errors import ConfigError, RunError, SpectralFTError
from spectral_ft.experiment import Experiment, PlanParts
from spectral_ft.fingerprint import cache_home
from spectral_ft.identity import run_id
from spectral_ft.option_faults import explain, fault_of_value
from spectral_ft.schema import GROUPS, SHORTCUTS, RunConfig
from spectral_ft.spelling import nearest

ADDED = ("drift",)
"""Groups that records of format 1 may lack: they came later, and change no result."""
Make = Callable[[Mapping[str, Any]], Any]
"""Makes a component of its configuration."""
AS_TOLD: Make = functools.partial(instantiate, _convert_="all")
"""For a command line: from whatever it names."""
LOOKUPS = frozenset(f"hydra.utils.get_{what}" for what in ("class", "method", "object", "static_method"))
"""Targets that return whatever their argument names."""
SPECIAL = ("_target_", "_partial_", "_args_")
"""Keys of Hydra's that a record may have; the others change how it builds, and none of our runs writes them."""


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
    return _experiment(plain(config), make=AS_TOLD)


def recorded_experiment(
    config: Mapping[str, Any], *, own_code: Collection[str] = (), trust_remote_code: bool = False
) -> Experiment:
    """The components of a run that was recorded, by this version or one that knew fewer groups.

    Args:
        config: Resolved, as `run.json` or `result.json` has it. It is data: no interpolation in it is resolved.
        own_code: Modules of the user's own whose classes and functions the record may name, as `my_metrics`.
        trust_remote_code: Run code that comes with the checkpoint, whatever the record says.

    Returns:
        The components; a group that the record does not know is as if it did not exist (`none`).

    Raises:
        RunError: If the record lacks a part, or names code that the caller did not allow.
    """
    added = {
        group: OmegaConf.to_container(composed([f"{group}=none"])[group], resolve=True)
        for group in ADDED
        if group not in config
    }
    whole = {**config, **added}
    if missing := [key for key in RunConfig.__dataclass_fields__ if key not in whole]:
        raise RunError(f"the record of the run has no {missing[0]}: it was edited, or another version wrote it.")
    if wrong := [group for group in GROUPS if not isinstance(whole[group], Mapping)]:
        raise RunError(f"the record of the run has {wrong[0]}={whole[wrong[0]]!r}, which is no component.")
    model = whole["model"]
    # A kernel of the hub is code as well.
    remote = model.get("trust_remote_code") is True or "/" in str(model.get("attention"))
    if remote and not trust_remote_code:
        raise RunError(
            "the run was trained with code from the hub or the checkpoint (model.trust_remote_code="
            f"{model.get('trust_remote_code')}, model.attention={model.get('attention')}). If you trust that code, add "
            "trust_remote_code=true."
        )
    whole["model"] = {**model, "trust_remote_code": trust_remote_code}
    return _experiment(whole, make=functools.partial(_made, allowed=tuple(own_code)))


def _experiment(resolved: dict[str, Any], *, make: Make) -> Experiment:
    if unknown := sorted(set(resolved) - set(RunConfig.__dataclass_fields__)):
        raise ConfigError(f"{unknown[0]} is no option.{nearest(unknown[0], list(RunConfig.__dataclass_fields__))}")
    if missing := [key for key in RunConfig.__dataclass_fields__ if key not in resolved]:
        raise ConfigError(f"{missing[0]} is missing: give it a value, or leave out ~{missing[0]}.")
    seed = resolved["seed"]
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ConfigError(f"seed={seed!r} is not a seed: give a whole number from 0 to {2**32 - 1}.")
    components = {group: _component(group, resolved[group], seed=seed, make=make) for group in GROUPS}
    experiment = Experiment(
        run_id=run_id(resolved), seed=seed, figures=resolved["figures"], config=resolved, **components
    )
    check_composition(experiment)
    return experiment


@functools.cache
def _own_components() -> frozenset[str]:
    files = [path for path in CONF.rglob("*.yaml") if path.parent != CONF]
    named = {name for path in files for name in re.findall(r"_target_: *([\w.]+)", path.read_text(encoding="utf-8"))}
    return frozenset(name for name in named if name.startswith("spectral_ft."))


def _made(config: Any, *, allowed: tuple[str, ...]) -> Any:
    # As Hydra instantiates, but from allowed targets alone, and text stays text.
    if isinstance(config, list | tuple):
        return [_made(each, allowed=allowed) for each in config]
    if not isinstance(config, Mapping):
        return config
    if other := [key for key in config if str(key).startswith("_") and key not in SPECIAL]:
        raise RunError(f"the record of the run has the key {other[0]}, which no run writes: it was edited.")
    values = {key: _made(value, allowed=allowed) for key, value in config.items() if key not in SPECIAL}
    if "_target_" not in config:
        return values
    target, given = config["_target_"], _made(config.get("_args_", []), allowed=allowed)
    if isinstance(target, str) and target in LOOKUPS:
        return _located(next(iter([*given, *values.values()]), None), allowed)
    component = _located(target, allowed)
    try:
        if config.get("_partial_"):
            return functools.partial(component, *given, **values)
        return component(*given, **values)
    except TypeError as error:
        raise RunError(f"the record of the run has a {target} that cannot be built: {error}.") from error


def _located(target: Any, allowed: tuple[str, ...]) -> Any:
    if isinstance(target, str) and target in _own_components():
        return get_object(target)
    module = str(target).rpartition(".")[0]
    if isinstance(target, str) and _is_in(target, allowed):
        found = get_object(target)
        home = getattr(getattr(found, "func", found), "__module__", None)
        if _is_in(str(home), allowed):  # `mine.os.system` is not code of `mine`
            return found
        module = str(home)
    raise RunError(
        f"the record of the run names {target!r}, which is no component of spectral_ft and could run any code. If it "
        f"is your own and you trust it, add own_code={module or 'MODULE'}."
    )


def _is_in(name: str, allowed: tuple[str, ...]) -> bool:
    return any(f"{name}.".startswith(f"{module}.") for module in allowed)


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


def is_named(group: str) -> bool:
    """Whether the command line of the running command chooses a group, or an option of it.

    Args:
        group: Such as `model`.

    Returns:
        True if it does; the default of `conf/config.yaml` does not count.
    """
    keys = [override.partition("=")[0].lstrip("+~") for override in HydraConfig.get().overrides.task]
    return any(key == group or key.startswith(f"{group}.") for key in keys)


def build_parts(named: str, *, option: str, seed: int, make: Make = AS_TOLD) -> PlanParts:
    """What makes the plan of another method.

    Args:
        named: METHOD or METHOD/POLICY, then overrides of their options, separated by spaces.
        option: That named it, for the error.
        seed: Of the run, for a policy without a seed of its own.
        make: Makes a component of its configuration.

    Returns:
        The components, with the options of their files where no override says otherwise.

    Raises:
        ConfigError: If there is no such method or policy, an option is wrong, or they do not go together.
    """
    first, *overrides = named.split() or [""]
    method, _, policy = first.partition("/")
    for group, choice in (("method", method), ("rank_policy", policy)):
        _check_choice(group, choice, option=option, said=named) if choice or group == "method" else None
    if make is not AS_TOLD:
        _check_overrides(overrides, said=f"{option}={named}")
    chosen = [f"method={method}", *([f"rank_policy={policy}"] if policy else []), *overrides]
    config = plain(composed([f"seed={seed}", *chosen]))
    parts = PlanParts(**{
        group: _component(group, config[group], seed=config["seed"], make=make)
        for group in PlanParts.__dataclass_fields__
    })
    check_parts(parts)
    return parts


def _check_choice(group: str, choice: str, *, option: str, said: str) -> None:
    known = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    if choice not in known:
        raise ConfigError(f"{option}={said} names no {group}: there is {', '.join(known)}.{nearest(choice, known)}")


def _check_overrides(overrides: Sequence[str], *, said: str) -> None:
    # Hydra's own options can import packages, and an interpolation can read the environment.
    for override in overrides:
        group = re.split("[.=@]", override.lstrip("+~"), maxsplit=1)[0]
        if "${" in override or "_target_" in override or group not in (*GROUPS, *SHORTCUTS):
            raise RunError(
                f"the record of the run has {said}: {override} is no plain option of a component, which no run writes."
            )


def _with_policy(config: Mapping[str, Any]) -> Mapping[str, Any]:
    # A control names another policy, whose options are those of its file.
    name = str(config["of"])
    _check_choice("rank_policy", name, option="rank_policy.of", said=name)
    other = OmegaConf.to_container(OmegaConf.load(CONF / "rank_policy" / f"{name}.yaml"), resolve=True)
    if "of" in other:  # type: ignore[operator]
        raise ConfigError(f"rank_policy.of is {name}, itself a control: name another policy.")
    return {**config, "of": other}


def _component(group: str, config: Mapping[str, Any], *, seed: int, make: Make) -> Any:
    if group == "rank_policy":
        config = _with_policy(config) if isinstance(config.get("of"), str) else config
        if "seed" in config and config["seed"] is None:  # stays null in the record: runs of other seeds are of one arm
            config = {**config, "seed": seed}
    try:
        if group == "budget" and isinstance(config.get("of"), str):
            others = {key: value for key, value in config.items() if key != "of"}
            of = build_parts(config["of"], option="budget.of", seed=seed, make=make)
            return make({**others, "_partial_": True})(of=of)
        return make(config)
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


def _explained(group: str, config: Mapping[str, Any], cause: BaseException) -> SpectralFTError:
    if isinstance(cause, SpectralFTError):
        return cause
    if isinstance(cause, ValidationError):
        return ConfigError("\n".join(fault_of_value(group, config, fault) for fault in cause.errors()))
    return ConfigError(f"{group} cannot be built: {cause}")
