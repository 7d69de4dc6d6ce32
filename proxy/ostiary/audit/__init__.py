"""The audit: what every request leaves behind, and the files that hold it. Format: docs/audit.md."""

from ostiary.audit.chain import Chain
from ostiary.audit.checkpoints import Checkpoints
from ostiary.audit.files import CHECKPOINTS, AuditFiles
from ostiary.audit.keys import AuditKeys
from ostiary.audit.log import AuditHealth, FileAuditLog
from ostiary.audit.memory import MemoryAuditLog
from ostiary.audit.record import Completed, ExchangeRecord
from ostiary.audit.syslog import SyslogAddress, SyslogCopy
from ostiary.audit.trail import AuditTrail
from ostiary.audit.writer import Sink

__all__ = [
    "CHECKPOINTS",
    "AuditFiles",
    "AuditHealth",
    "AuditKeys",
    "AuditTrail",
    "Chain",
    "Checkpoints",
    "Completed",
    "ExchangeRecord",
    "FileAuditLog",
    "MemoryAuditLog",
    "Sink",
    "SyslogAddress",
    "SyslogCopy",
]
