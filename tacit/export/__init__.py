from tacit.export.export import TARGETS, export

__all__ = ["TARGETS", "export"]
