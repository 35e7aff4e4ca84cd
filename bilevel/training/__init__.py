"""The outer loop: its compiled step, the record, the checkpoints and the result."""

from bilevel.training.callbacks import Callback, Moment
from bilevel.training.fit import Interrupted
from bilevel.training.result import Result
from bilevel.training.run_folder import FolderTaken, RunFolder
from bilevel.training.trainer import Trainer

__all__ = ["Callback", "FolderTaken", "Interrupted", "Moment", "Result", "RunFolder", "Trainer"]
