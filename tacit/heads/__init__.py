from tacit.heads.mlp import mlp

__all__ = ["mlp"]
