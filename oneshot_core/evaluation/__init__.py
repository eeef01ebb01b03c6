"""The referee: how good an adapted generator is, by encoders that took no part in making it."""

from .comparison import Comparison, best_step, compare, snapshot_rows, snapshot_scores
from .config import EvaluationConfig, Judges, Network
from .faces import load_faces
from .figures import ClipFigures, Evaluation, PerceptualFigures
from .inception import load_inception
from .kept import kept_snapshots
from .referee import Referee, evaluate
from .seen import evaluation_bytes

__all__ = [
    "ClipFigures",
    "Comparison",
    "Evaluation",
    "EvaluationConfig",
    "Judges",
    "Network",
    "PerceptualFigures",
    "Referee",
    "best_step",
    "compare",
    "evaluate",
    "evaluation_bytes",
    "kept_snapshots",
    "load_faces",
    "load_inception",
    "snapshot_rows",
    "snapshot_scores",
]
