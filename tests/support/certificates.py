"""Authorities and certificates on disk."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Issued:
    """Files of one certificate.

    Attributes:
        authority: of whoever is to trust it.
    """

    certificate: Path
    key: Path
    authority: Path


class Authority:
    """Issues certificates into a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._authority = trustme.CA()
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.file))

    def issue(self, name: str, *hosts: str, is_expired: bool = False) -> Issued:
        """A certificate of these host names in files of this name, which are replaced if they are there."""
        yesterday = datetime.now(UTC) - timedelta(days=1)
        issued = self._authority.issue_cert(*(hosts or (name,)), not_after=yesterday if is_expired else None)
        files = Issued(self._folder / f"{name}.pem", self._folder / f"{name}.key", self.file)
        files.certificate.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(files.key))
        return files
