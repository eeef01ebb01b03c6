"""Distances between samples inside the generator."""

from __future__ import annotations

import torch
from tiny_networks import tiny_bundle

from oneshot_core.objective.relations import likeness_to_others, relation_divergence


def test_a_sample_is_compared_with_all_others_in_their_order() -> None:
    features = torch.eye(3).reshape(3, 3, 1, 1) + 0.1
    found = likeness_to_others(features, 1)
    wanted = torch.nn.functional.cosine_similarity(features.flatten(1)[[0, 2]], features.flatten(1)[1:2])
    assert torch.allclose(found, wanted)


def test_equal_relations_diverge_by_nothing_and_two_samples_never_do() -> None:
    rows = torch.randn(4, 3)
    assert abs(float(relation_divergence(rows, rows))) < 1e-7
    assert float(relation_divergence(torch.randn(2, 1), torch.randn(2, 1))) == 0
    assert float(relation_divergence(rows, -rows)) > 0


def test_features_are_those_of_the_picture() -> None:
    """Drawn without colours, the layers are the very same."""
    generator = tiny_bundle(32).generator
    styles, noise = generator.affine(generator.map(torch.randn(2, 12))), generator.constant_noise()
    seen: list[torch.Tensor] = []
    hooks = [conv.register_forward_hook(lambda m, i, out: seen.append(out)) for conv in generator.convs]
    generator.render(styles, noise)
    for hook in hooks:
        hook.remove()
    found = generator.render_features(styles, noise, len(generator.convs))
    assert len(found) == len(seen) == 7
    assert all(torch.equal(a, b) for a, b in zip(found, seen, strict=True))
    assert len(generator.render_features(styles, None, 2)) == 2
