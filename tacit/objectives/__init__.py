from tacit.objectives.contrastive import info_nce
from tacit.objectives.distillation import across_views, sharpen, soft_cross_entropy
from tacit.objectives.regions import best_match, region_cross_entropy

__all__ = ["across_views", "best_match", "info_nce", "region_cross_entropy", "sharpen", "soft_cross_entropy"]
