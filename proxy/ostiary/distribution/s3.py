"""Publishing to an S3-compatible object store: `s3://bucket/key`.

botocore signs, and finds credentials where AWS's own tools do: the environment, files, the machine's or the pod's role.
An object is replaced as a whole, and only if it is still the one that was found (`If-Match`, `If-None-Match`), where
the store knows how to; one that does not (501) is asked without.

The revision and the SHA-256 of the bytes are in the object's metadata, so that who publishes next need not get them.
"""

from __future__ import annotations

from typing import Any, Final

from ostiary.decision.revision import Revision
from ostiary.decision.rollback import MEDIA_TYPE, SUFFIX
from ostiary.distribution.archives import LARGEST, Archive, Examiner
from ostiary.distribution.publishing import Found, PublishFailed, TargetChanged

try:
    import botocore.config
    import botocore.exceptions
    import botocore.session
except ModuleNotFoundError:  # the extra `s3`
    botocore = None

_REVISION: Final = "ostiary-revision"
_DIGEST: Final = "ostiary-sha256"
_CHANGED: Final = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})
_UNKNOWN: Final = frozenset({"NotImplemented", "501"})
_ABSENT: Final = frozenset({"NoSuchKey", "404"})
_DEADLINE: Final = 60  # seconds for one step


class S3Target:
    """Implements `publishing.Target`. `endpoint` is the store's URL, AWS's if None. Raises `PublishFailed`."""

    def __init__(self, bucket: str, key: str, *, endpoint: str | None, ca_file: str | None, examiner: Examiner) -> None:
        if botocore is None:
            raise PublishFailed("an s3:// destination needs botocore: pip install 'ostiary[s3]'")
        self._bucket = bucket
        self._key = key
        self._examiner = examiner
        settings = botocore.config.Config(
            connect_timeout=_DEADLINE,
            read_timeout=_DEADLINE,
            retries={"total_max_attempts": 3},
            s3={"addressing_style": "auto" if endpoint is None else "path"},
        )
        try:
            session = botocore.session.get_session()
            region = session.get_config_variable("region") or "us-east-1"
            self._client = session.create_client(
                "s3", region_name=region, endpoint_url=endpoint, verify=ca_file, config=settings
            )
        except (botocore.exceptions.BotoCoreError, ValueError) as error:
            raise PublishFailed(str(error)) from error

    def find(self) -> Found | None:
        try:
            told = self._ask("head_object")
        except _Refused as refused:
            if refused.code in _ABSENT:
                return None
            raise PublishFailed(refused.line) from refused
        about = told.get("Metadata", {})
        revision, digest = Revision.parse(about.get(_REVISION)), about.get(_DIGEST)
        if revision is not None and digest is not None:
            return Found(revision=revision, digest=digest, token=told.get("ETag"))
        return self._get()

    def _get(self) -> Found:
        """Somebody else's tool has put it there."""
        try:
            told = self._ask("get_object")
            content = told["Body"].read(LARGEST + 1)
        except _Refused as refused:
            raise PublishFailed(refused.line) from refused
        except (botocore.exceptions.BotoCoreError, OSError) as error:
            raise PublishFailed(f"no answer: {error}") from error
        return Found.read(content, self._examiner, token=told.get("ETag"))

    def put(self, archive: Archive, *, instead_of: Found | None, force: bool) -> None:
        request: dict[str, Any] = {
            "Body": archive.content,
            "ContentType": "application/gzip",
            "Metadata": {_REVISION: str(archive.revision), _DIGEST: archive.digest},
        }
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if instead_of is None else {"IfMatch": instead_of.token}
        try:
            try:
                self._ask("put_object", **request, **condition)
            except _Refused as refused:
                if refused.code not in _UNKNOWN:
                    raise
                self._ask("put_object", **request)
        except _Refused as refused:
            if refused.code in _CHANGED:
                raise TargetChanged from refused
            raise PublishFailed(refused.line) from refused

    def put_statement(self, content: bytes) -> None:
        key = f"{self._key}{SUFFIX}"
        try:
            self._ask("put_object", key=key, Body=content, ContentType=MEDIA_TYPE)
        except _Refused as refused:
            raise PublishFailed(refused.line) from refused

    def _ask(self, operation: str, *, key: str | None = None, **arguments: Any) -> Any:
        try:
            return getattr(self._client, operation)(Bucket=self._bucket, Key=key or self._key, **arguments)
        except botocore.exceptions.ClientError as error:
            raise _Refused(error.response.get("Error", {})) from error
        except botocore.exceptions.BotoCoreError as error:
            raise PublishFailed(str(error)) from error


class _Refused(Exception):
    """The store has answered with an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__()
        self.code = str(error.get("Code"))
        message = "".join(each if each.isprintable() else " " for each in str(error.get("Message", ""))[:300])
        self.line = f"the store says {self.code}: {message}"
