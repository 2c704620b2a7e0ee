"""Views of one image: what each of them is, that all show the same place, and that a seed fixes them."""

from __future__ import annotations

import pytest
import torch

from mmdefect.synthesis.cutpaste_views import VARIANTS, class_names, make_views


def photo(side: int = 96, seed: int = 0) -> torch.Tensor:
    """Smooth and coloured, so that every place differs from every other."""
    rows = torch.linspace(0, 1, side)
    noise = torch.rand(3, side, side, generator=torch.Generator().manual_seed(seed))
    return (
        0.2
        + 0.4 * torch.stack([rows[:, None].expand(side, side), rows[None].expand(side, side), noise[0]])
        + 0.1 * noise
    )


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    'variant, labels', [('normal', [0, 1]), ('scar', [0, 1]), ('union', [0, 1]), ('3way', [0, 1, 2])]
)
@pytest.mark.parametrize('patch', [None, 64])
def test_labels_of_every_view(variant, labels, patch):
    for seed in range(20):
        views = make_views(photo(), generator(seed), variant, patch)
        assert views.labels.tolist() == labels
        assert views.masks.flatten(1).any(1).tolist() == [label > 0 for label in labels]
        assert len(class_names(variant)) == max(labels) + 1 and len(VARIANTS[variant]) == len(labels) - 1


@pytest.mark.parametrize('patch', [None, 48])
def test_views_show_one_place_and_differ_in_the_paste_alone(patch):
    """The crops are compared with the image itself at the place they claim to show."""
    image = photo()
    for seed in range(10):
        views = make_views(image, generator(seed), '3way', patch, jitter=0.0)
        top, left = views.crop_top_left
        side = patch or image.shape[1]
        assert torch.equal(views.images[0], image[:, top : top + side, left : left + side])
        for index in (1, 2):
            changed = (views.images[index] - views.images[0]).abs().amax(0) > 1.5 / 255
            assert torch.equal(changed, views.masks[index])
            assert 0 < changed.sum() < 0.5 * side**2, 'the paste lies in the crop and does not fill it'


def test_scars_of_a_crop_have_the_size_they_have_in_the_whole_image():
    """2-16 px wide and 10-25 px long at 256: their boxes are far beyond a quarter of that, and never above 30 px."""
    boxes = []
    for seed in range(40):
        mask = make_views(photo(256), generator(seed), 'scar', 64).masks[1]
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        boxes.append(max(int(rows[-1] - rows[0]), int(columns[-1] - columns[0])) + 1)
    assert 12 < sum(boxes) / len(boxes) and max(boxes) <= 31


def test_colour_jitter_is_the_same_in_all_views():
    views = make_views(photo(), generator(), '3way', jitter=0.1)
    assert not torch.equal(views.images[0], photo())
    outside = ~views.masks[1]
    assert (views.images[1] - views.images[0]).abs().amax(0)[outside].max() <= 1.5 / 255


def test_the_same_seed_gives_the_same_views():
    first, second, other = (make_views(photo(), generator(seed), '3way', 64) for seed in (1, 1, 2))
    assert torch.equal(first.images, second.images) and first.crop_top_left == second.crop_top_left
    assert not torch.equal(first.images, other.images)


def test_a_view_in_which_nothing_can_be_seen_is_untouched():
    views = make_views(torch.zeros(3, 32, 32), generator(), '3way', jitter=0.0, attempts=2)
    assert views.labels.tolist() == [0, 0, 0] and not views.masks.any()


def test_errors_name_the_choices():
    with pytest.raises(ValueError, match='normal, scar, union, 3way'):
        make_views(photo(), generator(), '4way')
    with pytest.raises(ValueError, match='`patch` must fit the image of 96x96'):
        make_views(photo(), generator(), patch=128)
