"""Inner problems whose unknown is the weights of a flax network, with the state that training carries along."""

from bilevel.networks.statement import inner_problem
from bilevel.networks.trained import Trained
from bilevel.networks.training import Training

__all__ = ["Trained", "Training", "inner_problem"]
