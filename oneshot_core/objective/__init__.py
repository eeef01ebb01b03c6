"""The objective engine: a method is a table of weighted terms, batches and a discriminator plan, as data.

`contract.py` says what a term may ask for, `terms.py` and `adversarial.py` hold the terms, `batches.py` where
latents come from, `plans.py` what a method consists of, `presets.py` the methods. `train()` and
`search_latent()` never ask which method they run.
"""

from ..choices import PARTS
from .aim import Aim, AimFeatures
from .batches import Anchors, Batch, Prior, Reference
from .contract import MAIN, Needs, Objective, StepContext, StepDraws, Term, View, WeightedTerm
from .plans import DiscriminatorPlan, OptimiserPlan, PathLength, Preset, RealPlan, SamplingPolicy, StepKind
from .profile import DEFAULT, OFFICIAL, PROFILES, Profile
from .trainable import Selection, Trainable

__all__ = [
    "DEFAULT",
    "MAIN",
    "OFFICIAL",
    "PARTS",
    "PROFILES",
    "Aim",
    "AimFeatures",
    "Anchors",
    "Batch",
    "DiscriminatorPlan",
    "Needs",
    "Objective",
    "OptimiserPlan",
    "PathLength",
    "Preset",
    "Prior",
    "Profile",
    "RealPlan",
    "Reference",
    "SamplingPolicy",
    "Selection",
    "StepContext",
    "StepDraws",
    "StepKind",
    "Term",
    "Trainable",
    "View",
    "WeightedTerm",
]
