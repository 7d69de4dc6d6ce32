"""`ostiary.yaml`: how this proxy runs. Read once, checked whole, frozen (DESIGN section 5)."""

from ostiary.config.agreement import check_agreement
from ostiary.config.loader import CONFIGURATION, load_config
from ostiary.config.model import Config
from ostiary.config.schema import config_schema

__all__ = ["CONFIGURATION", "Config", "check_agreement", "config_schema", "load_config"]
