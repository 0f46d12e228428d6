from __future__ import annotations

import numpy as np
import pytest
import torch

from lggseg.preprocessing import transforms
from lggseg.preprocessing.volume import channel_statistics
from lggseg.training import augmentation


def head(background: int = 0, tissue: int = 100) -> np.ndarray:
    volume = np.full((4, 64, 64, 3), background, dtype=np.uint8)
    volume[:, 16:48, 16:48] = tissue
    return volume


def test_normalised_background_is_0_and_tissue_1() -> None:
    volume = head(20, 220)
    background, scale = torch.from_numpy(channel_statistics(volume)).unbind()
    image = torch.from_numpy(volume).permute(0, 3, 1, 2)
    image = transforms.normalise(image.float(), background[None], scale[None])
    assert sorted(image.unique().tolist()) == pytest.approx([0, 1])


def test_shrink_averages_and_enlarge_undoes_it_for_smooth_images() -> None:
    image = torch.arange(64.0).expand(1, 1, 64, 64)
    small = transforms.shrink(image, 2)
    assert small.shape == (1, 1, 32, 32)
    large = transforms.enlarge(small, 2)
    assert (large - image)[..., 4:-4].abs().max() <= 1.0
    assert torch.equal(transforms.shrink(image, 1), image)


def test_no_strength_keeps_the_slices() -> None:
    image = torch.rand(4, 6, 32, 32)
    same = augmentation.warp(image, augmentation.random_affine(4, 0.0, image.device))
    torch.testing.assert_close(same, image, atol=1e-4, rtol=0)


def test_mask_moves_with_the_image() -> None:
    torch.manual_seed(0)
    mask = torch.zeros(16, 1, 64, 64)
    mask[:, :, 20:36, 30:44] = 1
    matrix = augmentation.random_affine(16, 1.0, mask.device)
    stack = augmentation.warp(torch.cat([mask.repeat(1, 3, 1, 1) * 200, mask], dim=1), matrix)
    warped, warped_mask = stack[:, :3], stack[:, 3:]
    torch.testing.assert_close(warped / 200, warped_mask.expand_as(warped), atol=1e-5, rtol=0)
    moved = (warped_mask - mask).abs().flatten(1).sum(1)
    assert (moved > 10).all()
    assert warped_mask.min() >= 0 and warped_mask.max() <= 1
    areas = warped_mask.flatten(1).sum(1) / mask[0].sum()
    assert areas.min() > 0.6 and areas.max() < 1.6


def test_every_slice_gets_its_own_warp() -> None:
    torch.manual_seed(0)
    matrices = augmentation.random_affine(32, 1.0, torch.device("cpu"))
    assert len(torch.unique(matrices, dim=0)) == 32
    mirrored = torch.linalg.det(matrices[:, :, :2]) < 0
    assert 4 < mirrored.sum() < 28


def test_outside_is_background() -> None:
    image = torch.full((1, 1, 16, 16), 50.0)
    shift = torch.tensor([[[1.0, 0, 2.0], [0, 1.0, 0]]])
    assert augmentation.warp(image, shift).abs().max() == 0


def test_dropped_sequences_become_flair() -> None:
    torch.manual_seed(0)
    image = torch.rand(400, 5, 2, 2)
    dropped = augmentation.drop_sequences(image.clone(), probability=0.5)
    changed = (dropped != image).any(dim=(2, 3))
    assert not changed[:, [1, 3, 4]].any()
    assert 0.2 < changed[:, 0].float().mean() < 0.5
    assert torch.equal(dropped[changed[:, 0], 0], image[changed[:, 0], 1])
    assert (changed[:, 0] & changed[:, 2]).any()
    assert torch.equal(augmentation.drop_sequences(image.clone(), 0.0), image)


def test_tumours_are_pasted_into_every_second_slice_inside_the_head() -> None:
    image, mask = torch.ones(5, 4, 16, 16), torch.zeros(5, 1, 16, 16)
    image[:, :, :, 8:] = 0  # background
    mask[1, :, 4:8, 2:12], mask[3, :, :2, :2] = 1, 1
    image[1, :, 4:8, 2:12] = 3
    before, mask_before = image.clone(), mask.clone()
    augmentation.paste_tumours(image, mask)
    assert torch.equal(image[[1, 3, 4]], before[[1, 3, 4]])
    assert torch.equal(mask[[1, 3, 4]], mask_before[[1, 3, 4]])
    assert mask[0, 0, 4:8, 2:8].all() and mask[0].sum() == 4 * 6
    assert torch.equal(mask[2], mask_before[3])
    assert (image[0, :, 5:7, 3:7] == 3).all()
    assert (image[0, :, 5, 2] > 1).all() and (image[0, :, 5, 2] < 3).all()
    assert (image[0, :, :, 9:] == 0).all()


def test_intensity_changes_stay_small() -> None:
    torch.manual_seed(0)
    image = torch.ones(8, 3, 32, 32)
    varied = augmentation.vary_intensity(image.clone(), 1.0)
    assert not torch.equal(varied, image)
    assert (varied.mean(dim=(2, 3)) - 1).abs().max() < 0.5


def test_noise_is_independent_between_neighbours_and_channels() -> None:
    torch.manual_seed(0)
    noise = augmentation._noise(torch.zeros(4, 3, 64, 64), None)
    assert noise.shape == (4, 3, 64, 64)
    assert noise.std() == pytest.approx(1, abs=0.02)
    first = noise[:, 0].flatten()
    for other in (noise[:, 1], noise[:, 2], noise[:, 0].roll(1, -1), noise[:, 0].roll(1, -2)):
        assert abs(torch.corrcoef(torch.stack([first, other.flatten()]))[0, 1]) < 0.03
