"""Just-in-time access: requests, approvals and grants, the stores that keep them, and what workers know of them."""

from ostiary.grants.active import ActiveGrants
from ostiary.grants.board import Board
from ostiary.grants.keeper import Keeper
from ostiary.grants.publisher import GrantFeed, Publisher
from ostiary.grants.service import GrantService
from ostiary.grants.store import GrantStore

__all__ = ["ActiveGrants", "Board", "GrantFeed", "GrantService", "GrantStore", "Keeper", "Publisher"]
