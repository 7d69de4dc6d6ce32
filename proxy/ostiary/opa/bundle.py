"""A bundle directory, as the builder leaves it: what is needed to know which revision it holds."""

from __future__ import annotations

from pathlib import Path

from ostiary.decision.revision import Revision
from ostiary.strictjson import NotStrict, read_object

_MANIFEST_LIMIT = 1024 * 1024  # bytes


class BundleError(Exception):
    """The directory is not a bundle with a revision. The message is one sentence."""


class BundleDirectory:
    """Read anew at each call, so that a bundle put in the place of another is seen."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def revision(self) -> Revision:
        """The revision in the `.manifest`; raises `BundleError`."""
        manifest = self.path / ".manifest"
        try:
            with manifest.open("rb") as file:
                text = file.read(_MANIFEST_LIMIT)
            document = read_object(text)
        except OSError as error:
            raise BundleError(f"the bundle {self.path} has no manifest that can be read: {error.strerror}") from error
        except NotStrict as error:
            raise BundleError(f"the manifest of the bundle {self.path} cannot be read: {error}") from error
        revision = Revision.parse(document.get("revision"))
        if revision is None:
            raise BundleError(f"the bundle {self.path} has no revision of the form <sequence>-<digest>")
        return revision
