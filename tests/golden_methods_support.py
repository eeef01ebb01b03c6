"""Recorded runs of the other methods' programs: networks, encoders, draws and tables for a replay.

Fixtures are found by their JSON in tests/golden_methods, or in the folder that ONESHOT_GOLDEN_METHODS names;
sizes, seeds and settings are read from it, so that another set of the same layout passes unchanged.
"""

from __future__ import annotations

import dataclasses
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from golden_perceptual import recorded_net
from golden_support import assert_checks, fill_with_formula, formula_weights, rules
from PIL import Image
from rosinality_names import fill, original_state
from safetensors.torch import load_file
from torch import Tensor, nn

from oneshot_core.checkpoints.bundle import GeneratorBundle, Provenance
from oneshot_core.draws import RecordedDraws
from oneshot_core.features import Encoders
from oneshot_core.features.clip import ClipEncoder, build_clip
from oneshot_core.features.preprocess import ClipPreprocess
from oneshot_core.networks import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from oneshot_core.objective import OFFICIAL, Aim, OptimiserPlan, Preset, Selection
from oneshot_core.objective.aim import picture_direction
from oneshot_core.objective.presets import few_shot, mind_the_gap, stylegan_nada
from oneshot_core.training import Callback, TrainState, train

FOLDER = Path(os.environ.get("ONESHOT_GOLDEN_METHODS") or Path(__file__).parent / "golden_methods")
LOSS, TRACE = 1e-9, 1e-8


def read(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def tensors(name: str) -> dict[str, Tensor]:
    return load_file(FOLDER / f"{name}.safetensors")


def has(name: str) -> bool:
    return (FOLDER / name).is_file()


def traces(pattern: str) -> list[Path]:
    return sorted(FOLDER.glob(pattern))


def hashed_tokens(texts: list[str]) -> Tensor:
    """The recording's tokenizer, in which a text is only hashed (README, section 0)."""
    rows = torch.zeros(len(texts), 8, dtype=torch.long)
    for row, text in zip(rows, texts, strict=True):
        count = min(6, max(1, len(text.split())))
        ids = [1 + zlib.crc32(f"{index}:{text}".encode()) % 60 for index in range(count)]
        row[: count + 2] = torch.tensor([62, *ids, 63])
    return rows


def clip_of(described: dict[str, Any], seed: int, antialias: bool, dtype: torch.dtype) -> ClipEncoder:
    config = described["clip_config"]
    model = build_clip(config)
    fill_with_formula(model, described["prefix"], seed, rules("clip_rules"))
    preprocess = ClipPreprocess(config["vision_cfg"]["image_size"], antialias=antialias, keeps_aspect=True)
    return ClipEncoder(model.to(dtype), preprocess, hashed_tokens)


def channels_of(size: int, multiplier: int) -> tuple[int, ...]:
    sides = [4 << level for level in range(size.bit_length() - 2)]
    return tuple(512 if side <= 32 else 16384 // side * multiplier for side in sides)


class Trace:
    """One recorded run and what it started from."""

    method: Callable[..., Preset]
    clip_models = "nada_losses"  # whose description tells the CLIP models
    z_dims = 512

    def __init__(self, path: Path) -> None:
        told = json.loads(path.read_text(encoding="utf-8"))
        self.meta, self.iterations, self.told = told["meta"], told["iterations"], told
        self.config = self.meta["config"]
        self.tensors = load_file(FOLDER / self.meta["tensors"])
        if "tensors_override" in self.meta:
            self.tensors |= load_file(FOLDER / self.meta["tensors_override"])

    def double(self, name: str) -> Tensor:
        return self.tensors[name].double()

    def weights(self, prefix: str) -> Callable[[str, tuple[int, ...]], Tensor]:
        seed, table = self.config["seed"], rules("rosinality_rules")
        return lambda name, shape: formula_weights(name, shape, seed, prefix, table)

    def network(self, kind: type[nn.Module], prefix: str) -> nn.Module:
        width = self.meta.get("style_dim") or self.config["latent"]
        depth = self.meta.get("n_mlp") or self.config["n_mlp"]
        channels = channels_of(self.config["size"], self.config.get("channel_multiplier", 2))
        config = (
            GeneratorConfig(self.config["size"], channels, z_dim=width, w_dim=width, mapping_layers=depth)
            if kind is Generator
            else DiscriminatorConfig(self.config["size"], channels)
        )
        return fill(kind(config), self.weights(prefix)).double().eval().requires_grad_(False)

    def bundle(self) -> GeneratorBundle:
        generator = self.network(Generator, self.meta["prefix"])
        mean = torch.zeros(generator.config.w_dim, dtype=torch.float64)
        if "latent_avg" in self.meta:
            mean = self.double(self.meta["latent_avg"]).reshape(-1)
        return GeneratorBundle(generator, None, None, mean, Provenance("golden", "trace"))

    def encoders(self) -> Encoders:
        known = read(self.clip_models)["meta"]["clip_models"]
        clips = tuple(
            (clip_of(known[name], self.config["seed"], self.config["antialias"], torch.float64), weight)
            for name, weight in zip(
                self.config["clip_models"], self.config["clip_model_weights"], strict=True
            )
        )
        return Encoders(clips, self.perceptual())

    def perceptual(self) -> Any:
        return None

    def profile(self, **changes: Any) -> Any:
        return dataclasses.replace(
            OFFICIAL, zero_filled_grads=self.meta["zero_grad"] == "legacy", lpips_dropout=False, **changes
        )

    def optimised(self, preset: Preset, adam: dict[str, Any]) -> Preset:
        """The preset with the recorded numbers of Adam."""
        ratio = preset.optimiser.generator_ratio
        plan = dataclasses.replace(
            preset.optimiser,
            learning_rate=adam["lr"] / ratio,
            betas=tuple(beta ** (1 / ratio) for beta in adam["betas"]),
        )
        return dataclasses.replace(preset, optimiser=plan)

    def aim(self) -> Aim:
        raise NotImplementedError

    def preset(self) -> Preset:
        raise NotImplementedError

    def draws(self) -> RecordedDraws:
        raise NotImplementedError

    def add_noise(self, table: dict[Any, Tensor], step: int, purpose: str, call: dict[str, Any]) -> None:
        for index, key in enumerate(call["noise"]):
            table[step, f"{purpose}.noise.{index}"] = self.tensors[key]
        if "inject_index" in call:  # the engine draws crossover - 1
            table[step, f"{purpose}.crossover"] = torch.tensor(call["inject_index"] - 1)

    def compare(self, state: TrainState, entry: dict[str, Any], last: dict[str, float], place: str) -> None:
        raise NotImplementedError

    def ready(self, state: TrainState) -> None:
        """Change what the run starts from."""


class NadaTrace(Trace):
    """StyleGAN-NADA."""

    def aim(self) -> Aim:
        if self.meta.get("image_direction"):
            return Aim(directions=self.picture_directions())
        return Aim(source_text=self.config["source_class"], target_texts=(self.config["target_class"],))

    def picture_directions(self) -> tuple[Tensor, ...]:
        """Of the style files, and the pictures whose draws are recorded."""
        told = self.meta["image_direction"]
        generator = self.network(Generator, self.meta["prefix"])
        z = self.double(told["z"]).reshape(-1, generator.config.z_dim)
        noise = [self.double(key) for key in told["generator"]["noise"]]
        pictures = generator.synthesize(generator.map(z), noise)
        found = []
        for (encoder, _), name in zip(self.encoders().clips, self.config["clip_models"], strict=True):
            files = [Image.open(FOLDER / one) for one in self.config["style"]]
            target = encoder.encode_pictures(files).mean(dim=0)
            found.append(picture_direction(encoder.encode_images(pictures), target))
            recorded = self.double(told["direction"][name]).reshape(-1)
            assert (found[-1] - recorded).abs().max() < LOSS, name
        return tuple(found)

    def preset(self) -> Preset:
        config = self.config
        preset = stylegan_nada(self.profile()).reweighted(
            {"direction": config["lambda_direction"], "global": config["lambda_global"]}
        )
        selection = None
        if config["auto_layer_iters"]:
            selection = Selection(
                config["auto_layer_k"], codes=config["auto_layer_batch"],
                steps=config["auto_layer_iters"], rate=self.meta["selection"]["lr"], published=True,
            )  # fmt: skip
        preset = dataclasses.replace(preset.rebatched(config["batch"], config["mixing"]), selection=selection)
        return self.optimised(preset, self.meta["adam"])

    def draws(self) -> RecordedDraws:
        table: dict[Any, Tensor] = {}
        for step, entry in enumerate(self.iterations):
            # What is recorded is how many latents there were, not always the number that decided it.
            table[step, "adapted.mix"] = torch.tensor(0.0 if entry["n_latents"] == 2 else 1.0)
            table[step, "adapted.z"] = self.tensors[entry["z"]]
            for ours, theirs in (("adapted", "g_dst"), ("source", "g_src")):
                self.add_noise(table, step, ours, entry[theirs])
            if "selection" in entry:
                table[step, "select.z"] = self.tensors[entry["selection"]["z"]]
                for index, one in enumerate(entry["selection"]["steps"]):
                    self.add_noise(table, step, f"select.{index}", one)
        return RecordedDraws(table)

    def compare(self, state: TrainState, entry: dict[str, Any], last: dict[str, float], place: str) -> None:
        assert abs(last["generator"] - entry["loss"]) < TRACE, place
        if "selection" in entry:
            assert state.chosen == entry["selection"]["chosen"], place
        trained = {name for name, value in state.adapted.named_parameters() if value.requires_grad}
        if entry.get("trainable"):
            names = {name for name in original_state(state.adapted) if name in set(entry["trainable"])}
            assert len(names) == len(trained) == len(entry["trainable"]), place
        compare_weights(state.adapted, entry["weights_after"], place)
        compare_adam(state, "adapted", entry["adam_after"], place)


class MtgTrace(Trace):
    """Mind the Gap."""

    clip_models = "mtg_losses"

    def perceptual(self) -> Any:
        return recorded_net("vgg", self.meta["lpips_weight_seed"], torch.float64)

    def aim(self) -> Aim:
        target = self.double(self.meta["target_u8"])[None] / 255 * 2 - 1
        return Aim(target, self.double(self.meta["style_latent"])[:, : self.meta["n_latent"]])

    def preset(self) -> Preset:
        config = self.config
        weights = {
            "across": config["clip_across_lambda"],
            "within": config["clip_within_lambda"],
            "reference_clip": config["ref_clip_lambda"],
            "reference_pixel": config["l2_lambda"],
            "reference_lpips": config["lpips_lambda"],
        }
        preset = mind_the_gap(self.profile()).reweighted(weights).rebatched(config["batch"])
        return self.optimised(preset, self.meta["adam"])

    def draws(self) -> RecordedDraws:
        table: dict[Any, Tensor] = {}
        for step, entry in enumerate(self.iterations):
            table[step, "adapted.mix"] = torch.tensor(1.0)
            table[step, "adapted.z"] = self.tensors[entry["z"]][None]
            calls = {
                "adapted": "dst", "source": "src", "reference.adapted": "rec", "reference.source": "old",
            }  # fmt: skip
            for ours, theirs in calls.items():
                self.add_noise(table, step, ours, entry[theirs])
        return RecordedDraws(table)

    def compare(self, state: TrainState, entry: dict[str, Any], last: dict[str, float], place: str) -> None:
        terms, weights = entry["terms"], dict(zip(*self._models(), strict=True))
        for ours, theirs in (("across", "across"), ("within", "within"), ("reference_clip", "ref_clip")):
            recorded = sum(terms[f"{theirs}:{name}"] * weight for name, weight in weights.items())
            assert abs(last[ours] - recorded) < TRACE, f"{place}, {ours}"
        for ours, theirs in (("reference_pixel", "l2"), ("reference_lpips", "lpips")):
            assert abs(last[ours] - terms[theirs]) < TRACE, f"{place}, {ours}"
        assert abs(last["generator"] - entry["loss"]) < TRACE * max(1.0, entry["loss"]), place
        compare_weights(state.adapted, entry["weights_after"], place)
        compare_adam(state, "adapted", entry["adam_after"], place)

    def _models(self) -> tuple[list[str], list[float]]:
        return self.config["clip_models"], self.config["clip_model_weights"]


class CdcTrace(Trace):
    """Few-shot adaptation."""

    def bundle(self) -> GeneratorBundle:
        prefixes = self.meta["prefixes"]
        raw = self.network(Generator, prefixes["generator"])
        mean = torch.zeros(raw.config.w_dim, dtype=torch.float64)
        return GeneratorBundle(
            self.network(Generator, prefixes["g_ema"]),
            self.network(Discriminator, prefixes["discriminator"]),
            raw,
            mean,
            Provenance("golden", "trace"),
        )

    def encoders(self) -> Encoders:
        from tiny_clip import CONFIG

        return Encoders.of(ClipEncoder(build_clip(CONFIG)), None)  # which takes no part

    def aim(self) -> Aim:
        (name,) = (key for key in self.tensors if key == "targets")
        return Aim(self.double(name))

    def preset(self) -> Preset:
        config = self.config
        preset = few_shot(self.profile()).reweighted({"distance": config["kl_wt"]})
        preset = preset.scheduled({"anchored": 1, "free": config["subspace_freq"] - 1})
        preset = preset.rebatched(config["batch"], config["mixing"])
        kinds = []
        for kind in preset.kinds:
            batches = dict(kind.batches)
            batches["relations"] = dataclasses.replace(batches["relations"], size=config["feat_const_batch"])
            if kind.name == "anchored":
                anchors = dataclasses.replace(batches["main"].latents, spread=config["subspace_std"])
                batches["main"] = dataclasses.replace(batches["main"], latents=anchors)
            kinds.append(dataclasses.replace(kind, batches=batches))
        ratio = config["g_reg_every"] / (config["g_reg_every"] + 1)
        plan = OptimiserPlan(
            learning_rate=config["lr"],
            generator_ratio=ratio,
            zero_filled_grads=self.meta["zero_grad"] == "legacy",
        )
        path = dataclasses.replace(
            preset.path_length, weight=config["path_regularize"], every=config["g_reg_every"],
            shrink=config["path_batch_shrink"], mixing=config["mixing"],
        )  # fmt: skip
        judge = dataclasses.replace(
            preset.discriminator, heads=config["highp"], r1_gamma=config["r1"], r1_every=config["d_reg_every"]
        )
        return dataclasses.replace(
            preset, kinds=tuple(kinds), optimiser=plan, path_length=path, discriminator=judge
        )

    def ready(self, state: TrainState) -> None:
        assert state.heads is not None
        fill(state.heads, self.weights(self.meta["prefixes"]["extra"]))

    def draws(self) -> RecordedDraws:
        channels = channels_of(self.config["size"], self.config["channel_multiplier"])
        table: dict[Any, Tensor] = {(0, "anchors.z"): self.tensors["init_z"]}
        for index in range(4):
            table[0, f"heads.{index}.weight"] = torch.zeros(1, channels[3 if index < 2 else 2], 3, 3)
        for step, entry in enumerate(self.iterations):
            for ours, theirs in (("discriminator", "d_fake"), ("adapted", "g_fake"), ("path", "path")):
                if theirs in entry:
                    self._call(table, step, ours, entry[theirs])
            if "path" in entry:
                table[step, "path.direction"] = self.tensors[entry["path"]["pl_noise"]]
            for ours, theirs in (
                ("fake", "disc_fake"), ("real", "disc_real"), ("r1", "disc_r1"), ("adapted", "disc_g"),
            ):  # fmt: skip
                if theirs in entry:
                    table[step, f"{ours}.head"] = torch.tensor(entry[theirs]["p_ind"])
            distance = entry["distance"]
            table[step, "relations.adapted.mix"] = torch.tensor(1.0)
            table[step, "relations.adapted.z"] = self.tensors[distance["z"]]
            self.add_noise(table, step, "relations.adapted", distance["target"])
            self.add_noise(table, step, "relations.source", distance["source"])
            table[step, "layers"] = torch.tensor(distance["feature_index"]) - 1
            table[step, "real.flip"] = torch.tensor(entry["real"]["flips"])
            table[step, "real.index"] = torch.tensor(entry["real"]["index"])
        return RecordedDraws(table)

    def _call(self, table: dict[Any, Tensor], step: int, purpose: str, call: dict[str, Any]) -> None:
        self.add_noise(table, step, purpose, call)
        if "anchor_index" in call:
            table[step, f"{purpose}.anchor"] = torch.tensor(call["anchor_index"])
            table[step, f"{purpose}.spread"] = self.tensors[call["eps"]]
        else:
            table[step, f"{purpose}.mix"] = torch.tensor(call["mix_uniform"], dtype=torch.float64)
            table[step, f"{purpose}.z"] = self.tensors[call["z"]]

    def compare(self, state: TrainState, entry: dict[str, Any], last: dict[str, float], place: str) -> None:
        losses = entry["losses"]
        # The recorded "g" holds the distance term too.
        ours = {
            "d": last["discriminator"], "real_score": last["real_score"], "fake_score": last["fake_score"],
            "g": last["generator"], "rel": last["distance"] * self.config["kl_wt"],
        }  # fmt: skip
        if "disc_r1" in entry:
            ours["r1"] = last["r1"]
        if "path" in entry:
            ours |= {"path": last["path"], "path_length": last["path_length"]}
            mean = entry["path"]["mean_path_length"]
            assert abs(float(state.path_mean) - mean) < TRACE, f"{place}, mean path length"
        for name, value in ours.items():
            assert abs(value - losses[name]) < TRACE * max(1.0, abs(losses[name])), f"{place}, {name}"
        networks = {
            "generator": state.adapted, "g_ema": state.ema,
            "discriminator": state.discriminator, "extra": state.heads,
        }  # fmt: skip
        for part, checks in entry["weights_after"].items():
            compare_weights(networks[part], checks, f"{place}, {part}")
        for part, name in (("generator", "adapted"), ("discriminator", "discriminator"), ("extra", "heads")):
            if part in entry["adam_after"]:
                compare_adam(state, name, entry["adam_after"][part], f"{place}, {part}")


def compare_weights(network: nn.Module, checks: dict[str, Any], place: str) -> None:
    weights = original_state(network)
    for name, check in checks.items():
        assert_checks(weights[name], check, TRACE, f"{place}, {name}")


def compare_adam(state: TrainState, network: str, checks: dict[str, Any], place: str) -> None:
    """Compare how often Adam has stepped each parameter, and its moments."""
    from rosinality_names import original_name

    optimiser, module = state.optimisers[network], getattr(state, network)
    parameters = {original_name(name): value for name, value in module.named_parameters()}
    for name, check in checks.items():
        found = optimiser.state.get(parameters[name])
        if check is None:
            assert not found, f"{place}, {name}: stepped, but was not in the recording"
            continue
        assert found, f"{place}, {name}: never stepped"
        assert float(found["step"]) == check["step"], f"{place}, {name}"
        length = float(found["exp_avg"].norm())
        assert abs(length - check["exp_avg_l2"]) < 1e-7 * max(1.0, check["exp_avg_l2"]), f"{place}, {name}"
        # Of the gradients' own tolerance: a loss of 100 has gradients whose squares are large.
        recorded = check["exp_avg_sq"]
        scale = max(1.0, max(map(abs, recorded["sample"])), abs(recorded["mean"]))
        assert_checks(found["exp_avg_sq"], recorded, 1e-7 * scale, f"{place}, moment of {name}")


@dataclasses.dataclass
class Follower(Callback):
    """Compare losses and weights after every step."""

    trace: Trace

    def after_step(self, state: TrainState) -> None:
        last = {name: values[-1] for name, values in state.history.items()}
        entry = self.trace.iterations[state.step - 1]
        self.trace.compare(state, entry, last, f"step {state.step - 1}")


def replay(trace: Trace, steps: int) -> TrainState:
    """Run the public training code on recorded draws and compare after every step."""
    state = TrainState.create(trace.bundle(), trace.encoders(), trace.aim(), trace.preset(), trace.draws())
    trace.ready(state)
    train(state, steps, [Follower(trace)])
    assert state.step == steps
    return state
