"""The audit: what every request leaves behind, and the files that hold it. Format: docs/audit.md."""

from ostiary.audit.files import AuditFiles
from ostiary.audit.log import AuditHealth, FileAuditLog
from ostiary.audit.memory import MemoryAuditLog
from ostiary.audit.record import ExchangeRecord
from ostiary.audit.writer import Sink

__all__ = ["AuditFiles", "AuditHealth", "ExchangeRecord", "FileAuditLog", "MemoryAuditLog", "Sink"]
