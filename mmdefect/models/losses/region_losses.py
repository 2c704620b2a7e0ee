"""Losses that compare regions; they share the options of :func:`mmdefect.functional.region_losses.region_loss`."""

from mmdefect.functional import region_losses
from mmdefect.models.losses.defect_loss import DefectLoss
from mmdefect.registry import MODELS


@MODELS.register_module()
class DefectDiceLoss(DefectLoss):
    """Dice over all or only the defect classes: :func:`mmdefect.functional.region_losses.defect_dice_loss`."""

    function = staticmethod(region_losses.defect_dice_loss)
    default_name = 'loss_dice'


@MODELS.register_module()
class TverskyFocalLoss(DefectLoss):
    """Tversky loss with a focusing exponent: :func:`mmdefect.functional.region_losses.tversky_focal_loss`."""

    function = staticmethod(region_losses.tversky_focal_loss)
    default_name = 'loss_tversky_focal'


@MODELS.register_module()
class CenterlineDiceLoss(DefectLoss):
    """Centre-line Dice for scratches: :func:`mmdefect.functional.region_losses.centerline_dice_loss`."""

    function = staticmethod(region_losses.centerline_dice_loss)
    default_name = 'loss_centerline'


@MODELS.register_module()
class SignedDistanceLoss(DefectLoss):
    """Boundary term on signed distances: :func:`mmdefect.functional.region_losses.signed_distance_loss`.

    mmseg's ``BoundaryLoss`` is another thing: the cross entropy of an edge head.
    """

    function = staticmethod(region_losses.signed_distance_loss)
    default_name = 'loss_signed_distance'
