"""What the upstream receives in place of the caller's own credential."""

from ostiary.credential.jwk import PublicKey, SigningAlgorithm, public_jwks
from ostiary.credential.keys import SigningKey, ensure_signing_key, load_signing_key
from ostiary.credential.minted import MintedSwapper, Minter
from ostiary.credential.swapper import CachingSwapper, Swapper

__all__ = [
    "CachingSwapper",
    "MintedSwapper",
    "Minter",
    "PublicKey",
    "SigningAlgorithm",
    "SigningKey",
    "Swapper",
    "ensure_signing_key",
    "load_signing_key",
    "public_jwks",
]
