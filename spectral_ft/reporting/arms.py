"""What the rows of a table are called: an arm is what runs have in common that differ in their seed alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from spectral_ft.identity import settings

Flat = Mapping[str, Any]


def stem(config: Mapping[str, Any]) -> str:
    """What a configuration is called where no arm was chosen.

    Args:
        config: Resolved.

    Returns:
        METHOD/POLICY, as `budget.of` writes it.
    """
    policy = str(config["rank_policy"]["_target_"]).split(".")[-2]  # the module, which is what the choice is called
    return f"{config['method']['name']}/{policy}"


def seedless(config: Mapping[str, Any]) -> dict[str, Any]:
    """What runs of one arm have in common.

    Args:
        config: Resolved.

    Returns:
        Option to value, without the seed and what changes no result.
    """
    return {key: value for key, value in settings(config).items() if key != "seed"}


def distinct_names(stems: Sequence[str], flats: Sequence[Flat]) -> list[str]:
    """Names for runs, equal where their settings are, different where they are not.

    A name that stands for several settings is followed by the options that tell them apart, as few as it takes.

    Args:
        stems: What each run is called.
        flats: Its settings, as `seedless` gives them; empty where they are not known.

    Returns:
        One a run.
    """
    names = list(stems)
    for stem_name in dict.fromkeys(stems):
        places = [place for place, name in enumerate(stems) if name == stem_name and flats[place]]
        options = _telling([flats[place] for place in places])
        for place in places:
            said = ", ".join(f"{option}={_shown(flats[place].get(option))}" for option in options)
            names[place] = f"{stem_name} ({said})" if said else stem_name
    return names


def varying(flats: Sequence[Flat]) -> list[str]:
    """The options in which settings differ.

    Args:
        flats: Option to value, one a run.

    Returns:
        In the order of the first; an option that some lack is one.
    """
    options = dict.fromkeys(option for flat in flats for option in flat)
    return [option for option in options if len({_key(flat, option) for flat in flats}) > 1]


def _telling(flats: Sequence[Flat]) -> list[str]:
    # Names first, since model.name says what model.path, model.id and model.kind say again.
    candidates = sorted(varying(flats), key=lambda option: (not option.endswith(".name"), option.endswith("_target_")))
    wanted = _groups(flats, candidates)
    chosen: list[str] = []
    for option in candidates:
        if _groups(flats, chosen) == wanted:
            break
        if _groups(flats, [*chosen, option]) > _groups(flats, chosen):
            chosen.append(option)
    return chosen


def _groups(flats: Sequence[Flat], options: Sequence[str]) -> int:
    return len({tuple(_key(flat, option) for option in options) for flat in flats})


def _key(flat: Flat, option: str) -> str:
    return repr(flat[option]) if option in flat else ""


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)
