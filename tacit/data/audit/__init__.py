from tacit.data.audit.audit import Audit, audit
from tacit.data.audit.stages import Stage

__all__ = ["Audit", "Stage", "audit"]
