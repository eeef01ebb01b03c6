"""The one object that holds the differences between the published code and the method as the paper means
it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """Accidents of the published code, each as a switch; the defaults are the repairs.

    The numbers Q1 ... Q29 are those of `methods.md` B9. Source of the official values: cyclomon/OneshotCLIP
    train_oneshot.py, losses.py, model.py. Not reproduced: unseeded draws (Q7), the letterbox of car pictures
    (Q17), optimiser states of the source checkpoint replacing the settings (Q21), CLIP in fp16 (Q28), and the
    epsilon in LPIPS's normalisation (1e-6 of its value). Its 1001 search and 2001 training steps are
    settings.
    """

    name: str = "default"
    shared_mixing: bool = True  # Q1: source and adapted generator use the same crossover
    shared_noise: bool = True  # Q2: and the same noise maps
    patch_negatives: str = "image"  # Q3: "image": other crops of the own image; "crop_major"; "all"
    self_logit: float | None = None  # Q4: what masks a crop's similarity with itself; None: left out
    crop_reaches_edge: bool = True  # Q5: a crop may touch the last row and column
    crop_px: int | None = None  # Q6: side of a crop; None: an eighth of the image
    one_head_per_update: bool = True  # Q8: fake and real are judged by the same patch head
    patch_needs_64px: bool = True  # smaller images: an error; else their random steps use the image head
    r1_on_reference: bool = True  # Q10: R1 counts reference steps; else all steps, on whichever path is due
    r1_keeps_score: bool = False  # R1's loss contains 0 * score, which gives unused layers zero gradients
    zero_filled_grads: bool = False  # Q11: gradients are zeroed, not dropped: unused layers still age in Adam
    average_ramp: float | None = 0.125  # the average's half-life is at most this share of the steps done
    lpips_dropout: bool = False  # Q13: LPIPS stays in training mode
    jitter_on_signed: bool = False  # Q14: colour jitter on [-1, 1] with a clamp to [0, 1]
    views: int = 8  # Q15: views with parameters of their own; the official 8 are one view
    nearest_affine: bool = False  # Q16: nearest sampling in the affine step
    trains_raw_generator: bool = False  # Q22: source and start are `g`, the moving average starts at `g_ema`
    # Of the other methods' code (methods.md part II, baselines.md 4).
    softness: float = 0.1  # of directions: an unchanged picture has a finite gradient; 0: the cosine itself
    nudges_unchanged: bool = False  # NADA: an unchanged batch is compared a little beside itself instead
    targets_as_files: bool = False  # NADA: CLIP sees targets by its own code for files, pictures by another
    shifted_layers: bool = False  # NADA: the chosen slots stand for other layers, and all may be chosen
    reduces_by_four: bool = False  # MTG: pictures are compared at a quarter of their side, whatever that is
    path_keeps_picture: bool = False  # few-shot: see `PathLength`


DEFAULT = Profile()
OFFICIAL = Profile(
    name="official",
    shared_mixing=False,
    shared_noise=False,
    patch_negatives="crop_major",
    self_logit=-10.0,
    crop_reaches_edge=False,
    crop_px=128,
    one_head_per_update=False,
    patch_needs_64px=False,
    r1_on_reference=False,
    r1_keeps_score=True,
    zero_filled_grads=True,
    average_ramp=None,
    lpips_dropout=True,
    jitter_on_signed=True,
    views=1,
    nearest_affine=True,
    trains_raw_generator=True,
    softness=0.0,
    nudges_unchanged=True,
    targets_as_files=True,
    shifted_layers=True,
    reduces_by_four=True,
    path_keeps_picture=True,
)
PROFILES = {profile.name: profile for profile in (DEFAULT, OFFICIAL)}
