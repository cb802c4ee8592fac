"""
The names of the parameters in an optimizer's state.

The state of an optimizer stores parameters by their number. So it fits only parameters in the same order, and if shapes
happen to agree, a wrong order passes unseen. With the names in the state, it can't.
"""

from itertools import chain

import torch
from torch import nn


class ParameterOrderError(ValueError):
    """The state of an optimizer is for other parameters, or for the same ones in another order."""


def name_parameters(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """
    Store the names of the parameters in the optimizer's groups, and check them when a state is loaded.

    Loading a state without names, or with others, raises a [`ParameterOrderError`].
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        group["param_names"] = [names[parameter] for parameter in group["params"]]
    optimizer.register_load_state_dict_pre_hook(_check_names)


def _check_names(optimizer: torch.optim.Optimizer, state: dict) -> None:
    stored = [group.get("param_names") for group in state["param_groups"]]
    advice = "Start a new training from the weights of the checkpoint instead of going on with this one"
    if None in stored:
        raise ParameterOrderError(
            "The state of the optimizer in this checkpoint doesn't say which parameters it is for. It comes from "
            f"another program, or from a version of timesformer_hf that had the parameters in another order. {advice}"
        )
    own = [group["param_names"] for group in optimizer.param_groups]
    if stored != own:
        pairs = zip(chain(*stored), chain(*own), strict=False)
        first = next((f"{theirs} where {ours} belongs" for theirs, ours in pairs if theirs != ours), "another number")
        raise ParameterOrderError(
            f"The state of the optimizer in this checkpoint is for other parameters than the model's: {first}. {advice}"
        )
