from tacit.objectives.clustering import SINKHORN_OF, assigned, assignment_entropy, falling_shares, me_max, sinkhorn
from tacit.objectives.contrastive import batch_info_nce, info_nce, info_nce_across_views, nt_xent
from tacit.objectives.cross_modal import NCE_FORMS, cross_modal_nce, recall_at_1
from tacit.objectives.decorrelation import covariance, invariance, variance
from tacit.objectives.discrete import divergence_from_uniform, logit_laplace
from tacit.objectives.distillation import (
    across_views,
    masked_cross_entropy,
    mean_in_parts,
    sharpen,
    soft_cross_entropy,
)
from tacit.objectives.homologous import homologous_contrast, homologous_share
from tacit.objectives.masked import feature_loss, token_loss
from tacit.objectives.order import ORDERS, arranged, order_accuracies, order_loss, preferred
from tacit.objectives.reconstruction import (
    denormalise_patches,
    masked_l1,
    masked_mean,
    normalise_patches,
    normalise_windows,
    patchify,
    repainted,
    repainted_picture,
    to_pixels,
    unpatchify,
    window_statistics,
)
from tacit.objectives.regions import across_regions, best_match, region_cross_entropy
from tacit.objectives.regression import cosine_distance, normalised_mse
from tacit.objectives.spreading import koleo
from tacit.objectives.supervised_contrastive import (
    MINING,
    anchors,
    labelled_nt_xent,
    multi_similarity,
    supcon,
    triplet_margin,
)
from tacit.objectives.uncertainty import FORMS, uncertain

__all__ = [
    "FORMS",
    "MINING",
    "NCE_FORMS",
    "ORDERS",
    "SINKHORN_OF",
    "across_regions",
    "across_views",
    "anchors",
    "arranged",
    "assigned",
    "assignment_entropy",
    "batch_info_nce",
    "best_match",
    "cosine_distance",
    "covariance",
    "cross_modal_nce",
    "denormalise_patches",
    "divergence_from_uniform",
    "falling_shares",
    "feature_loss",
    "homologous_contrast",
    "homologous_share",
    "info_nce",
    "info_nce_across_views",
    "invariance",
    "koleo",
    "labelled_nt_xent",
    "logit_laplace",
    "masked_cross_entropy",
    "masked_l1",
    "masked_mean",
    "me_max",
    "mean_in_parts",
    "multi_similarity",
    "normalise_patches",
    "normalise_windows",
    "normalised_mse",
    "nt_xent",
    "order_accuracies",
    "order_loss",
    "patchify",
    "preferred",
    "recall_at_1",
    "region_cross_entropy",
    "repainted",
    "repainted_picture",
    "sharpen",
    "sinkhorn",
    "soft_cross_entropy",
    "supcon",
    "to_pixels",
    "token_loss",
    "triplet_margin",
    "uncertain",
    "unpatchify",
    "variance",
    "window_statistics",
]
