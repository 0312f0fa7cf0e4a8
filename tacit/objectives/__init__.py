from tacit.objectives.contrastive import info_nce

__all__ = ["info_nce"]
