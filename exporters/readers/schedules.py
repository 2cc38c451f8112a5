"""Schedules: a diffusers scheduler's settings as those of a trained schedule, or a word on what cannot be had."""

from __future__ import annotations

from typing import Any

import msgspec

from edgekit.errors import InputError
from edgekit.timesteps import TrainedSchedule

SOLVERS = {
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "DPMSolverMultistepScheduler": "dpm++2m",
    "EulerAncestralDiscreteScheduler": "euler-ancestral",
    "EulerDiscreteScheduler": "euler",
    "LCMScheduler": "lcm",
    "PNDMScheduler": "pndm",
}
ONLY = {  # settings whose other values change the arithmetic to one that no solver here has
    "algorithm_type": ("dpmsolver++",),
    "lambda_min_clipped": (-float("inf"),),
    "thresholding": (False,),
    "timestep_type": ("discrete",),
    "use_beta_sigmas": (False, None),
    "use_dynamic_shifting": (False, None),
    "use_flow_sigmas": (False, None),
    "use_lu_lambdas": (False, None),
}


def require_known(kind: object) -> None:
    """Refuse the class of a scheduler that no solver follows.

    Raises:
        InputError: says which there are.
    """
    if not isinstance(kind, str) or kind not in SOLVERS:
        raise InputError(
            f"got a pipeline with {kind}: {', '.join(SOLVERS)} can be followed; set one, for example pipeline.scheduler "
            "= DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config), save the pipeline and export again"
        )


def schedule_of(scheduler: Any) -> dict[str, Any]:
    """The settings of `edgekit.timesteps.TrainedSchedule` for a diffusers scheduler, defaults left out.

    Raises:
        InputError: a class or a setting that no solver follows; says which there are.
    """
    kind = type(scheduler).__name__
    require_known(kind)
    config = dict(scheduler.config)
    for name, allowed in ONLY.items():
        if name in config and config[name] not in allowed:
            raise InputError(f"{kind} with {name}={config[name]!r} cannot be followed: expected {allowed[0]!r}")
    known = {name: value for name, value in config.items() if name in TrainedSchedule.__struct_fields__}
    stated = {name: value for name, value in known.items() if value is not None}
    try:
        schedule = msgspec.convert({**stated, "solver": SOLVERS[kind]}, TrainedSchedule)
    except msgspec.ValidationError as error:
        raise InputError(f"{kind} has settings that cannot be followed: {error}") from error
    settings: dict[str, Any] = msgspec.to_builtins(schedule)
    return settings
